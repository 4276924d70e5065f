/** Masks of the page's engine beside those of segzoo predict, of the same exported file and the same inputs. */

import { createHash } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { expect, test } from '@playwright/test'

import { factsOfImages, factsOfVolumes, tiny } from './onnx'
import { openHarness } from './page'
import { anySize, predicted, samples } from './predict'

const busi = join(samples, 'BUSI/Dataset_BUSI_with_GT')
const images = ['benign', 'malignant'].flatMap((kind) =>
  readdirSync(join(busi, kind))
    .filter((name) => !name.includes('mask'))
    .map((name) => join(busi, kind, name)),
)
const hippocampi = join(samples, 'Task04_Hippocampus/imagesTr')
const volumes = readdirSync(hippocampi)
  .slice(0, 2)
  .map((name) => join(hippocampi, name))
const ofVolumes = { channels: 1, sides: ['d', 'h', 'w'], factor: 0.02 }
const MOST = 5e-4 // part of the pixels that may differ

const folder = mkdtempSync(join(tmpdir(), 'tiny-'))
const thresholds = { 'channel 1': { threshold: 0.2 }, 'channel 2': { threshold: 0.35 } }
const tuned = { multilabel: false, postprocessing: { classes: thresholds, temperature: 2 } }
const lesion = { num_classes: 1, class_names: ['background', 'bright'], multilabel: false }
const bright = { ...lesion, postprocessing: { classes: { bright: { threshold: 0.3 } }, temperature: 2 } }

test.setTimeout(300_000) // volumes take one network many windows

for (const [kind, content, inputs] of [
  ['several classes', tiny({ facts: factsOfImages(3, tuned), tempered: true }), images],
  ['one class', tiny({ channels: 1, facts: factsOfImages(1, bright), tempered: true }), images],
  [
    'volumes',
    tiny({ ...ofVolumes, sums: true, facts: factsOfVolumes({}, { postprocessing: bright.postprocessing }) }),
    volumes,
  ],
] as const)
  test(`thresholds of ${kind} make the masks of segzoo predict, and a temperature does not`, async ({ page }) => {
    const path = join(folder, 'tiny.onnx')
    writeFileSync(path, content)
    const expected = predicted(path, [...inputs])
    const harness = await openHarness(page)
    await harness.load(path)
    const values = new Set<number>()
    for (const input of inputs) {
      const { mask } = await harness.segment(input)
      mask.forEach((value) => values.add(value))
      expect(Buffer.compare(mask, expected.get(input)!), input).toBe(0)
    }
    expect(values.size).toBeGreaterThan(1)
  })

test('a file for images of any size gives the masks of segzoo predict', async ({ page }) => {
  const path = anySize()
  const harness = await openHarness(page)
  const model = await harness.load(path)
  expect(model.sha256).toBe(createHash('sha256').update(readFileSync(path)).digest('hex'))
  const expected = predicted(path, images)
  let found = 0
  for (const input of images) {
    const { mask } = await harness.segment(input)
    const wanted = expected.get(input)!
    expect(mask.length, input).toBe(wanted.length)
    const differ = mask.filter((value, i) => value !== wanted[i]).length
    expect(differ / wanted.length, input).toBeLessThanOrEqual(MOST)
    found += mask.filter((value) => value).length
  }
  expect(found).toBeGreaterThan(0)
})
