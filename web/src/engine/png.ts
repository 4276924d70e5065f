/** PNG files: pixels as stored, by fast-png. */

import { decode } from 'fast-png'

import { requireFew } from './decode'
import { orientationOf } from './exif'
import type { Picture } from './picture'
import * as text from './text'
import { Refusal } from './types'

const HEADER = { width: 16, height: 20, depth: 24, interlaced: 28, end: 33 }

/** Decode a PNG; palettes are resolved, greys of less than 8 bits spread over 0..255. */
export function decodePng(content: Uint8Array<ArrayBuffer>, file: string): Picture {
  if (content.length < HEADER.end) throw new Refusal(text.unreadable(file))
  const view = new DataView(content.buffer, content.byteOffset)
  const [width, height] = [view.getUint32(HEADER.width), view.getUint32(HEADER.height)]
  requireFew(height * width, file)
  const chunks = chunksOf(content)
  const frames = chunks.get('acTL')
  const pages = frames && frames.length >= 4 ? new DataView(frames.buffer, frames.byteOffset).getUint32(0) : 1
  if (pages > 1) throw new Refusal(text.pages(file, pages))
  if (content[HEADER.depth] < 8 && content[HEADER.interlaced])
    throw new Refusal(text.cannotDecode(file, text.interlaced))
  const decoded = decodedPng(content, file)
  const { depth, palette } = decoded
  const values = depth < 8 ? unpacked(decoded.data, height, width, depth) : (decoded.data as Uint8Array | Uint16Array)
  const turned = orientationOf(chunks.get('eXIf')) !== 1
  if (palette) return { height, width, channels: 3, values: resolved(values, palette, file), white: 255, turned }
  if (depth < 8) for (let i = 0; i < values.length; i++) values[i] *= 255 / (2 ** depth - 1)
  return { height, width, channels: decoded.channels, values, white: 2 ** depth - 1, turned }
}

/** Decode by the package, whose errors all mean the same. */
function decodedPng(content: Uint8Array<ArrayBuffer>, file: string): ReturnType<typeof decode> {
  try {
    return decode(content, { checkCrc: true })
  } catch (error) {
    if (error instanceof RangeError && /allocation|Invalid (typed )?array( buffer)? length/i.test(error.message))
      throw error
    throw new Refusal(text.unreadable(file))
  }
}

/** Return the first chunk of each kind. */
function chunksOf(content: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(content.buffer, content.byteOffset, content.length)
  const found = new Map<string, Uint8Array>()
  for (let place = 8; place + 12 <= content.length;) {
    const length = view.getUint32(place)
    const name = String.fromCharCode(...content.subarray(place + 4, place + 8))
    if (!found.has(name)) found.set(name, content.subarray(place + 8, place + 8 + length))
    place += length + 12
  }
  return found
}

/** Return a byte for each value of rows that are packed. */
function unpacked(data: ArrayLike<number>, height: number, width: number, depth: number): Uint8Array {
  const found = new Uint8Array(height * width)
  const row = Math.ceil((width * depth) / 8)
  const each = 8 / depth
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++)
      found[i] = (data[y * row + Math.floor(x / each)] >> (8 - depth * (1 + (x % each)))) & (2 ** depth - 1)
  return found
}

/** Return the colours [N, 3] of places in a palette; those beyond its end are black. */
function resolved(places: ArrayLike<number>, palette: ArrayLike<number>[], file: string): Uint8Array {
  if (!palette.length) throw new Refusal(text.unreadable(file))
  const found = new Uint8Array(3 * places.length)
  for (let i = 0; i < places.length; i++) {
    const colour = palette[places[i]]
    if (colour) for (let c = 0; c < 3; c++) found[3 * i + c] = colour[c]
  }
  return found
}
