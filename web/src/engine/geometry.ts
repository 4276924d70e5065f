/** Place of a volume's voxels in the body; arrays are [D, H, W], a file's axes in reverse. */

import * as text from './text'
import { Refusal } from './types'

/** Row of an affine: from voxel indices [d, h, w, 1] to millimetres to the patient's right, anterior or superior. */
type Row = [number, number, number, number]
export type Affine = [Row, Row, Row]

export interface Geometry {
  shape: [number, number, number]
  affine: Affine
}

const OPPOSITE: Record<string, string> = { R: 'L', L: 'R', A: 'P', P: 'A', S: 'I', I: 'S' }
const PERMUTATIONS = [
  [0, 1, 2],
  [0, 2, 1],
  [1, 0, 2],
  [1, 2, 0],
  [2, 0, 1],
  [2, 1, 0],
]
const AXES = [0, 1, 2]

/** Return millimetres between voxels along (d, h, w). */
export function spacingOf({ affine }: { affine: Affine }): [number, number, number] {
  const length = (axis: number): number => Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis])
  return [length(0), length(1), length(2)]
}

/** Return the direction of the body nearest to each axis: "SAR" leads to superior, anterior and right. */
export function orientationOf(geometry: Geometry): string {
  const spacing = spacingOf(geometry)
  const directions = geometry.affine.map((row) => AXES.map((axis) => row[axis] / spacing[axis]))
  const nearness = (permutation: number[]): number =>
    permutation.reduce((sum, row, axis) => sum + Math.abs(directions[row][axis]), 0)
  let best = PERMUTATIONS[0]
  for (const one of PERMUTATIONS) if (nearness(one) > nearness(best)) best = one
  return best.map((row, axis) => (directions[row][axis] > 0 ? 'RAS'[row] : OPPOSITE['RAS'[row]])).join('')
}

/** Return, for each target axis, the source axis it is, and whether it leads the other way. */
export function axesBetween(source: string, target: string): { axis: number; mirrored: boolean }[] {
  return [...target].map((letter) => ({
    axis: [...source].findIndex((one) => one === letter || one === OPPOSITE[letter]),
    mirrored: !source.includes(letter),
  }))
}

/** Permute and mirror the axes of planes [C, D, H, W] from one orientation to another; no value changes. */
export function reoriented(
  values: Float32Array,
  shape: readonly number[],
  source: string,
  target: string,
): { values: Float32Array<ArrayBuffer>; shape: [number, number, number] } {
  const moves = axesBetween(source, target)
  const [depth, height, width] = moves.map(({ axis }) => shape[axis])
  const steps = [shape[1] * shape[2], shape[2], 1]
  const voxels = shape[0] * shape[1] * shape[2]
  const step = moves.map(({ axis, mirrored }) => (mirrored ? -steps[axis] : steps[axis]))
  const corner = moves.reduce((sum, { axis, mirrored }) => sum + (mirrored ? (shape[axis] - 1) * steps[axis] : 0), 0)
  const found = new Float32Array(values.length)
  let to = 0
  for (let from = corner; to < found.length; from += voxels)
    for (let d = 0; d < depth; d++)
      for (let h = 0; h < height; h++)
        for (let w = 0, at = from + d * step[0] + h * step[1]; w < width; w++, at += step[2]) found[to++] = values[at]
  return { values: found, shape: [depth, height, width] }
}

/** Refuse voxels without a size. */
export function checkSpacing(spacing: number[], file: string): void {
  if (!spacing.every((side) => side > 0 && side < Infinity)) throw new Refusal(text.noSpacing(file, spacing))
}

/** Refuse axes that are not at right angles. */
export function checkDirections(affine: Affine, file: string): void {
  const spacing = spacingOf({ affine })
  const cosine = (one: number, other: number): number =>
    affine.reduce((sum, row) => sum + (row[one] / spacing[one]) * (row[other] / spacing[other]), 0)
  for (const [one, other] of [
    [0, 1],
    [0, 2],
    [1, 2],
  ])
    if (!(Math.abs(cosine(one, other)) < 1e-3)) throw new Refusal(text.skewed(file)) // also refuses NaN
}
