/** Volumes: from intensities to probabilities on their own grid, by a sliding window. */

import type { Intensity, VolumeContract } from './contract'
import { axesBetween, orientationOf, reoriented, spacingOf } from './geometry'
import type { ModelFile } from './model'
import type { Volume } from './nifti'
import { roundEven } from './picture'
import type { Network } from './session'
import * as text from './text'
import { Refusal } from './types'

type Sides = [number, number, number]

const OVERLAP = 0.5 // part of its length that a window shares with the next one

/** Return probabilities [K, D, H, W] of a volume on its own grid; refuses one that would have to be resampled. */
export async function segmentVolume(
  { values, channels, geometry }: Volume,
  contract: VolumeContract,
  { onnx, facts }: ModelFile,
  network: Network,
  file: string,
): Promise<Float32Array<ArrayBuffer>> {
  const own = orientationOf(geometry)
  const turned = reoriented(values, geometry.shape, own, contract.orientation)
  const spacing = axesBetween(own, contract.orientation).map(({ axis }) => spacingOf(geometry)[axis])
  requireOwnGrid(turned.shape, spacing, contract, file)
  if (onnx.sides?.some((side, axis) => turned.shape[axis] < side))
    throw new Refusal(text.smallerThanWindow(file, turned.shape, onnx.sides))
  normalize(turned.values, contract.intensities)
  const patch = onnx.sides ?? contract.patchSize
  const window = turned.shape.map((side, axis) => Math.min(side, patch[axis])) as Sides
  const run = async (box: Float32Array): Promise<Float32Array> =>
    (await network.run(box, [1, channels, ...window])).values
  const found =
    String(window) === String(turned.shape)
      ? await run(turned.values)
      : await slid(turned.values, channels, turned.shape, window, facts.planes, run)
  return reoriented(found, turned.shape, contract.orientation, own).values
}

/** Refuse a volume whose grid at the network's spacing is another than its own. */
function requireOwnGrid(shape: Sides, spacing: number[], contract: VolumeContract, file: string): void {
  const wanted = contract.spacing
  if (!wanted) return
  const same = shape.every((side, axis) => Math.max(1, roundEven((side * spacing[axis]) / wanted[axis])) === side)
  if (!same) throw new Refusal(text.needsResampling(file, spacing, wanted))
}

/** Bring intensities [C, *S] to the network's range, in place; a constant channel becomes 0. */
function normalize(values: Float32Array, intensities: Intensity[]): void {
  const voxels = values.length / intensities.length
  intensities.forEach((how, channel) => {
    const plane = values.subarray(channel * voxels, (channel + 1) * voxels)
    const { mean, std, low, high } =
      how.kind === 'window'
        ? { mean: how.mean, std: how.std, low: how.window[0], high: how.window[1] }
        : { ...momentsOf(plane), low: -Infinity, high: Infinity }
    const [middle, width] = [Math.fround(mean), Math.fround(std)]
    for (let i = 0; i < plane.length; i++)
      plane[i] = Math.fround(Math.fround(Math.min(high, Math.max(low, plane[i]))) - middle) / width
  })
}

/** Return mean and standard deviation, 1 where all values are alike. */
export function momentsOf(values: Float32Array): { mean: number; std: number } {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  const mean = sum / values.length
  let squares = 0
  for (let i = 0; i < values.length; i++) squares += (values[i] - mean) ** 2
  return { mean, std: Math.fround(Math.sqrt(squares / values.length)) || 1 }
}

// ---- the sliding window

/** Return probabilities of a volume [C, *S], windows averaged by a Gaussian, in the order in which segzoo adds them. */
async function slid(
  values: Float32Array,
  channels: number,
  shape: Sides,
  window: Sides,
  planes: number,
  run: (box: Float32Array) => Promise<Float32Array>,
): Promise<Float32Array<ArrayBuffer>> {
  const weights = windowWeights(window)
  const voxels = shape[0] * shape[1] * shape[2]
  const sums = new Float32Array(planes * voxels)
  const totals = new Float32Array(voxels)
  const [deep, high, wide] = shape.map((side, axis) => startsOf(side, window[axis]))
  const box = new Float32Array(channels * weights.length)
  for (const d of deep)
    for (const h of high)
      for (const w of wide) {
        const corner: Sides = [d, h, w]
        for (let channel = 0; channel < channels; channel++)
          eachRow(shape, window, corner, (from, to, length) => {
            box.set(
              values.subarray(channel * voxels + from, channel * voxels + from + length),
              channel * weights.length + to,
            )
          })
        const found = await run(box)
        for (let plane = 0; plane < planes; plane++)
          eachRow(shape, window, corner, (at, inside, length) => {
            for (let i = 0; i < length; i++)
              sums[plane * voxels + at + i] += Math.fround(
                found[plane * weights.length + inside + i] * weights[inside + i],
              )
          })
        eachRow(shape, window, corner, (at, inside, length) => {
          for (let i = 0; i < length; i++) totals[at + i] += weights[inside + i]
        })
      }
  for (let i = 0; i < sums.length; i++) sums[i] /= totals[i % voxels]
  return sums
}

/** Go through a window row by row: where the row begins in the volume, where in the window, and its length. */
function eachRow(
  shape: Sides,
  window: Sides,
  corner: Sides,
  visit: (at: number, inside: number, length: number) => void,
): void {
  for (let d = 0; d < window[0]; d++)
    for (let h = 0; h < window[1]; h++)
      visit(
        ((corner[0] + d) * shape[1] + corner[1] + h) * shape[2] + corner[2],
        (d * window[1] + h) * window[2],
        window[2],
      )
}

/** Return where windows start along an axis; the last one ends with it. */
function startsOf(side: number, window: number): number[] {
  const step = Math.max(1, Math.trunc(window * (1 - OVERLAP)))
  const found: number[] = []
  for (let start = 0; start < side - window; start += step) found.push(start)
  return [...found, side - window]
}

/** Return a Gaussian over a window, 1 at its centre, its standard deviation an eighth of each side. */
function windowWeights(window: Sides): Float32Array {
  const along = window.map((side) =>
    Float32Array.from({ length: side }, (_, i) => Math.exp(-(((i - (side - 1) / 2) / (side / 8)) ** 2) / 2)),
  )
  const found = new Float32Array(window[0] * window[1] * window[2])
  for (let d = 0, i = 0; d < window[0]; d++)
    for (let h = 0; h < window[1]; h++) {
      const row = Math.fround(along[0][d] * along[1][h])
      for (let w = 0; w < window[2]; w++) found[i++] = row * along[2][w]
    }
  return found
}

// ---- to be looked at

/** Return the first channel as the document draws it: grey, from the 0.5th to the 99.5th percentile. */
export function volumePicture({ values, channels }: Volume): Uint8ClampedArray<ArrayBuffer> {
  const plane = values.subarray(0, values.length / channels)
  const step = Math.max(1, Math.floor(plane.length / 2 ** 20))
  const some = Float32Array.from({ length: Math.ceil(plane.length / step) }, (_, i) => plane[i * step]).sort()
  let [low, high] = [0.005, 0.995].map((part) => some[Math.round(part * (some.length - 1))])
  if (low === high) [low, high] = [some[0], some[some.length - 1]]
  const scale = low === high ? 0 : 255 / (high - low)
  const found = new Uint8ClampedArray(4 * plane.length).fill(255)
  for (let i = 0; i < plane.length; i++) found.fill((plane[i] - low) * scale, 4 * i, 4 * i + 3)
  return found
}
