/** Files that the page gives back: masks as segzoo writes them, and pictures of them. */

import { encode } from 'fast-png'
import { niftiOf } from '../engine/nifti'
import type { Result } from '../engine/types'
import { colourOf, overlay } from './drawing'
import type { Segments } from './segments'
import { foreground } from './segments'

/** File with its name. */
export interface Named {
  name: string
  content: Blob
}

type Labels = Uint8Array<ArrayBuffer> | Uint16Array<ArrayBuffer>

/** Return the mask's file, PNG or NIfTI, of class values; of classes that overlap, a file of 0 and 1 for each. */
export async function maskFiles(input: Result, segments: Segments): Promise<Named[]> {
  const [, height, width] = input.size
  const { maskHeader } = input
  const begin = `${stemOf(input)}_mask`
  const end = thresholdsOf(segments) + (maskHeader ? '.nii.gz' : '.png')
  const written = (labels: Labels): Promise<Blob> | Blob =>
    maskHeader ? niftiOf(maskHeader, labels as Uint8Array<ArrayBuffer>) : grey(labels, width, height)

  const labels = segments.labelMap(null)
  const fits = labels && !(maskHeader && labels instanceof Uint16Array) // its header says 8 bits
  if (fits) return [{ name: begin + end, content: await written(labels) }]
  return Promise.all(
    foreground(segments.model).map(async (one) => ({
      name: `${begin}_${one.name.replace(/[ /\\]/g, '-')}${end}`,
      content: await written(segments.plane(one, null)),
    })),
  )
}

/** Return a slice with its classes drawn on it. */
export function overlayFile(input: Result, segments: Segments, slice: number): Named {
  const [, height, width] = input.size
  const begin = 4 * slice * height * width
  const picture = input.picture.subarray(begin, begin + 4 * height * width)
  const slices = input.dimensions === 3 ? `_slice${slice + 1}` : ''
  const classes = foreground(segments.model)
  const layers = classes.map((one, index) => ({ colour: colourOf(index), inside: segments.plane(one, slice) }))
  const data = overlay(picture, width, height, layers)
  return {
    name: `${stemOf(input)}_overlay${slices}${thresholdsOf(segments)}.png`,
    content: png(encode({ width, height, data, depth: 8, channels: 3 })),
  }
}

/** Have the browser save files. */
export function save(files: Named[]): void {
  for (const { name, content } of files) {
    const link = document.createElement('a')
    link.href = URL.createObjectURL(content)
    link.download = name
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000) // the browser may take its time to begin
  }
}

function grey(data: Labels, width: number, height: number): Blob {
  return png(encode({ width, height, data, depth: data instanceof Uint16Array ? 16 : 8, channels: 1 }))
}

function png(content: Uint8Array): Blob {
  return new Blob([content as Uint8Array<ArrayBuffer>], { type: 'image/png' })
}

function stemOf({ name }: Result): string {
  return name.replace(/\.nii(\.gz)?$|\.[^.]+$/i, '')
}

/** Thresholds that are not the file's own, so that nobody takes one mask for the other. */
function thresholdsOf({ model, thresholds }: Segments): string {
  const moved = thresholds.some((threshold, plane) => threshold !== model.thresholds[plane])
  return moved ? `_threshold${thresholds.map((threshold) => threshold.toFixed(2)).join('-')}` : ''
}
