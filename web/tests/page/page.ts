/** Page in a browser, as a person uses it. */

import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import type { Page } from '@playwright/test'
import { expect } from '@playwright/test'
import { IMAGES, MODELS } from './models'

interface Made {
  name: string
  mimeType: string
  buffer: Buffer
}

const SAMPLES = join(import.meta.dirname, '../../../tests/samples')
const BUSI = join(SAMPLES, 'BUSI/Dataset_BUSI_with_GT')

export const IMAGE = join(BUSI, 'malignant/malignant (21).png')
export const OTHER_IMAGE = join(BUSI, 'benign/benign (9).png')
export const VOLUME = join(SAMPLES, 'Task04_Hippocampus/imagesTr/hippocampus_148.nii.gz')
export const NO_IMAGE: Made = { name: 'notes.txt', mimeType: 'text/plain', buffer: Buffer.from('not an image') }

/** Return whether a model lies in web/models. */
export function hasModel(name: string): boolean {
  return existsSync(join(MODELS, `${name}.onnx`))
}

/** Open one of the site's models. */
export async function openModel(page: Page, name = IMAGES): Promise<void> {
  await page.getByRole('button', { name: new RegExp(`^${name}:`) }).click()
  await expect(page.locator('.facts')).toBeVisible({ timeout: 60_000 })
}

/** Give files to the page, by their paths or made up. */
export async function give(page: Page, ...files: (string | Made)[]): Promise<void> {
  const made = files.map((file) =>
    typeof file === 'string' ? { name: basename(file), mimeType: '', buffer: readFileSync(file) } : file,
  )
  await page.locator('.inputs input[type=file]').setInputFiles(made)
}

/** Open the page with a segmented image. */
export async function showResult(page: Page): Promise<void> {
  await page.goto('./')
  await openModel(page)
  await give(page, IMAGE)
  await expect(page.locator('.found')).toBeVisible()
}

/** Return the pixels that the page says a class has. */
export async function pixelsOf(page: Page): Promise<number> {
  const said = await page.locator('.count').first().textContent()
  return Number(said!.replace(/\D/g, ''))
}
