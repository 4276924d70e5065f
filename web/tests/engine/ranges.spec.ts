/** Inputs unlike those that a model knows: said in the words in which segzoo says it. */

import { mkdtempSync, readdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

import { expect, test } from '@playwright/test'

import { factsOfImages, factsOfVolumes, tiny } from './onnx'
import { openHarness } from './page'
import { runPython, samples } from './predict'

const WORDS = `
import json, sys
from pathlib import Path
from segzoo.prediction.runtimes import open_exported
from segzoo.preprocessing.ranges import unlike

def said(file, inputs):
    model = open_exported(Path(file))
    known = model.ranges or model.contract.expected
    return [unlike(model.contract.features(model.contract.read(path)), known, "") for path in inputs]

print(json.dumps([said(*one) for one in json.loads(sys.argv[1])]))
`

const images = join(samples, 'BUSI/Dataset_BUSI_with_GT/benign')
const volumes = join(samples, 'Task04_Hippocampus/imagesTr')
const pictures = readdirSync(images).map((name) => join(images, name))
const hippocampi = readdirSync(volumes).map((name) => join(volumes, name))
const ofImages = (contract: object, data?: object): Uint8Array => {
  const facts = factsOfImages(3, data && { data: { ranges: data } })
  return tiny({ facts: { ...facts, preprocessing: { ...(facts.preprocessing as object), ...contract } } })
}
const ofVolumes = (contract: Record<string, unknown>, data?: object): Uint8Array =>
  tiny({
    channels: 1,
    sides: ['d', 'h', 'w'],
    factor: 0.1,
    facts: factsOfVolumes(contract, data && { data: { ranges: data } }),
  })

const cases = [
  ['the contract of images', ofImages({ image_size: [700, 600] }), pictures],
  [
    'a training of grey images',
    ofImages(
      {},
      {
        channels: [[1], [1]],
        size: [
          [200, 300],
          [260, 330],
        ],
      },
    ),
    pictures,
  ],
  [
    'a training of bright images',
    ofImages(
      {},
      {
        intensity: [
          [9, 90, 200],
          [20, 100, 254],
        ],
        channels: [[3], [3]],
      },
    ),
    pictures,
  ],
  [
    'a training of other volumes',
    ofVolumes(
      {},
      {
        size: [
          [30, 40, 30],
          [36, 50, 35],
        ],
        spacing: [
          [1, 1, 2],
          [1, 1, 2],
        ],
      },
    ),
    hippocampi,
  ],
  [
    'intensities in standard deviations',
    ofVolumes(
      {},
      {
        intensity: [
          [-1.5, -0.5, 1],
          [-1.2, 0.1, 2.6],
        ],
      },
    ),
    hippocampi,
  ],
  ['a window', ofVolumes({ intensity: 'window', window: [-9000, -8000], mean: 0, std: 1 }), hippocampi],
] as const

test('an input is compared with what a model knows', async ({ page }) => {
  const folder = mkdtempSync(join(tmpdir(), 'tiny-'))
  const models = cases.map(([, content], i) => {
    const path = join(folder, `${i}.onnx`)
    writeFileSync(path, content)
    return path
  })
  const asked = cases.map(([, , inputs], i) => [models[i], inputs])
  const wanted: string[][][] = JSON.parse(runPython('-c', WORDS, JSON.stringify(asked)))
  const harness = await openHarness(page)
  for (const [i, [kind, , inputs]] of cases.entries()) {
    expect.soft(wanted[i].flat().length, kind).toBeGreaterThan(0)
    await harness.load(models[i])
    for (const [j, input] of inputs.entries()) {
      const { warnings } = await harness.segment(input)
      expect.soft(warnings.length, `${kind}, ${input}`).toBe(wanted[i][j].length ? 1 : 0)
      for (const words of wanted[i][j])
        expect.soft(warnings[0], `${kind}, ${input}`).toContain(words.replace('( ', '('))
    }
  }
})
