/** Files that the page gives back: masks as segzoo writes them, and pictures of them. */

import { encode } from 'fast-png'
import type { Result } from '../engine/types'
import { colourOf, overlay } from './drawing'
import type { Segments } from './segments'
import { foreground } from './segments'

interface Named {
  name: string
  content: Uint8Array
}

/** Return a slice's mask: one PNG of class values, or, of classes that overlap, one of 0 and 1 for each. */
export function maskFiles(input: Result, segments: Segments, slice: number): Named[] {
  const [, height, width] = input.size
  const begin = `${stemOf(input, slice)}_mask`
  const end = `${thresholdsOf(segments)}.png`
  const labels = segments.labelMap(slice)
  if (labels) return [{ name: begin + end, content: grey(labels, width, height) }]
  return foreground(segments.model).map((one) => ({
    name: `${begin}_${one.name.replace(/[ /\\]/g, '-')}${end}`,
    content: grey(segments.plane(one, slice), width, height),
  }))
}

/** Return a slice with its classes drawn on it. */
export function overlayFile(input: Result, segments: Segments, slice: number): Named {
  const [, height, width] = input.size
  const begin = 4 * slice * height * width
  const picture = input.picture.subarray(begin, begin + 4 * height * width)
  const classes = foreground(segments.model)
  const layers = classes.map((one, index) => ({ colour: colourOf(index), inside: segments.plane(one, slice) }))
  const data = overlay(picture, width, height, layers)
  return {
    name: `${stemOf(input, slice)}_overlay${thresholdsOf(segments)}.png`,
    content: encode({ width, height, data, depth: 8, channels: 3 }),
  }
}

/** Have the browser save files. */
export function save(files: Named[]): void {
  for (const { name, content } of files) {
    const link = document.createElement('a')
    link.href = URL.createObjectURL(new Blob([content as Uint8Array<ArrayBuffer>], { type: 'image/png' }))
    link.download = name
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000) // the browser may take its time to begin
  }
}

function grey(data: Uint8Array | Uint16Array, width: number, height: number): Uint8Array {
  return encode({ width, height, data, depth: data instanceof Uint16Array ? 16 : 8, channels: 1 })
}

function stemOf(input: Result, slice: number): string {
  const stem = input.name.replace(/\.nii(\.gz)?$|\.[^.]+$/i, '')
  return input.dimensions === 3 ? `${stem}_slice${slice + 1}` : stem
}

/** Thresholds that are not the file's own, so that nobody takes one mask for the other. */
function thresholdsOf({ model, thresholds }: Segments): string {
  const moved = thresholds.some((threshold, plane) => threshold !== model.thresholds[plane])
  return moved ? `_threshold${thresholds.map((threshold) => threshold.toFixed(2)).join('-')}` : ''
}
