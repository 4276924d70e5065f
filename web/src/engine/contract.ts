/** Input contracts, as the metadata of a file have them: what an image or a volume becomes before the network. */

import {
  type Entries,
  isCount,
  isListOf,
  isNumberIn,
  isWhole,
  isWord,
  require,
  requireKnown,
  Strange,
} from './entries'
import { NETWORK_INPUT } from './limits'
import { tooMany } from './text'

/** What is done to the intensities of one channel of a volume. */
export type Intensity = { kind: 'zscore' } | { kind: 'window'; window: [number, number]; mean: number; std: number }

export interface ImageContract {
  dimensions: 2
  channels: number
  /** Height and width that the network sees; null keeps the image's own. */
  imageSize: number[] | null
  /** Of more than 8 bits, the stored values that become 0 and 255. */
  intensityRange: number[] | null
}

export interface VolumeContract {
  dimensions: 3
  channels: number
  /** Where the network's axes lead to, as "SAR". */
  orientation: string
  /** Millimetres between the network's voxels; null keeps the volume's own. */
  spacing: number[] | null
  /** Sides of a window. */
  patchSize: number[]
  /** Of each channel. */
  intensities: Intensity[]
}

export type Contract = ImageContract | VolumeContract

const MOST = 1e9 // of intensities and lengths; far outside what scanners give, far inside what float32 holds
const LEAST = 1e-9
const IMAGE = ['channels', 'image_size', 'mean', 'std', 'intensity_range']
const VOLUME = [
  'channels',
  'orientation',
  'spacing',
  'patch_size',
  'intensity',
  'window',
  'mean',
  'std',
  'mirror_axes',
]
const isIntensity = isNumberIn(-MOST, MOST)
const isPositive = isNumberIn(LEAST, MOST)
const isOrientation = (value: unknown): value is string =>
  isWord(value) &&
  value.length === 3 &&
  ['LR', 'PA', 'IS'].every(([one, other]) => value.includes(one) || value.includes(other))

/** Read a contract for images or, where it names a patch size, for volumes. */
export function readContract(stored: Entries): Contract {
  require('channels', isCount, 'a whole number above 0', stored.channels)
  return 'patch_size' in stored ? volumeContract(stored, stored.channels) : imageContract(stored, stored.channels)
}

/** Read a contract for images. */
function imageContract(stored: Entries, channels: number): ImageContract {
  requireKnown('preprocessing', stored, IMAGE)
  const { image_size: size = null, mean, std, intensity_range: range = null } = stored
  if (size !== null) require('image_size', isListOf(isCount, 2), 'a height and a width', size)
  if (size !== null) requireFew('image_size asks for', size)
  require('mean', isListOf(isIntensity, channels), `${channels} numbers`, mean)
  require('std', isListOf(isPositive, channels), `${channels} numbers above 0`, std)
  if (range !== null) require('intensity_range', isRising, 'a lowest and a higher value', range)
  return { dimensions: 2, channels, imageSize: size, intensityRange: range }
}

const isRising = (value: unknown): value is number[] => isListOf(isIntensity, 2)(value) && value[0] < value[1]

/** Read a contract for volumes. */
function volumeContract(stored: Entries, channels: number): VolumeContract {
  requireKnown('preprocessing', stored, VOLUME)
  const { orientation = 'SAR', spacing = null, patch_size: patch, mirror_axes: axes = [0, 1, 2] } = stored
  require('orientation', isOrientation, 'three letters, as "SAR"', orientation)
  if (spacing !== null) require('spacing', isListOf(isPositive, 3), 'three lengths above 0', spacing)
  require('patch_size', isListOf(isCount, 3), 'three whole numbers above 0', patch)
  requireFew('patch_size asks for', patch)
  require('mirror_axes', isListOf(isWhole), 'a list of axes', axes)
  return {
    dimensions: 3,
    channels,
    orientation,
    spacing,
    patchSize: patch,
    intensities: intensitiesOf(stored, channels),
  }
}

/** Read what is done to the intensities of each channel: said once for all, or for each. */
function intensitiesOf(stored: Entries, channels: number): Intensity[] {
  const { intensity = 'zscore', window = null, mean = null, std = null } = stored
  if (!Array.isArray(intensity)) return Array(channels).fill(intensityOf(intensity, window, mean, std))
  const each = (name: string, values: unknown): unknown[] => {
    const found = values ?? Array(channels).fill(null)
    require(name, isListOf((one): one is unknown => one !== undefined, channels), `a list of ${channels}`, found)
    return found
  }
  const [windows, means, stds] = [each('window', window), each('mean', mean), each('std', std)]
  return each('intensity', intensity).map((kind, i) => intensityOf(kind, windows[i], means[i], stds[i]))
}

/** Read what is done to the intensities of one channel. */
function intensityOf(kind: unknown, window: unknown, mean: unknown, std: unknown): Intensity {
  if (kind === 'window') {
    require('window', isRising, 'a lowest and a higher intensity', window)
    require('mean', isIntensity, 'a number', mean)
    require('std', isPositive, 'a number above 0', std)
    return { kind, window: [window[0], window[1]], mean, std }
  }
  const isZscore = (value: unknown): value is 'zscore' => value === 'zscore'
  require('intensity', isZscore, '"zscore" or "window"', kind)
  const isNothing = (value: unknown): value is null => value === null
  for (const [name, value] of Object.entries({ window, mean, std }))
    require(name, isNothing, 'nothing with "zscore"', value)
  return { kind }
}

/** Refuse sides that make more than any network sees at once. */
function requireFew(what: string, sides: number[]): void {
  const found = sides.reduce((product, side) => product * side, 1)
  if (found > NETWORK_INPUT) throw new Strange(tooMany(what, found, NETWORK_INPUT))
}
