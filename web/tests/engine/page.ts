/** Engine in a browser, as tests use it: by its harness now, whose calls are those of the page. */

import { expect, type Page } from '@playwright/test'

import type { Device, Model } from '../../src/engine/types'
import type { Given } from './harness/main'
import { HARNESS_PORT } from './harness/port'

const ADDRESS = `http://localhost:${HARNESS_PORT}/`
/** The same with the headers by which a page is isolated from others, so that it may have threads. */
export const ISOLATED = `http://localhost:${HARNESS_PORT + 1}/`

/** Result with its arrays as bytes again. */
export type Found = Omit<Given, 'picture' | 'mask' | 'probabilities' | 'nifti'> & {
  picture: Uint8Array
  mask: Uint8Array
  probabilities: Float32Array
  nifti: Uint8Array
}

/** File by its path, or one that is made up. */
export type Source = string | { name: string; content: Uint8Array }

export interface Harness {
  load(model: Source, device?: Device): Promise<Model>
  segment(input: Source): Promise<Found>
  frame(picture: Source): Promise<{ size: [number, number]; mask: Uint8Array }>
  frames(picture: Source, count: number, width: number, height: number): Promise<{ milliseconds: number[] }>
}

/** Open the harness in a page, and see to it that nothing is asked of another origin. */
export async function openHarness(page: Page, address = ADDRESS): Promise<Harness> {
  page.on('request', (request) => expect(request.url()).toMatch(new RegExp(`^(blob:)?${address}`)))
  await page.goto(address)
  const give = (field: string, source: Source): Promise<void> =>
    page.setInputFiles(
      field,
      typeof source === 'string' ? source : { name: source.name, mimeType: '', buffer: Buffer.from(source.content) },
    )
  return {
    async load(model, device = 'wasm') {
      await give('#model', model)
      return page.evaluate((wanted) => window.harness.load(wanted), device)
    },
    async segment(input) {
      await give('#input', input)
      const { picture, mask, probabilities, nifti, ...plain } = await page.evaluate(() => window.harness.segment())
      const bytes = (text: string): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.from(text, 'base64'))
      return {
        ...plain,
        picture: bytes(picture),
        mask: bytes(mask),
        probabilities: new Float32Array(bytes(probabilities).buffer),
        nifti: bytes(nifti),
      }
    },
    async frame(picture) {
      await give('#input', picture)
      const { size, mask } = await page.evaluate(() => window.harness.frame())
      return { size, mask: new Uint8Array(Buffer.from(mask, 'base64')) }
    },
    async frames(picture, count, width, height) {
      await give('#input', picture)
      return page.evaluate(([some, wide, high]) => window.harness.frames(some, wide, high), [count, width, height])
    },
  }
}

/** Return the sentence that something is refused with. */
export async function refusal(what: Promise<unknown>): Promise<string> {
  const error = await what.then(
    () => null,
    (reason: Error) => reason,
  )
  expect(error, 'was not refused').not.toBeNull()
  return error!.message.replace(/^page\.evaluate: \w+: /, '').split('\n')[0]
}
