/** Images: from pixels to probabilities on their own grid. */

import type { ImageContract } from './contract'
import { GRAPH_PIXELS } from './limits'
import type { ModelFile } from './model'
import type { Pixels } from './picture'
import { resized } from './resize'
import type { Network } from './session'
import { otherSize } from './text'
import { Refusal } from './types'

/** Return probabilities [K, H, W] of an image; the graph normalises it, and resizes it unless it takes one size. */
export async function segmentImage(
  pixels: Pixels,
  contract: ImageContract,
  { onnx }: ModelFile,
  network: Network,
  file: string,
): Promise<Float32Array<ArrayBuffer>> {
  const { height, width } = pixels
  const size = sizeOf([height, width], contract, onnx.sides, file)
  const planes = planesOf(pixels)
  const input = size ? resized(planes, [height, width], size) : planes
  const found = await network.run(input, [1, contract.channels, ...(size ?? [height, width])])
  const [ownHeight, ownWidth] = found.shape.slice(2)
  if (ownHeight === height && ownWidth === width) return found.values.slice()
  return resized(found.values, [ownHeight, ownWidth], [height, width])
}

/** Return the size that an image is brought to before the graph; null for its own. */
function sizeOf(own: number[], { imageSize }: ImageContract, taken: number[] | null, file: string): number[] | null {
  const same = (one: number[] | null, other: number[] | null): boolean => String(one) === String(other)
  if (taken && !same(taken, own) && !same(taken, imageSize)) throw new Refusal(otherSize(file, own, taken))
  const size = taken ?? (own[0] * own[1] > GRAPH_PIXELS ? imageSize : null)
  return same(size, own) ? null : size
}

/** Return pixels [H, W, C] as planes [C, H, W]. */
function planesOf({ height, width, channels, values }: Pixels): Float32Array {
  const count = height * width
  const planes = new Float32Array(values.length)
  for (let i = 0; i < count; i++) for (let c = 0; c < channels; c++) planes[c * count + i] = values[i * channels + c]
  return planes
}
