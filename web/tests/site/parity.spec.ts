/** Masks that a person saves from the page, beside those of segzoo predict: every model of the site, by its real files. */

import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'

import { expect, test } from '@playwright/test'

import { maskIn, runPython, samples } from '../engine/predict'
import type { Listed } from '../../src/page/models'

const WEB = join(import.meta.dirname, '../..')
const MODELS = join(WEB, 'site/models')
const EXPECTED = join(WEB, 'expected')
const LIST = join(MODELS, 'models.json')
const IMAGES = ['malignant/malignant (21).png', 'benign/benign (9).png'].map((name) =>
  join(samples, 'BUSI/Dataset_BUSI_with_GT', name))
const VOLUMES = [join(samples, 'Task04_Hippocampus/imagesTr/hippocampus_148.nii.gz')]
const MOST = 5e-4 // part of the pixels that may differ

const listed = existsSync(LIST) ? (JSON.parse(readFileSync(LIST, 'utf8')) as { models: Listed[] }).models : []

test.beforeAll(() => {
  test.setTimeout(600_000)
  runPython(join(import.meta.dirname, 'expected.py'), MODELS, EXPECTED, ...IMAGES, ...VOLUMES)
})

test('the site has models', () => expect(listed.length).toBeGreaterThan(0))

for (const { name, dimensions } of listed) {
  test(`${name} gives the masks of segzoo predict`, async ({ page, baseURL }) => {
    const asked: string[] = []
    page.on('request', (request) => asked.push(request.url()))
    await page.goto('./')
    expect(await page.evaluate(() => crossOriginIsolated)).toBe(true)
    await page.getByRole('button', { name: new RegExp(`^${name}:`) }).click()
    await expect(page.locator('.facts')).toBeVisible({ timeout: 60_000 })
    const inputs = dimensions === 3 ? VOLUMES : IMAGES
    await page.locator('.inputs input[type=file]').setInputFiles(inputs)
    await expect(page.locator('.item.done')).toHaveCount(inputs.length, { timeout: 110_000 })
    for (const input of inputs) {
      await page.getByRole('button', { name: basename(input) }).first().click()
      await expect(page.locator('.view .caption')).toHaveText(basename(input))
      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('button', { name: /^Save mask/ }).click(),
      ])
      const path = join(test.info().outputDir, download.suggestedFilename())
      await download.saveAs(path)
      const found = maskIn(path)
      const expected = maskIn(join(EXPECTED, name, basename(input)))
      const differ = found.filter((value, i) => value !== expected[i]).length
      console.log(`${name} ${basename(input)}: ${differ} of ${expected.length} differ`)
      expect(found.length).toBe(expected.length)
      expect(found.some((value) => value > 0)).toBe(true)
      expect(differ / expected.length).toBeLessThanOrEqual(MOST)
    }
    expect(asked.filter((address) => !address.startsWith(baseURL!) && !/^(blob|data):/.test(address))).toEqual([])
  })
}
