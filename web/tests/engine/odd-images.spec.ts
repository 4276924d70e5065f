/** Pictures as people have them: the pixels that segzoo reads, its warnings, or a sentence. */

import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'

import { expect, test } from '@playwright/test'

import { factsOfImages, tiny } from './onnx'
import { openHarness, refusal } from './page'
import { runPython } from './predict'

type Read = { refused: string } | { shape: [number, number, number]; pixels: string; warnings: number }

const REFUSED_HERE = ['print.jpg', 'packbits.tif', 'one-bit.tif', 'other.gif', 'a.tif'] // and read by segzoo predict
const folder = mkdtempSync(join(tmpdir(), 'odd-'))
const others = join(process.env.SEGZOO_SHARED ?? join(import.meta.dirname, '../../../../shared'), 'cases/images')
let expected: Record<string, Record<'1' | '3', Read>>

test.beforeAll(() => {
  expected = JSON.parse(runPython(join(import.meta.dirname, 'odd_images.py'), folder, others))
})

for (const channels of [1, 3] as const)
  test(`pictures for ${channels} channels are what segzoo reads`, async ({ page }) => {
    const harness = await openHarness(page)
    const name = `tiny-${channels}.onnx`
    await harness.load({ name, content: tiny({ channels, facts: factsOfImages(channels) }) })
    for (const [path, byChannels] of Object.entries(expected)) {
      const file = basename(path)
      const read = byChannels[channels]
      if ('refused' in read || REFUSED_HERE.includes(file)) {
        const sentence = await refusal(harness.segment(path))
        expect.soft(sentence, file).toContain(file)
        expect.soft(sentence, file).toMatch(/^[A-Z\w].*\.$/)
        continue
      }
      const found = await harness.segment(path)
      expect.soft([...found.size.slice(1), channels], file).toEqual(read.shape)
      const wanted = Buffer.from(read.pixels, 'base64')
      const seen = wanted.map((_, i) => found.picture[4 * Math.floor(i / channels) + (i % channels)])
      const worst = wanted.reduce((most, value, i) => Math.max(most, Math.abs(value - seen[i])), 0)
      expect.soft(worst, `${file} differs`).toBe(0)
      const voxels = found.size[1] * found.size[2]
      const given = wanted.map((_, i) =>
        Math.round(255 * found.probabilities[(i % channels) * voxels + Math.floor(i / channels)]),
      )
      expect.soft(Buffer.compare(given, Buffer.from(seen)), `${file} goes to the network as it is shown`).toBe(0)
      const warnings = found.warnings.filter((warning) => !warning.includes('unlike'))
      expect.soft(warnings.length, `${file}: ${warnings}`).toBe(read.warnings)
    }
  })
