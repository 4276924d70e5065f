/** Files of pictures -> pixels as stored: no turn, no colour profile and no alpha is applied. */

import { IMAGE_PIXELS } from './limits'
import { bmpSize } from './bmp'
import { plainJpeg } from './jpeg'
import type { Picture } from './picture'
import { decodePng } from './png'
import * as text from './text'
import { decodeTiff } from './tiff'
import { Refusal } from './types'

/** Return whether bytes are those of a PNG, JPEG, TIFF or BMP, whatever the file is called. */
export function isPicture(content: Uint8Array): boolean {
  return kindOf(content) !== null
}

/** Decode a picture's file. */
export async function decode(content: Uint8Array<ArrayBuffer>, file: string): Promise<Picture> {
  switch (kindOf(content)) {
    case 'png':
      return decodePng(content, file)
    case 'tiff':
      return decodeTiff(content, file)
    case 'jpeg': {
      const jpeg = plainJpeg(content, file)
      requireFew(jpeg.height * jpeg.width, file)
      return { ...(await byBrowser(jpeg.content, 'image/jpeg', file)), turned: jpeg.turned }
    }
    case 'bmp': {
      const [height, width] = bmpSize(content, file)
      requireFew(height * width, file)
      return byBrowser(content, 'image/bmp', file)
    }
    default:
      throw new Refusal(text.otherKind(file))
  }
}

/** Refuse more pixels than the limit. */
export function requireFew(pixels: number, file: string): void {
  if (!(pixels <= IMAGE_PIXELS)) throw new Refusal(text.tooManyPixels(file, pixels, IMAGE_PIXELS))
}

/** Return what kind of picture bytes are. */
function kindOf(content: Uint8Array): 'png' | 'jpeg' | 'tiff' | 'bmp' | null {
  const starts = (...bytes: number[]): boolean => bytes.every((byte, i) => content[i] === byte)
  if (starts(0x89, 0x50, 0x4e, 0x47, 13, 10, 26, 10)) return 'png'
  if (starts(0xff, 0xd8, 0xff)) return 'jpeg'
  if (starts(0x49, 0x49, 42, 0) || starts(0x4d, 0x4d, 0, 42)) return 'tiff'
  return starts(0x42, 0x4d) ? 'bmp' : null
}

/** Decode by the browser what it decodes to the stored pixels: opaque pictures of 8 bits. */
async function byBrowser(content: Uint8Array<ArrayBuffer>, type: string, file: string): Promise<Picture> {
  let bitmap: ImageBitmap
  try {
    bitmap = await createImageBitmap(new Blob([content], { type }), {
      imageOrientation: 'none',
      colorSpaceConversion: 'none',
      premultiplyAlpha: 'none',
    })
  } catch {
    throw new Refusal(text.unreadable(file))
  }
  const { height, width } = bitmap
  const rgba = pixelsOf(bitmap, height, width)
  bitmap.close()
  const values = new Uint8Array(3 * height * width)
  for (let i = 0; i < height * width; i++) {
    if (rgba[4 * i + 3] !== 255) throw new Refusal(text.cannotDecode(file, text.transparent))
    values.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i)
  }
  return { height, width, channels: 3, values, white: 255, turned: false }
}

/** Return the pixels [H, W, 4] of what can be drawn. */
export function pixelsOf(source: CanvasImageSource, height: number, width: number): Uint8ClampedArray {
  const context = new OffscreenCanvas(width, height).getContext('2d', {
    willReadFrequently: true,
    colorSpace: 'srgb',
  })!
  context.drawImage(source, 0, 0)
  return context.getImageData(0, 0, width, height).data
}
