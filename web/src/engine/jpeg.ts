/** JPEG files: what a browser needs of them to give the pixels as stored, and nothing by which it would change them. */

import { orientationOf } from './exif'
import * as text from './text'
import { Refusal } from './types'

interface PlainJpeg {
  height: number
  width: number
  turned: boolean
  /** File without EXIF and colour profile: no browser turns it, or changes its colours. */
  content: Uint8Array<ArrayBuffer>
}

const [START_OF_SCAN, END, APP1, APP2] = [0xda, 0xd9, 0xe1, 0xe2]
const NO_FRAMES = [0xc4, 0xc8, 0xcc] // markers among those of frames that are none

/** Read the segments before the pixels, and leave out those that would change these. */
export function plainJpeg(content: Uint8Array<ArrayBuffer>, file: string): PlainJpeg {
  const view = new DataView(content.buffer, content.byteOffset, content.length)
  const kept: Uint8Array<ArrayBuffer>[] = [content.subarray(0, 2)]
  let [height, width, turned] = [0, 0, false]
  let place = 2
  while (place + 4 <= content.length) {
    const marker = content[place + 1]
    if (content[place] !== 0xff || marker === START_OF_SCAN) break
    if (marker === 0xff) {
      place++ // filled up
      continue
    }
    const end = place + 2 + view.getUint16(place + 2)
    const segment = content.subarray(place, end)
    if (marker >= 0xc0 && marker <= 0xcf && !NO_FRAMES.includes(marker) && segment.length >= 10) {
      ;[height, width] = [view.getUint16(place + 5), view.getUint16(place + 7)]
      if (segment[9] === 4) throw new Refusal(text.cannotDecode(file, text.cmyk))
    }
    if (marker === APP1 && isExif(segment)) turned ||= orientationOf(segment.subarray(10)) !== 1
    if (marker !== APP1 && marker !== APP2) kept.push(segment)
    place = end
  }
  if (!height || !width || content[place + 1] !== START_OF_SCAN || !ends(content.subarray(place)))
    throw new Refusal(text.unreadable(file))
  kept.push(content.subarray(place))
  return { height, width, turned, content: joined(kept) }
}

/** Return whether pixels come to their end, for browsers fill up with grey: no other 0xff has this next to it. */
function ends(pixels: Uint8Array): boolean {
  for (let i = pixels.lastIndexOf(END); i > 0; i = pixels.lastIndexOf(END, i - 1))
    if (pixels[i - 1] === 0xff) return true
  return false
}

/** Return whether a segment of APP1 is EXIF. */
function isExif(segment: Uint8Array): boolean {
  return String.fromCharCode(...segment.subarray(4, 10)) === 'Exif\0\0'
}

/** Return parts as one array. */
function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let place = 0
  for (const part of parts) {
    found.set(part, place)
    place += part.length
  }
  return found
}
