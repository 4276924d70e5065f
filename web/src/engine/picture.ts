/** Decoded pictures, and what a network sees of them: 8 bits a channel, without alpha, as segzoo has it. */

import * as text from './text'
import { Refusal } from './types'

/** Decoded picture on its stored grid; 0 is black. */
export interface Picture {
  height: number
  width: number
  channels: number
  /** [H, W, C] */
  values: Uint8Array | Uint8ClampedArray | Uint16Array | Float32Array | Float64Array
  /** Intensity of white in values of 16 bits. */
  white: number
  /** True where viewers turn or mirror it. */
  turned: boolean
}

/** Pixels of 8 bits [H, W, C], as many channels as a model takes. */
export interface Pixels {
  height: number
  width: number
  channels: number
  values: Uint8Array | Uint8ClampedArray
}

const GREY = [0.299, 0.587, 0.114] // ITU-R 601

/** Round a half to the even number, as NumPy does. */
export function roundEven(value: number): number {
  const rounded = Math.round(value)
  return rounded - value === 0.5 && rounded % 2 !== 0 ? rounded - 1 : rounded
}

/**
 * Return what is seen of a picture; adds to `warnings` what a person should know.
 *
 * Alpha is dropped, 16 bits are scaled by their full range or by `range`, and grey and RGB become each other.
 */
export function seen(
  picture: Picture,
  channels: number,
  range: number[] | null,
  file: string,
  warnings: string[],
): Pixels {
  if (picture.turned) warnings.push(text.turned(file))
  const opaque = withoutAlpha(picture, channels)
  const values =
    range && !(opaque.values.BYTES_PER_ELEMENT === 1)
      ? scaled(opaque, range, file, warnings)
      : eightBits(opaque, file, warnings)
  return matched({ ...opaque, values }, channels, file)
}

/** Leave out alpha, of grey always, of colours where the model takes grey or RGB. */
function withoutAlpha(picture: Picture, channels: number): Picture {
  const { channels: found, values } = picture
  if (found !== 2 && !(found === 4 && (channels === 1 || channels === 3))) return picture
  const kept = found - 1
  const count = picture.height * picture.width
  const opaque = new (values.constructor as new (length: number) => typeof values)(count * kept)
  for (let i = 0; i < count; i++) for (let c = 0; c < kept; c++) opaque[i * kept + c] = values[i * found + c]
  return { ...picture, channels: kept, values: opaque }
}

/** Bring intensities to 0..255. */
function eightBits(picture: Picture, file: string, warnings: string[]): Uint8Array | Uint8ClampedArray {
  const { values } = picture
  if (values instanceof Uint8Array || values instanceof Uint8ClampedArray) return values
  if (values instanceof Uint16Array) return sixteenBits(picture, values, file, warnings)
  const [low, high] = extremes(values, file)
  if (low < 0 || high > 255) throw new Refusal(text.outsideOfRange(file, low, high))
  if (high > 1 && high < 2) throw new Refusal(text.neitherScale(file, high))
  const fractions = high > 0 && high <= 1
  if (fractions) warnings.push(text.readAsFractions(file))
  const scale = fractions ? 255 : 1
  const exact = values instanceof Float32Array ? Math.fround : (value: number) => value
  return Uint8Array.from(values, (value) => roundEven(exact(value * scale)))
}

/** Bring 16 bits to 8: greys by the value of white, colours, as segzoo has them from Pillow, by their high byte. */
function sixteenBits({ channels, white }: Picture, values: Uint16Array, file: string, warnings: string[]): Uint8Array {
  const high = channels > 1
  let brightest = 0
  for (let i = 0; i < values.length; i++)
    if (values[i] > brightest && !(channels === 4 && i % 4 === 3)) brightest = values[i]
  if (high) brightest |= 255
  if (brightest > 0 && brightest <= Math.floor(white / 16)) throw new Refusal(text.nearlyBlack(file, brightest, white))
  if (brightest > 0 && brightest <= Math.floor(white / 2)) warnings.push(text.dark(file, brightest, white))
  return Uint8Array.from(values, high ? (value) => value >> 8 : (value) => roundEven(value / (white / 255)))
}

/** Bring stored values of a range to 0..255, and what lies outside to the nearer end. */
function scaled({ values }: Picture, range: number[], file: string, warnings: string[]): Uint8Array {
  const [least, most] = extremes(values, file)
  const [low, high] = range
  if (most < low || least > high) warnings.push(text.outOfView(file, least, most, range))
  const exact = values.BYTES_PER_ELEMENT > 2 ? (value: number) => value : Math.fround
  const scale = exact(255 / (high - low))
  const bottom = exact(low)
  return Uint8Array.from(values, (value) =>
    roundEven(Math.min(255, Math.max(0, exact(exact(value - bottom) * scale)))),
  )
}

/** Return the lowest and the highest value; refuses those that are not finite. */
function extremes(values: ArrayLike<number>, file: string): [low: number, high: number] {
  let [low, high] = [Infinity, -Infinity]
  for (let i = 0; i < values.length; i++) {
    if (!Number.isFinite(values[i])) throw new Refusal(text.notFinite(file))
    low = Math.min(low, values[i])
    high = Math.max(high, values[i])
  }
  return [low, high]
}

/** Go between grey and RGB where that is what it takes. */
function matched({ height, width, channels, values }: Pixels, wanted: number, file: string): Pixels {
  const count = height * width
  if (channels === wanted) return { height, width, channels, values }
  const found = new Uint8Array(count * wanted)
  if (channels === 1 && wanted === 3) {
    for (let i = 0; i < count; i++) found.fill(values[i], 3 * i, 3 * i + 3)
  } else if (channels === 3 && wanted === 1) {
    for (let i = 0; i < count; i++)
      found[i] = roundEven(GREY[0] * values[3 * i] + GREY[1] * values[3 * i + 1] + GREY[2] * values[3 * i + 2])
  } else throw new Refusal(text.channelsDiffer(file, channels, wanted))
  return { height, width, channels: wanted, values: found }
}

/** Return pixels as the document draws them, opaque. */
export function toRgba({ height, width, channels, values }: Pixels): Uint8ClampedArray<ArrayBuffer> {
  const found = new Uint8ClampedArray(4 * height * width)
  const [red, green, blue] = channels >= 3 ? [0, 1, 2] : [0, 0, 0]
  for (let i = 0, from = 0, to = 0; i < height * width; i++, from += channels, to += 4) {
    found[to] = values[from + red]
    found[to + 1] = values[from + green]
    found[to + 2] = values[from + blue]
    found[to + 3] = 255
  }
  return found
}
