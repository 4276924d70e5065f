/** Masks of the page's engine beside those of segzoo predict, of the same exported file and the same inputs. */

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'

import { expect, test } from '@playwright/test'

import { openHarness } from './page'
import { exported, predicted, samples } from './predict'

const busi = join(samples, 'BUSI/Dataset_BUSI_with_GT')
const images = ['benign', 'malignant'].flatMap((kind) =>
  readdirSync(join(busi, kind))
    .filter((name) => !name.includes('mask'))
    .map((name) => join(busi, kind, name)),
)
const hippocampi = join(samples, 'Task04_Hippocampus/imagesTr')
const volumes = readdirSync(hippocampi).map((name) => join(hippocampi, name))
const MOST = 5e-4 // part of the pixels that may differ

const models = exported(/\.onnx$/)

test('there are models to compare', () => {
  test.skip(!models.length, 'no .onnx file lies in web/models: make web exports some')
})

for (const path of models)
  test(`${basename(path)} gives the masks of segzoo predict`, async ({ page }) => {
    const harness = await openHarness(page)
    const model = await harness.load(path)
    expect(model.sha256).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'))
    const inputs = model.dimensions === 3 ? volumes : images
    const expected = predicted(path, inputs)
    let found = 0
    for (const input of inputs) {
      const { mask } = await harness.segment(input)
      const wanted = expected.get(input)!
      expect(mask.length, input).toBe(wanted.length)
      const differ = mask.filter((value, i) => value !== wanted[i]).length
      console.log(`${basename(path)} ${basename(input)}: ${differ} of ${wanted.length} differ`)
      expect(differ / wanted.length, input).toBeLessThanOrEqual(MOST)
      found += mask.filter((value) => value).length
    }
    if (/busi|hippocampus/.test(path)) expect(found).toBeGreaterThan(0)
  })
