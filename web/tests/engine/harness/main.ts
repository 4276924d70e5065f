/** Page that lends the engine to tests: files come by its two fields, results go back as plain values. */

import { startEngine } from '../../../src/engine/client'
import { niftiOf } from '../../../src/engine/nifti'
import type { Device, Model, Result } from '../../../src/engine/types'

const engine = startEngine()
const fileOf = (field: string): File => document.querySelector<HTMLInputElement>(field)!.files![0]

/** Return bytes as text. */
async function base64(bytes: BlobPart | null): Promise<string> {
  const reader = new FileReader()
  reader.readAsDataURL(new Blob(bytes === null ? [] : [bytes]))
  await new Promise((done) => (reader.onload = done))
  return String(reader.result).split(',')[1] ?? ''
}

/** Result as a test receives it: arrays as base64. */
export type Given = Omit<Result, 'picture' | 'mask' | 'probabilities' | 'maskHeader'> & {
  picture: string
  mask: string
  probabilities: string
  nifti: string
}

const harness = {
  load: (device: Device): Promise<Model> => engine.load(fileOf('#model'), device),
  loadFrom: (url: string): Promise<Model> => engine.load(new URL(url, location.href), 'wasm'),
  async segment(): Promise<Given> {
    const { picture, mask, probabilities, maskHeader, ...plain } = await engine.segment(fileOf('#input'))
    const nifti = maskHeader && mask ? await niftiOf(maskHeader, mask) : null
    return {
      ...plain,
      picture: await base64(picture),
      mask: await base64(mask),
      probabilities: await base64(probabilities),
      nifti: await base64(nifti),
    }
  },
  /** Segment a picture as a frame. */
  async frame(): Promise<{ size: [number, number]; mask: string }> {
    const { size, mask } = await engine.segmentFrame(await createImageBitmap(fileOf('#input')))
    return { size, mask: await base64(mask) }
  },
  /** Segment as many frames of a size, of a picture that moves; return the milliseconds of each, and pixels found. */
  async frames(count: number, width: number, height: number): Promise<{ milliseconds: number[]; found: number }> {
    const canvas = new OffscreenCanvas(width, height)
    const context = canvas.getContext('2d')!
    const picture = await createImageBitmap(fileOf('#input'))
    const milliseconds: number[] = []
    let found = 0
    for (let i = 0; i < count; i++) {
      context.drawImage(picture, i % 16, 0, width, height)
      const frame = canvas.transferToImageBitmap()
      const start = performance.now()
      const { mask } = await engine.segmentFrame(frame)
      milliseconds.push(performance.now() - start)
      found += mask!.reduce((sum, value) => sum + value, 0)
    }
    return { milliseconds, found }
  },
}

declare global {
  interface Window {
    harness: typeof harness
  }
}
window.harness = harness
