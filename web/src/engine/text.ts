/** Every word of the engine that a person reads: refusals, warnings and what is said of a model. */

const list = (sides: readonly number[]): string => sides.join(' x ')
const grouped = (count: number): string => count.toLocaleString('en-US')

/** Number in at most six digits, as people write it. */
export const short = (value: number): string => String(Number(value.toPrecision(6)))

// ---- models

export const noOnnx = (file: string) => `${file} is no ONNX file; choose one that segzoo export has written.`
export const cutOnnx = (file: string) => `${file} is cut short; fetch or export it again.`
export const externalData = (file: string) =>
  `${file} keeps weights in another file, so nothing vouches for what it computes; export it again, or save it ` +
  'with its weights inside.'
export const noMetadata = (file: string) =>
  `${file} was not written by segzoo export, so nothing says what it takes and gives; export it from a checkpoint.`
export const strangeMetadata = (file: string, why: string) =>
  `${file} was not written by segzoo export, or by another version of it; export it again (${why}).`
export const cannotOpen = (file: string, why: string) =>
  `${file} cannot be opened by ONNX Runtime: it is damaged or of another kind; export it again (${why}).`
export const otherClasses = (file: string, found: number, announced: number) =>
  `${file} gives ${found} classes where its metadata announce ${announced}; export it again.`
export const notFetched = (file: string, why: string) =>
  `${file} cannot be fetched (${why}); look whether the page's server still runs, then try again.`
export const noModel = 'No model is open; choose one first.'

// ---- what metadata get wrong, without a full stop: they end in brackets

export const noJson = 'its metadata are no JSON'
export const lack = (names: string[]) => `its metadata lack ${names.join(', ')}`
export const mustBe = (name: string, kind: string, found: unknown) => `${name} must be ${kind}, not ${shown(found)}`
export const unknownEntry = (of: string, name: string) => `${of} has the unknown entry '${name}'`
export const tooMany = (what: string, found: number, most: number) =>
  `${what} ${grouped(found)}, above the limit of ${grouped(most)}`

/** Value of a file as a sentence quotes it. */
function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 100)
}

// ---- inputs

export const unreadable = (file: string) => `Cannot read ${file} as an image: it is damaged or not an image.`
export const otherKind = (file: string) =>
  `${file} is no PNG, JPEG, TIFF or BMP, and no NIfTI volume; save it as one of them.`
export const tooManyPixels = (file: string, found: number, most: number) =>
  `${file} has ${grouped(found)} pixels, above the limit of ${grouped(most)}; cut out or reduce what is to be ` +
  'segmented.'
export const pages = (file: string, count: number) =>
  `${file} has ${count} pages; save the one to use as a file of its own.`
export const cannotDecode = (file: string, what: string) =>
  `${file} ${what}, which this page does not decode; save it as a plain PNG, or use segzoo predict.`
export const channelsDiffer = (file: string, found: number, needed: number) =>
  `${file} has ${found} channel${found > 1 ? 's' : ''} where ${needed} are needed.`
export const notFinite = (file: string) => `${file} holds NaN or infinite values; replace them first.`
export const outsideOfRange = (file: string, low: number, high: number) =>
  `${file} has values of ${short(low)}..${short(high)}; scale them to 0..255 first.`
export const neitherScale = (file: string, high: number) =>
  `${file} has values up to ${short(high)}, neither 0..1 nor 0..255; scale them first.`
export const nearlyBlack = (file: string, brightest: number, white: number) =>
  `${file} has 16-bit values that only reach ${brightest} of ${white}, which is nearly black; scale them to ` +
  `the full range first, or use segzoo predict with --intensity-range 0 ${alike(brightest)}.`
export const tooFlat = (file: string) =>
  `${file} is a picture where this model takes volumes; give it a NIfTI file (.nii or .nii.gz).`
export const volumeForImages = (file: string) =>
  `${file} is a volume where this model takes images; segment it slice by slice with segzoo predict.`
export const otherSize = (file: string, own: number[], taken: number[]) =>
  `${file} is ${list(own)} and the model takes only ${list(taken)}; export it again without --size.`

/** Largest value of as many bits. */
function alike(brightest: number): number {
  return 2 ** Math.ceil(Math.log2(brightest + 1)) - 1
}

// ---- warnings of inputs

export const turned = (file: string) =>
  `${file} is stored turned or mirrored, and viewers turn it back: its mask belongs to the stored pixels.`
export const dark = (file: string, brightest: number, white: number) =>
  `${file} has 16-bit values that only reach ${brightest} of ${white}, so it is read as one of ` +
  `0..${Math.round((255 * brightest) / white)}; if that is too dark, use segzoo predict with --intensity-range ` +
  `0 ${alike(brightest)}.`
export const readAsFractions = (file: string) =>
  `${file} has floating-point values, of which none exceeds 1: it is read as 0..1, not 0..255.`
export const outOfView = (file: string, low: number, high: number, range: readonly number[]) =>
  `${file} has values of ${short(low)}..${short(high)}, which all lie outside of the intensity_range ` +
  `${short(range[0])}..${short(range[1])}, so nothing is seen of it.`
export const unlike = (file: string, what: string[], trained: boolean) =>
  `${file} is unlike what the model ${trained ? 'was trained on' : 'expects'}, so its mask may be wrong: ` +
  `${what.join('; ')}.`
export const featureNames: Record<string, string> = {
  channels: 'channels',
  size: 'size',
  spacing: 'spacing in mm',
  intensity: 'intensity (1st, 50th and 99th percentile)',
}

// ---- volumes

export const noVolume = (file: string) =>
  `Cannot read ${file} as a volume: it is damaged, cut short or not of the format its name says.`
export const damagedGzip = (file: string) =>
  `Cannot read ${file}: the gzip file is cut short or damaged; fetch it again.`
export const wrongSuffix = (file: string, packed: boolean) =>
  `Cannot read ${file}: its name says that it is ${packed ? 'not ' : ''}a gzip file, which is wrong; rename it ` +
  `to end in ${packed ? '.nii.gz' : '.nii'}, or fetch it again.`
export const secondFormat = (file: string) =>
  `${file} is in the NIfTI-2 format, which is not read; save it as NIfTI-1.`
export const noSides = (file: string, sides: number[]) =>
  `${file} has ${list(sides)} voxels by its header, which is damaged; fetch it again.`
export const tooManyVoxels = (file: string, found: number, most: number) =>
  `${file} has ${grouped(found)} voxels, above the limit of ${grouped(most)}; use segzoo predict.`
export const strangeType = (file: string, kind: number, bits: number) =>
  `${file} has ${bits} bits a voxel by its header and data type ${kind}: it is damaged or of a kind that is ` +
  'not read; save it again.'
export const flat = (file: string, dimensions: number) => `${file} is ${dimensions}D where a 3D volume is expected.`
export const strangeScaling = (file: string, slope: number, intercept: number) =>
  `${file} has an intercept of ${short(intercept)} to a slope of ${short(slope)} by its header, which readers ` +
  'take for different voxels; save it again with the intensities that are meant.'
export const noSpacing = (file: string, spacing: number[]) =>
  `${file} has a spacing of ${list(spacing.map((side) => Number(short(side))))} mm; every side of a voxel must ` +
  'be above 0.'
export const skewed = (file: string) =>
  `The axes of ${file} are not at right angles to each other; resample it to a grid whose are.`
export const twoSpacings = (file: string, sform: number[], stated: number[]) =>
  `${file} has voxels of ${sform.map(short).join(' x ')} mm by its sform and of ` +
  `${stated.map(short).join(' x ')} mm by its pixdim; correct the header, or say which is right by segzoo ` +
  'predict --geometry.'
export const noDirections = (file: string) =>
  `${file} does not say how the patient lies: its first axis is taken to lead left, as ANALYZE had it.`
export const cutVolume = (file: string, found: number, needed: number) =>
  `${file} is cut short: it holds ${grouped(found)} bytes where its header announces ${grouped(needed)}.`
export const tooLong = (file: string, found: number) =>
  `${file} has ${grouped(found)} bytes after its voxels, which mean nothing; save it again.`
export const fourDimensions = (file: string, sides: number[]) =>
  `${file} is ${sides.length}D (${list(sides)}) where a 3D volume is expected; save the one to use by itself.`
export const needsResampling = (file: string, own: number[], wanted: readonly number[]) =>
  `${file} has a spacing of ${own.map(short).join(' x ')} mm where the model sees ` +
  `${wanted.map(short).join(' x ')} mm; segment it with segzoo predict, which resamples it.`
export const smallerThanWindow = (file: string, own: number[], window: number[]) =>
  `${file} has ${list(own)} voxels, fewer than the windows of ${list(window)} that the model takes; segment it ` +
  'with its checkpoint by segzoo predict.'

// ---- what computes

export const gaveNothing = (model: string) =>
  `${model} gives NaN for this input: its weights are not finite, as a training that diverged leaves them.`
export const outOfMemory = (file: string) =>
  `There is not enough memory in the browser for ${file}; close other pages, reduce it, or use segzoo predict.`
export const failed = (file: string, why: string) =>
  `The browser cannot compute ${file} (${why}); reload the page, or use segzoo predict.`
export const webAssembly = (threads: number) => `WebAssembly, ${threads} thread${threads > 1 ? 's' : ''}`
export const webGpu = 'WebGPU'
export const noWebGpu = (threads: number, why: string) => `${webAssembly(threads)} (${why})`
export const noAdapter = 'WebGPU is not available here'
export const gpuDiffers = 'WebGPU gives other masks here'
export const gpuFails = 'WebGPU cannot run this file'

// ---- post-processing

export const threshold = (value: number) => `threshold ${short(value)}`
export const holesFilled = 'holes filled'
export const smallestPart = (size: number, unit: string) => `no part below ${short(size)} ${unit}`
export const largestOnly = 'largest component only'
export const temperature = (value: number) => `temperature ${short(value)}`

// ---- what this page does not decode, after the file's name

export const transparent = 'is partly transparent'
export const interlaced = 'is interlaced, with less than 8 bits a pixel'
export const rareTiff = 'is a TIFF of a rare kind'
export const noPhotometric = 'is a TIFF that does not say whether 0 is black or white'
export const signed = 'is a TIFF of signed numbers'
export const negative = 'is a negative (WhiteIsZero) of fractions'
export const cmyk = 'has colours for print (CMYK)'
export const frame = 'the frame'
