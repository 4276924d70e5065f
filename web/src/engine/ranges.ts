/** Ranges of a training part's inputs, and what of another input lies outside of them; see segzoo's ranges.py. */

import type { ImageContract, VolumeContract } from './contract'
import { axesBetween, orientationOf, spacingOf } from './geometry'
import type { Facts, Ranges } from './model'
import type { Volume } from './nifti'
import type { Pixels } from './picture'
import { featureNames, short, unlike } from './text'
import { momentsOf } from './volumes'

type Features = Record<string, number[]>

const PERCENTILES = [0.01, 0.5, 0.99]
const SEEN = 2 ** 20 // values that percentiles are taken of

/** Return the sentence that an image is unlike those that the model knows, if it is. */
export function strangeImage(pixels: Pixels, facts: Facts, contract: ImageContract, file: string): string[] {
  const { height, width, channels, values } = pixels
  const alike = values.every((value, i) => value === values[i - (i % channels)])
  const features = { channels: [alike ? 1 : channels], size: [height, width], intensity: percentiles(values) }
  const expected: Ranges = {
    intensity: [
      [-Infinity, -Infinity, 1],
      [254, Infinity, Infinity],
    ],
  }
  if (contract.imageSize) expected.size = [contract.imageSize.map((side) => side / 2), [Infinity, Infinity]]
  return strange(features, facts, expected, file)
}

/** Return the sentence that a volume is unlike those that the model knows, if it is. */
export function strangeVolume(volume: Volume, facts: Facts, contract: VolumeContract, file: string): string[] {
  const axes = axesBetween(orientationOf(volume.geometry), contract.orientation).map(({ axis }) => axis)
  const spacing = spacingOf(volume.geometry)
  const voxels = volume.values.length / volume.channels
  const intensity = contract.intensities.flatMap((how, channel) => {
    const plane = volume.values.subarray(channel * voxels, (channel + 1) * voxels)
    const { mean, std } = how.kind === 'window' ? { mean: 0, std: 1 } : momentsOf(plane)
    return percentiles(plane).map((value) => rounded((value - mean) / std))
  })
  const size = axes.map((axis) => volume.geometry.shape[axis])
  const features = { size, spacing: axes.map((axis) => rounded(spacing[axis])), intensity }
  const windows = contract.intensities.map((how) => (how.kind === 'window' ? how.window : [-Infinity, Infinity]))
  const expected: Ranges = {
    intensity: [
      windows.flatMap(([low]) => [-Infinity, -Infinity, low]),
      windows.flatMap(([, high]) => [high, Infinity, Infinity]),
    ],
  }
  if (contract.spacing)
    expected.spacing = [contract.spacing.map((side) => side / 2), contract.spacing.map((side) => side * 2)]
  return strange(features, facts, expected, file)
}

/** Return what of an input lies outside of the training's ranges or, where these were not kept, of the contract's. */
function strange(features: Features, facts: Facts, expected: Ranges, file: string): string[] {
  const trained = Object.keys(facts.ranges).length > 0
  const ranges = trained ? facts.ranges : expected
  const found = Object.entries(features).flatMap(([name, values]) => {
    const range = ranges[name]
    if (!range || range[0].length !== values.length) return []
    const [low, high] = range
    if (values.every((value, i) => low[i] <= value && value <= high[i])) return []
    const between = name === 'intensity' ? ', ' : ' x '
    const known = low.map((least, i) => bounds(least, high[i])).join(between)
    return [`${featureNames[name] ?? name} ${values.map(short).join(between)} (${known})`]
  })
  return found.length ? [unlike(file, found, trained)] : []
}

/** Return percentiles of intensities, of every so many where they are many. */
function percentiles(values: ArrayLike<number>): number[] {
  const step = Math.max(1, Math.floor(values.length / SEEN))
  const some = Float64Array.from({ length: Math.ceil(values.length / step) }, (_, i) => values[i * step]).sort()
  return PERCENTILES.map((part) => {
    const place = part * (some.length - 1)
    const below = Math.floor(place)
    return rounded(some[below] + (place - below) * ((some[below + 1] ?? some[below]) - some[below]))
  })
}

const rounded = (value: number): number => Number(value.toPrecision(4))

/** Return a range in words. */
function bounds(low: number, high: number): string {
  if (low === high) return short(low)
  return [low, high].map((one) => (Number.isFinite(one) ? short(one) : '')).join('..')
}
