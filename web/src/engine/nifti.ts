/** NIfTI files: headers checked and voxels read, as segzoo does it. */

import { type Affine, checkDirections, checkSpacing, type Geometry, spacingOf } from './geometry'
import { HEADER_BYTES, TAIL_BYTES, VOXELS } from './limits'
import * as text from './text'
import { Refusal } from './types'

/** Volume and where it lies. */
export interface Volume {
  /** Intensities [C, D, H, W]. */
  values: Float32Array<ArrayBuffer>
  channels: number
  geometry: Geometry
  /** What a NIfTI file of its mask begins with. */
  maskHeader: Uint8Array<ArrayBuffer>
}

type Reader = (view: DataView, at: number, little: boolean) => number

const BYTES = 348
const SECOND_FORMAT = 540
const MASK_START = 352 // of a mask's voxels: after the header and four bytes that announce no extension
const AT = {
  dim: 40,
  datatype: 70,
  bitpix: 72,
  pixdim: 76,
  voxOffset: 108,
  slope: 112,
  intercept: 116,
  units: 123,
  qformCode: 252,
  sformCode: 254,
  quaternion: 256,
  offset: 268,
  srow: 280,
  magic: 344,
}
const MILLIMETRES: Record<number, number> = { 1: 1000, 3: 0.001 } // in a metre and in a micrometre
const AGREE = 1e-3 // relative difference between two sizes of a voxel above which they are two
const UINT8 = 2
const FLOAT64 = 64
// of a voxel, by the header's datatype: its bytes, how each of its parts is read, and how many these are
const TYPES: Record<number, { bytes: number; read: Reader; parts: number }> = {
  2: { bytes: 1, read: (view, at) => view.getUint8(at), parts: 1 },
  4: { bytes: 2, read: (view, at, little) => view.getInt16(at, little), parts: 1 },
  8: { bytes: 4, read: (view, at, little) => view.getInt32(at, little), parts: 1 },
  16: { bytes: 4, read: (view, at, little) => view.getFloat32(at, little), parts: 1 },
  64: { bytes: 8, read: (view, at, little) => view.getFloat64(at, little), parts: 1 },
  256: { bytes: 1, read: (view, at) => view.getInt8(at), parts: 1 },
  512: { bytes: 2, read: (view, at, little) => view.getUint16(at, little), parts: 1 },
  768: { bytes: 4, read: (view, at, little) => view.getUint32(at, little), parts: 1 },
  1024: { bytes: 8, read: (view, at, little) => Number(view.getBigInt64(at, little)), parts: 1 },
  1280: { bytes: 8, read: (view, at, little) => Number(view.getBigUint64(at, little)), parts: 1 },
  128: { bytes: 1, read: (view, at) => view.getUint8(at), parts: 3 },
  2304: { bytes: 1, read: (view, at) => view.getUint8(at), parts: 4 },
}

/** Return whether a file is named as a NIfTI volume is. */
export function isNifti(file: string): boolean {
  return /\.nii(\.gz)?$/i.test(file)
}

/** Read a NIfTI file; adds to `warnings` what a person should know. */
export async function readNifti(
  packed: Uint8Array<ArrayBuffer>,
  channels: number,
  file: string,
  warnings: string[],
): Promise<Volume> {
  const content = await unpacked(packed, file)
  const header = new Header(content, file)
  const geometry = geometryOf(header, file, warnings)
  const values = voxelsOf(header, content, channels, file)
  return { values, channels, geometry, maskHeader: maskHeaderOf(header) }
}

/** Unpack a file whose name says that it is packed. */
async function unpacked(content: Uint8Array<ArrayBuffer>, file: string): Promise<Uint8Array<ArrayBuffer>> {
  const packed = content[0] === 0x1f && content[1] === 0x8b
  if (content.length && packed !== /\.gz$/i.test(file)) throw new Refusal(text.wrongSuffix(file, packed))
  if (!packed) return content
  try {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream('gzip'))
    return new Uint8Array(await new Response(stream).arrayBuffer())
  } catch (error) {
    if (error instanceof RangeError) throw error // the memory's
    throw new Refusal(text.damagedGzip(file))
  }
}

/** Fields of a header in either byte order, found good. */
class Header {
  readonly view: DataView
  readonly little: boolean
  readonly sides: number[]

  constructor(content: Uint8Array<ArrayBuffer>, file: string) {
    const raw = new Uint8Array(BYTES)
    raw.set(content.subarray(0, BYTES))
    this.view = new DataView(raw.buffer)
    const sizes = [true, false].map((little) => this.view.getInt32(0, little))
    if (sizes.includes(SECOND_FORMAT)) throw new Refusal(text.secondFormat(file))
    this.little = sizes[0] === BYTES
    const count = this.short(AT.dim)
    if (!sizes.includes(BYTES) || count < 1 || count > 7 || !(this.start >= 0 && this.start < Infinity))
      throw new Refusal(text.noVolume(file))
    this.sides = Array.from({ length: count }, (_, i) => this.short(AT.dim + 2 * (i + 1)))
    this.checkSizes(file)
    this.checkScaling(file)
  }

  short(at: number): number {
    return this.view.getInt16(at, this.little)
  }

  float(at: number): number {
    return this.view.getFloat32(at, this.little)
  }

  floats(at: number, count: number): number[] {
    return Array.from({ length: count }, (_, i) => this.float(at + 4 * i))
  }

  get start(): number {
    return this.float(AT.voxOffset)
  }

  get kind(): (typeof TYPES)[number] {
    return TYPES[this.short(AT.datatype)]
  }

  get slope(): number {
    return this.float(AT.slope)
  }

  get intercept(): number {
    return this.float(AT.intercept)
  }

  get hasSlope(): boolean {
    return this.slope !== 0 && Number.isFinite(this.slope)
  }

  /** Unit of length in millimetres. */
  get unit(): number {
    return MILLIMETRES[this.view.getUint8(AT.units) & 7] ?? 1
  }

  /** Refuse sides and sizes of voxels that contradict the rest: readers take them for others, without a word. */
  private checkSizes(file: string): void {
    if (Math.min(...this.sides) < 1) throw new Refusal(text.noSides(file, this.sides))
    const voxels = product(this.sides)
    if (voxels > VOXELS) throw new Refusal(text.tooManyVoxels(file, voxels, VOXELS))
    const bits = this.short(AT.bitpix)
    if (!this.kind || bits !== 8 * this.kind.bytes * this.kind.parts)
      throw new Refusal(text.strangeType(file, this.short(AT.datatype), bits))
    if (this.sides.length < 3) throw new Refusal(text.flat(file, this.sides.length))
  }

  /** Refuse an intercept without a slope, and the other way round. */
  private checkScaling(file: string): void {
    const finite = Number.isFinite(this.intercept)
    if (this.hasSlope ? !finite : this.intercept !== 0 && finite)
      throw new Refusal(text.strangeScaling(file, this.slope, this.intercept))
  }
}

const product = (sides: readonly number[]): number => sides.reduce((found, side) => found * side, 1)

// ---- place

/** Return the grid that a header states; refuses one that makes none, or two. */
function geometryOf(header: Header, file: string, warnings: string[]): Geometry {
  const sizes = header.floats(AT.pixdim + 4, 3).map((size) => header.unit * size)
  checkSpacing(sizes, file)
  const [sform, qform] = [header.short(AT.sformCode) > 0, header.short(AT.qformCode) > 0]
  if (!sform && !qform) warnings.push(text.noDirections(file))
  const affine = sform ? bySform(header) : qform ? byQform(header, sizes) : bySizes(header, sizes)
  const spacing = spacingOf({ affine })
  checkSpacing([...spacing].reverse(), file)
  checkDirections(affine, file)
  const meant = [...spacing].reverse()
  if (sform && meant.some((side, axis) => Math.abs(side / sizes[axis] - 1) > AGREE))
    throw new Refusal(text.twoSpacings(file, meant, sizes))
  const [width, height, depth] = header.sides
  return { shape: [depth, height, width], affine }
}

/** Return rows of a file's own axes (x, y, z) as an affine of ours. */
const inOurOrder = (rows: number[][]): Affine => rows.map(([x, y, z, place]) => [z, y, x, place]) as Affine

function bySform(header: Header): Affine {
  return inOurOrder([0, 1, 2].map((row) => header.floats(AT.srow + 16 * row, 4).map((value) => header.unit * value)))
}

function byQform(header: Header, sizes: number[]): Affine {
  const turned = rotation(header.floats(AT.quaternion, 3))
  const mirror = header.float(AT.pixdim) < 0 ? -1 : 1
  const place = header.floats(AT.offset, 3).map((value) => header.unit * value)
  const factors = [sizes[0], sizes[1], mirror * sizes[2]]
  return inOurOrder(turned.map((row, i) => [...row.map((value, axis) => value * factors[axis]), place[i]]))
}

/** Return the affine of a header without forms: by the sizes of voxels alone, its middle at 0. */
function bySizes(header: Header, sizes: number[]): Affine {
  const middle = (axis: number): number => (sizes[axis] * (header.sides[axis] - 1)) / 2
  return inOurOrder([
    [-sizes[0], 0, 0, middle(0)],
    [0, sizes[1], 0, -middle(1)],
    [0, 0, sizes[2], -middle(2)],
  ])
}

/** Return the rotation of a unit quaternion, of which a header has the three imaginary parts. */
function rotation(imaginary: number[]): number[][] {
  const length = imaginary.reduce((sum, value) => sum + value * value, 0)
  let real = Math.sqrt(Math.max(0, 1 - length))
  let [b, c, d] = imaginary
  if (real ** 2 < 1e-7) {
    // half a turn, where rounding decides
    real = 0
    ;[b, c, d] = imaginary.map((value) => value / Math.sqrt(length))
  }
  return [
    [1 - 2 * (c * c + d * d), 2 * (b * c - real * d), 2 * (b * d + real * c)],
    [2 * (b * c + real * d), 1 - 2 * (b * b + d * d), 2 * (c * d - real * b)],
    [2 * (b * d - real * c), 2 * (c * d + real * b), 1 - 2 * (b * b + c * c)],
  ]
}

// ---- voxels

/** Read all voxels [C, D, H, W], scaled as the header says; further axes and the parts of a voxel are channels. */
function voxelsOf(
  header: Header,
  content: Uint8Array<ArrayBuffer>,
  channels: number,
  file: string,
): Float32Array<ArrayBuffer> {
  const start = Math.max(BYTES, Math.trunc(header.start))
  if (start > HEADER_BYTES) throw new Refusal(text.cutVolume(file, content.length, start))
  const { kind, sides, little } = header
  const size = kind.bytes * kind.parts
  const needed = start + product(sides) * size
  if (content.length < needed) throw new Refusal(text.cutVolume(file, content.length, needed))
  if (content.length - needed > TAIL_BYTES && /\.gz$/i.test(file))
    throw new Refusal(text.tooLong(file, content.length - needed))
  const count = product(sides.slice(0, 3))
  const found = product(sides.slice(3)) * kind.parts
  if (found !== channels) {
    if (channels === 1) throw new Refusal(text.fourDimensions(file, [...sides.slice(0, 3), found]))
    throw new Refusal(text.channelsDiffer(file, found, channels))
  }
  const view = new DataView(content.buffer, content.byteOffset, content.length)
  const scaled = header.hasSlope && (header.slope !== 1 || header.intercept !== 0)
  const exact = header.short(AT.datatype) === FLOAT64 ? (value: number) => value : Math.fround
  const values = new Float32Array(count * channels)
  for (let part = 0; part < kind.parts; part++)
    for (let i = 0; i < values.length / kind.parts; i++) {
      const stored = kind.read(view, start + i * size + part * kind.bytes, little)
      const value = scaled ? exact(stored) * header.slope + header.intercept : stored
      values[part * (values.length / kind.parts) + i] = value
    }
  if (!values.every(Number.isFinite)) throw new Refusal(text.notFinite(file))
  return values
}

// ---- masks

/** Return what a mask's file begins with: a header that says where the voxels lie as the volume's own does. */
function maskHeaderOf(header: Header): Uint8Array<ArrayBuffer> {
  const found = new Uint8Array(MASK_START)
  const view = new DataView(found.buffer)
  view.setInt32(0, BYTES, true)
  ;[3, ...header.sides.slice(0, 3), 1, 1, 1, 1].forEach((side, i) => view.setInt16(AT.dim + 2 * i, side, true))
  view.setInt16(AT.datatype, UINT8, true)
  view.setInt16(AT.bitpix, 8, true)
  for (const [at, count] of [
    [AT.pixdim, 8],
    [AT.quaternion, 3],
    [AT.offset, 3],
    [AT.srow, 12],
  ])
    for (let i = 0; i < count; i++) {
      // as whole numbers, which keeps every bit
      view.setUint32(at + 4 * i, header.view.getUint32(at + 4 * i, header.little), true)
    }
  view.setFloat32(AT.voxOffset, MASK_START, true)
  view.setFloat32(AT.slope, 1, true)
  view.setUint8(AT.units, header.view.getUint8(AT.units))
  for (const at of [AT.qformCode, AT.sformCode]) view.setInt16(at, header.short(at), true)
  found.set([0x6e, 0x2b, 0x31, 0], AT.magic) // "n+1"
  return found
}

/** Return a mask [D, H, W] as a packed NIfTI file on the grid of its volume. */
export async function niftiOf(maskHeader: Uint8Array<ArrayBuffer>, mask: Uint8Array<ArrayBuffer>): Promise<Blob> {
  const stream = new Blob([maskHeader, mask]).stream().pipeThrough(new CompressionStream('gzip'))
  return new Response(stream, { headers: { 'content-type': 'application/gzip' } }).blob()
}
