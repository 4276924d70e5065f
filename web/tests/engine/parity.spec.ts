/** Masks of the page's engine beside those of segzoo predict, of the same exported file and the same inputs. */

import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'

import { expect, test } from '@playwright/test'

import { openHarness } from './page'
import { anySize, exported, predicted, samples } from './predict'

const busi = join(samples, 'BUSI/Dataset_BUSI_with_GT')
const images = ['benign', 'malignant'].flatMap((kind) =>
  readdirSync(join(busi, kind))
    .filter((name) => !name.includes('mask'))
    .map((name) => join(busi, kind, name)),
)
const hippocampi = join(samples, 'Task04_Hippocampus/imagesTr')
const volumes = readdirSync(hippocampi).map((name) => join(hippocampi, name))
const MOST = 5e-4 // part of the pixels that may differ

for (const [model, inputs, size] of [
  ['lv-unet-busi of any size', images, null],
  ['lv-unet-busi', images, [256, 256]],
  ['mednext-s-k3-hippocampus', volumes, null],
] as const) {
  test(`${model} gives the masks of segzoo predict`, async ({ page }) => {
    const path = size || inputs === volumes ? exported(`${model}.onnx`) : anySize()
    test.skip(!existsSync(path), `${path} is not there: make site exports it`)
    const expected = predicted(path, [...inputs])
    const harness = await openHarness(page)
    const opened = await harness.load(path)
    expect(opened.fixedSize).toEqual(size)
    expect(opened.sha256).toMatch(/^[0-9a-f]{64}$/)
    let found = 0
    for (const input of inputs) {
      const { mask } = await harness.segment(input)
      const wanted = expected.get(input)!
      expect(mask.length, input).toBe(wanted.length)
      const differ = mask.filter((value, i) => value !== wanted[i]).length
      console.log(`${model} ${input.slice(samples.length)}: ${differ} of ${wanted.length} differ`)
      expect(differ / wanted.length, input).toBeLessThanOrEqual(MOST)
      found += mask.filter((value) => value).length
    }
    expect(found).toBeGreaterThan(0)
  })
}
