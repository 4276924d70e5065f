/** Meaning of a result's probabilities at the thresholds that a person has chosen. */

import type { Model } from '../engine/types'

/** Mask and probabilities of an image, a volume or a frame. */
export interface Found {
  size: [number, number, number]
  mask: Uint8Array<ArrayBuffer> | null
  probabilities: Float32Array<ArrayBuffer>
}

/** Class that is drawn and measured: all but the background. */
export interface Foreground {
  name: string
  /** Place of its probabilities among the planes. */
  plane: number
  /** Number in the mask, where classes exclude each other. */
  value: number
}

/** Return a model's classes without the background. */
export function foreground(model: Model): Foreground[] {
  if (model.multilabel) return model.classNames.map((name, plane) => ({ name, plane, value: 1 }))
  const skipped = isBinary(model) ? 1 : 0 // a binary model has no plane for the background
  return model.classNames.slice(1).map((name, index) => ({ name, plane: index + 1 - skipped, value: index + 1 }))
}

/** Return whether each class is decided on its own, so that it has a threshold. */
export function isIndependent(model: Model): boolean {
  return model.multilabel || isBinary(model)
}

function isBinary(model: Model): boolean {
  return !model.multilabel && model.thresholds.length === 1
}

/** Mask of what was found, at chosen thresholds; at the file's own it is the engine's. */
export class Segments {
  readonly pixels: number
  readonly #sheet: number
  readonly #labels: Uint8Array<ArrayBuffer> | null

  constructor(
    readonly model: Model,
    readonly found: Found,
    readonly thresholds: readonly number[],
  ) {
    const [depth, height, width] = found.size
    this.#sheet = height * width
    this.pixels = depth * this.#sheet
    const moved = isBinary(model) && thresholds[0] !== model.thresholds[0]
    this.#labels = moved || (found.mask === null && !model.multilabel) ? this.#above(0, 0, this.pixels) : found.mask
  }

  /** Return 1 where a class is, else 0, on a slice or on all. */
  plane(of: Foreground, slice: number | null): Uint8Array<ArrayBuffer> {
    const [begin, end] = this.#range(slice)
    if (this.model.multilabel) return this.#above(of.plane, begin, end)
    return this.#labels!.slice(begin, end).map((label) => (label === of.value ? 1 : 0))
  }

  /** Return the probabilities of a class on a slice. */
  probabilities(of: Foreground, slice: number): Float32Array {
    const begin = of.plane * this.pixels + slice * this.#sheet
    return this.found.probabilities.subarray(begin, begin + this.#sheet)
  }

  /** Count the pixels or voxels of a class. */
  count(of: Foreground): number {
    const mask = this.model.multilabel ? this.#above(of.plane, 0, this.pixels) : this.#labels!
    const value = this.model.multilabel ? 1 : of.value
    let count = 0
    for (const label of mask) if (label === value) count++
    return count
  }

  /** Return the mask of a slice, or of all, as segzoo writes it; null where classes that overlap have a file each. */
  labelMap(slice: number | null): Uint8Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | null {
    const [begin, end] = this.#range(slice)
    if (!this.model.multilabel) return this.#labels!.slice(begin, end)
    const values = this.model.regionValues
    if (values.length === 0) return null
    const labels = new (Math.max(...values) < 256 ? Uint8Array : Uint16Array)(end - begin)
    for (const region of foreground(this.model)) {
      const inside = this.plane(region, slice)
      for (let at = 0; at < labels.length; at++) if (inside[at]) labels[at] = values[region.plane]!
    }
    return labels
  }

  #range(slice: number | null): [number, number] {
    return slice === null ? [0, this.pixels] : [slice * this.#sheet, (slice + 1) * this.#sheet]
  }

  #above(plane: number, begin: number, end: number): Uint8Array<ArrayBuffer> {
    const threshold = Math.fround(this.thresholds[plane]!) // compared as segzoo does, in float32
    const given = this.found.probabilities
    const found = new Uint8Array(end - begin)
    for (let at = begin, from = plane * this.pixels + begin; at < end; at++, from++) {
      if (given[from]! > threshold) found[at - begin] = 1
    }
    return found
  }
}

/** Return the slice on which most is found; the middle one where nothing is. */
export function fullestSlice(segments: Segments): number {
  const [depth, height, width] = segments.found.size
  let best = depth >> 1
  let most = 0
  for (let slice = 0; slice < depth; slice++) {
    let count = 0
    for (const one of foreground(segments.model)) count += sum(segments.plane(one, slice))
    if (count > most && height * width > 0) [best, most] = [slice, count]
  }
  return best
}

function sum(values: Uint8Array): number {
  let total = 0
  for (const value of values) total += value
  return total
}
