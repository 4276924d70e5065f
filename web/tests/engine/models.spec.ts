/** Files of models that cannot be used, each refused in a sentence that names it; what was open stays open. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'

import { expect, test } from '@playwright/test'
import { encode } from 'fast-png'

import { factsOfImages, factsOfVolumes, tiny } from './onnx'
import { ISOLATED, openHarness, refusal } from './page'
import { exported, samples } from './predict'

const good = tiny()
const changed = (entries: Record<string, unknown>, contract: Record<string, unknown> = {}): Uint8Array => {
  const facts = factsOfImages(3, entries)
  return tiny({ facts: { ...facts, preprocessing: { ...(facts.preprocessing as object), ...contract } } })
}
const cleaned = (classes: unknown, more = {}): Uint8Array => changed({ postprocessing: { classes, ...more } })
const volumes = (contract: Record<string, unknown>): Uint8Array =>
  tiny({ channels: 1, sides: ['d', 'h', 'w'], facts: factsOfVolumes(contract) })

const refused: [kind: string, content: Uint8Array, word: RegExp][] = [
  ['nothing', new Uint8Array(), /no ONNX/],
  ['words', Buffer.from('<!doctype html><p>Not found</p>'), /no ONNX/],
  ['a picture', readFileSync(join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png')), /no ONNX/],
  ['a cut file', good.subarray(0, good.length - 40), /cut/],
  ['weights elsewhere', tiny({ external: true }), /another file/],
  ['a foreign file', tiny({ facts: null }), /not written by segzoo/],
  ['metadata that are no JSON', tiny({ facts: '{"model": ' }), /JSON/],
  ['metadata that are a list', tiny({ facts: '[]' }), /object/],
  [
    'metadata without classes',
    changed({ class_names: undefined, num_classes: undefined }),
    /class_names, num_classes/,
  ],
  ['too few names', changed({ class_names: ['one'] }), /class_names/],
  ['names that are none', changed({ class_names: [1, 2, 3] }), /class_names/],
  ['too many classes', changed({ num_classes: 5000 }), /5,000/],
  ['half a class', changed({ num_classes: 2.5 }), /num_classes/],
  ['multilabel in words', changed({ multilabel: 'no' }), /multilabel/],
  ['a contract that is none', tiny({ facts: factsOfImages(3, { preprocessing: 7 }) }), /preprocessing/],
  ['an unknown contract', changed({}, { gamma: 2 }), /gamma/],
  ['no channels', changed({}, { channels: 0 }), /channels/],
  ['a size of one side', changed({}, { image_size: [256] }), /image_size/],
  ['an enormous size', changed({}, { image_size: [90000, 90000] }), /limit/],
  ['a mean for each of two', changed({}, { mean: [0, 0] }), /mean/],
  ['a range that falls', changed({}, { intensity_range: [9, 1] }), /intensity_range/],
  ['an orientation that is none', volumes({ orientation: 'SAX' }), /orientation/],
  ['a spacing of nothing', volumes({ spacing: [1, 0, 1] }), /spacing/],
  ['a window without a mean', volumes({ intensity: 'window', window: [0, 1] }), /mean/],
  ['an unknown intensity', volumes({ intensity: 'log' }), /intensity/],
  ['unknown post-processing', changed({ postprocessing: { steps: [] } }), /steps/],
  ['post-processing of no class', cleaned({ lesion: {} }), /lesion/],
  ['an unknown step', cleaned({ 'channel 0': { eroded: 2 } }), /eroded/],
  ['a threshold above 1', cleaned({ 'channel 0': { threshold: 2 } }), /threshold/],
  ['a size in mm3', cleaned({ 'channel 0': { smallest_part: 2, unit: 'mm3' } }), /unit/],
  ['a temperature of nothing', cleaned({}, { temperature: 0 }), /temperature/],
  ['values of regions for two', changed({ region_values: [1, 2] }), /region_values/],
  ['a contract of other inputs', tiny({ sides: [4, 4, 4] }), /preprocessing/],
]

test('models that cannot be used are refused, and what was open stays open', async ({ page }) => {
  const harness = await openHarness(page)
  const picture = join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png')
  expect(await refusal(harness.segment(picture))).toMatch(/No model/)
  await harness.load({ name: 'good.onnx', content: good })
  for (const [kind, content, word] of refused) {
    const sentence = await refusal(harness.load({ name: 'bad.onnx', content }))
    expect.soft(sentence, kind).toMatch(/^bad\.onnx .*\.$/)
    expect.soft(sentence, kind).toMatch(word)
  }
  expect((await harness.segment(picture)).probabilities.length).toBeGreaterThan(0)
})

test('inputs of another kind than the model takes are refused', async ({ page }) => {
  const harness = await openHarness(page)
  const picture = {
    name: 'scan.png',
    content: readFileSync(join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png')),
  }
  const volume = {
    name: 'scan.nii.gz',
    content: readFileSync(join(samples, 'Task04_Hippocampus/imagesTr/hippocampus_149.nii.gz')),
  }
  await harness.load({ name: 'images.onnx', content: good })
  expect(await refusal(harness.segment(volume))).toMatch(/^scan\.nii\.gz is a volume/)
  await harness.load({ name: 'fixed.onnx', content: tiny({ sides: [64, 64] }) })
  expect(await refusal(harness.segment(picture))).toMatch(/^scan\.png is \d+ x \d+ .* 64 x 64/)
  await harness.load({ name: 'volumes.onnx', content: volumes({}) })
  expect(await refusal(harness.segment(picture))).toMatch(/^scan\.png is a picture/)
  expect(await refusal(harness.segment({ name: 'scan.nrrd', content: Buffer.from('NRRD0004') }))).toMatch(
    /^scan\.nrrd /,
  )
  await harness.load({
    name: 'windows.onnx',
    content: tiny({ channels: 1, sides: [64, 64, 64], facts: factsOfVolumes() }),
  })
  expect(await refusal(harness.segment(volume))).toMatch(/^scan\.nii\.gz has .* 64 x 64 x 64/)
  await harness.load({
    name: 'two.onnx',
    content: tiny({ facts: factsOfImages(3, { num_classes: 2, class_names: ['a', 'b'] }) }),
  })
  expect(await refusal(harness.segment(picture))).toMatch(/gives 3 classes .* 2/)
  await harness.load({ name: 'nan.onnx', content: tiny({ factor: NaN }) })
  expect(await refusal(harness.segment(picture))).toMatch(/NaN/)
})

test('a model says what it is, and what is done to its masks', async ({ page }) => {
  const harness = await openHarness(page)
  const classes = {
    'channel 1': { threshold: 0.25, filled_holes: true, smallest_part: 20 },
    'channel 2': { largest_component: true },
  }
  const model = await harness.load({
    name: 'tuned.onnx',
    content: changed({
      postprocessing: { classes, temperature: 1.5, doubt: 'entropy' },
      region_values: [1, 2, 7],
      checkpoint: { name: 'tuned', licences: { code: 'Apache-2.0', weights: null } },
    }),
  })
  expect(model).toMatchObject({
    name: 'tuned',
    classNames: ['channel 0', 'channel 1', 'channel 2'],
    thresholds: [0.5, 0.25, 0.5],
    regionValues: [1, 2, 7],
    dimensions: 2,
    channels: 3,
    fixedSize: null,
    licences: { code: 'Apache-2.0' },
    inGraph: 'channel 1: threshold 0.25; temperature 1.5',
    leftToPredict: 'channel 1: holes filled, no part below 20 pixels; channel 2: largest component only',
  })
})

test('an input that takes more memory than there is ends in a sentence, and the next one is segmented', async ({
  page,
}) => {
  let workers = 0
  page.on('worker', () => workers++)
  const harness = await openHarness(page)
  await harness.load({ name: 'greedy.onnx', content: tiny({ greedy: true }) })
  const picture = join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png') // its pixels squared are 25 GB
  expect(await refusal(harness.segment(picture))).toMatch(/^There is not enough memory .* benign \(9\)\.png; /)
  const small = {
    name: 'small.png',
    content: encode({ width: 9, height: 7, channels: 1, data: new Uint8Array(63).fill(200) }),
  }
  expect((await harness.segment(small)).probabilities[0]).toBeGreaterThan(0.7)
  expect(workers).toBe(2) // the first one went, and its memory with it
})

test('a runtime that cannot be fetched is no fault of the file, and is fetched again', async ({ page }) => {
  await page.route('**/*.wasm', (route) => route.abort())
  const harness = await openHarness(page)
  expect(await refusal(harness.load({ name: 'good.onnx', content: good }))).toMatch(
    /^The browser cannot .* good\.onnx/,
  )
  await page.unroute('**/*.wasm')
  expect((await harness.load({ name: 'good.onnx', content: good })).name).toBe('tiny')
})

test('threads are taken where the page is isolated', async ({ page }) => {
  const [path] = exported(/^lv-unet-busi.*\.onnx$/)
  test.skip(!path, 'no lv-unet-busi.onnx lies in web/models: make web exports it')
  const harness = await openHarness(page, ISOLATED)
  expect(await page.evaluate(() => self.crossOriginIsolated)).toBe(true)
  const cores = await page.evaluate(() => navigator.hardwareConcurrency)
  const { runtime } = await harness.load(path)
  expect(runtime).toBe(`WebAssembly, ${Math.min(cores, 4)} thread${cores > 1 ? 's' : ''}`)
  const picture = join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png')
  expect((await harness.segment(picture)).mask.some(Boolean)).toBe(true)
})
