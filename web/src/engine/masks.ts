/** Way from probabilities to a mask, as segzoo's tasks have it. */

import type { Facts } from './model'
import { gaveNothing } from './text'
import { Refusal } from './types'

const PROBABILITY = 1e-2 // by which runtimes may differ
const PIXELS = 5e-4 // part of a mask that may

/** Return the class of each pixel, of probabilities [K, *S]; null where each class has a mask of its own. */
export function maskOf(
  probabilities: Float32Array,
  { planes, multilabel }: Facts,
  thresholds: number[],
): Uint8Array<ArrayBuffer> | null {
  if (multilabel) return null
  const mask = new Uint8Array(probabilities.length / planes)
  if (planes === 1) {
    const least = Math.fround(thresholds[0])
    for (let i = 0; i < mask.length; i++) mask[i] = probabilities[i] > least ? 1 : 0
    return mask
  }
  const even = thresholds.every((threshold) => threshold === 0.5)
  const factors = thresholds.map((value) => Math.fround(Math.fround(1 - Math.fround(value)) / Math.fround(value)))
  const best = probabilities.slice(0, mask.length)
  if (!even) for (let i = 0; i < best.length; i++) best[i] *= factors[0]
  for (let plane = 1; plane < planes; plane++)
    for (let i = 0, from = plane * mask.length; i < mask.length; i++) {
      const value = even ? probabilities[from + i] : Math.fround(probabilities[from + i] * factors[plane])
      if (value > best[i]) {
        best[i] = value
        mask[i] = plane
      }
    }
  return mask
}

/** Refuse probabilities that make no mask: comparisons with NaN are false, so that it would be an empty one. */
export function refuseNaN(probabilities: Float32Array, model: string): void {
  let sum = 0
  for (let i = 0; i < probabilities.length; i++) sum += probabilities[i]
  if (!Number.isFinite(sum)) throw new Refusal(gaveNothing(model))
}

/** Return whether two runtimes give as good as the same probabilities, and as good as the same mask. */
export function alike(one: Float32Array, other: Float32Array, facts: Facts, thresholds: number[]): boolean {
  for (let i = 0; i < one.length; i++) if (!(Math.abs(one[i] - other[i]) <= PROBABILITY)) return false
  const [found, wanted] = [one, other].map((values) => maskOf(values, facts, thresholds) ?? above(values, thresholds))
  const differ = found.reduce((count, value, i) => count + (value === wanted[i] ? 0 : 1), 0)
  return one.length === other.length && differ <= PIXELS * found.length
}

/** Return 1 where a plane's probability is above its threshold. */
function above(values: Float32Array, thresholds: number[]): Uint8Array {
  const pixels = values.length / thresholds.length
  return Uint8Array.from(values, (value, i) => (value > Math.fround(thresholds[Math.floor(i / pixels)]) ? 1 : 0))
}
