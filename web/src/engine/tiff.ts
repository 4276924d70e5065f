/** TIFF files: pixels as stored, by the package tiff; what it would read wrongly is refused. */

import { decode, type TiffIfd } from 'tiff'

import { requireFew } from './decode'
import { orientationOf, unturned } from './exif'
import type { Picture } from './picture'
import * as text from './text'
import { Refusal } from './types'

const [WHITE_IS_ZERO, PALETTE] = [0, 3]
const [SEPARATE_PLANES, FROM_THE_LAST_BIT, UNSIGNED, FLOAT] = [2, 2, 1, 3]

/** Decode a TIFF of one page; palettes are resolved, and black is 0. */
export function decodeTiff(content: Uint8Array<ArrayBuffer>, file: string): Picture {
  const [page, ...others] = tried(() => decode(content, { ignoreImageData: true }), file)
  if (others.length) throw new Refusal(text.pages(file, 1 + others.length))
  const { width, height } = page
  requireFew(height * width, file)
  const why = strange(page)
  if (why) throw new Refusal(text.cannotDecode(file, why))
  const [whole] = tried(() => decode(unturned(content)), file)
  const turned = orientationOf(content) !== 1
  const { data, palette, components, bitsPerSample } = whole
  if (data.length !== width * height * components) throw new Refusal(text.unreadable(file))
  if (palette) return { height, width, channels: 3, values: resolved(data, palette), white: 255, turned }
  const values = bitsPerSample === 1 ? data.map((bit) => 255 * bit) : data
  return { height, width, channels: components, values, white: 65535, turned }
}

/** Decode by the package, whose errors all mean the same. */
function tried(what: () => TiffIfd[], file: string): TiffIfd[] {
  try {
    const found = what()
    if (found.length) return found
  } catch (error) {
    if (error instanceof Error && /^Unsupported/.test(error.message))
      throw new Refusal(text.cannotDecode(file, text.rareTiff))
    if (error instanceof RangeError && /allocation/i.test(error.message)) throw error
  }
  throw new Refusal(text.unreadable(file))
}

/** Return, in words, what the package does not know of a page; "" where it reads it well. */
function strange(page: TiffIfd): string {
  const several = page.components > 1
  const bits = page.get('BitsPerSample')
  if (page.type === undefined) return text.noPhotometric
  if (typeof bits === 'object' && new Set(bits).size > 1) return text.rareTiff
  if (several && (page.planarConfiguration === SEPARATE_PLANES || page.tiled)) return text.rareTiff
  if (page.fillOrder === FROM_THE_LAST_BIT || page.associatedAlpha) return text.rareTiff
  const float = page.sampleFormat === FLOAT
  if (page.sampleFormat !== UNSIGNED && !float) return text.signed
  if (float && page.type === WHITE_IS_ZERO) return text.negative
  return page.type === PALETTE && page.bitsPerSample > 8 ? text.rareTiff : ''
}

/** Return the colours [N, 3] of places in a palette of 16 bits. */
function resolved(places: ArrayLike<number>, palette: number[][]): Uint8Array {
  const found = new Uint8Array(3 * places.length)
  for (let i = 0; i < places.length; i++) for (let c = 0; c < 3; c++) found[3 * i + c] = palette[places[i]][c] >> 8
  return found
}
