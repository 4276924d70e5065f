/** NIfTI files as people have them: the masks that segzoo predict makes, at the same place, or a sentence. */

import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'

import { expect, test } from '@playwright/test'

import { factsOfVolumes, tiny } from './onnx'
import { openHarness, refusal } from './page'
import { maskIn, predictedFiles, runPython } from './predict'

const PLACE = [
  [76, 32],
  [123, 1],
  [252, 72],
] // fields of the header that say where the voxels lie: first byte, bytes
const folder = mkdtempSync(join(tmpdir(), 'odd-'))
const model = join(mkdtempSync(join(tmpdir(), 'tiny-')), 'tiny.onnx')
const content = (contract = {}): Uint8Array =>
  tiny({ channels: 1, sides: ['depth', 'height', 'width'], factor: 0.05, sums: true, facts: factsOfVolumes(contract) })
let warnings: Record<string, number | null>
let masks: Map<string, string>

test.beforeAll(() => {
  writeFileSync(model, content())
  warnings = JSON.parse(runPython(join(import.meta.dirname, 'odd_volumes.py'), folder))
  masks = predictedFiles(
    model,
    Object.keys(warnings).filter((path) => warnings[path] !== null),
  )
})

test('volumes are segmented as segzoo predict does, or refused in a sentence', async ({ page }) => {
  const harness = await openHarness(page)
  await harness.load(model)
  for (const [path, warned] of Object.entries(warnings)) {
    const file = basename(path)
    if (warned === null) {
      const sentence = await refusal(harness.segment(path))
      expect.soft(sentence, file).toContain(file)
      expect.soft(sentence, file).toMatch(/\.$/)
      continue
    }
    const found = await harness.segment(path)
    const wanted = maskIn(masks.get(path)!)
    expect.soft(wanted.some(Boolean) && !wanted.every(Boolean), file).toBe(true)
    expect.soft(found.mask.filter((value, i) => value !== wanted[i]).length, `${file} differs`).toBe(0)
    expect.soft(found.warnings.length, `${file}: ${found.warnings}`).toBe(warned)
    const [own, theirs] = [gunzipSync(found.nifti), unpacked(masks.get(path)!)]
    expect.soft(own.length, file).toBe(theirs.length)
    for (const [first, count] of PLACE)
      expect
        .soft(own.subarray(first, first + count), `${file}, byte ${first}`)
        .toEqual(theirs.subarray(first, first + count))
    expect.soft(own.subarray(352), file).toEqual(theirs.subarray(352))
  }
})

test('a volume that would have to be resampled is left to segzoo predict', async ({ page }) => {
  const harness = await openHarness(page)
  await harness.load({ name: 'tiny.onnx', content: content({ spacing: [2, 1, 1.5] }) })
  const plain = join(folder, 'plain.nii')
  expect((await harness.segment(plain)).mask.length).toBe(11 * 13 * 9)
  await harness.load({ name: 'tiny.onnx', content: content({ spacing: [1, 1, 1] }) })
  expect(await refusal(harness.segment(plain))).toMatch(/^plain\.nii .* segzoo predict/)
})

/** Return a file's bytes, unpacked. */
function unpacked(path: string): Buffer {
  const bytes = readFileSync(path)
  return path.endsWith('.gz') ? gunzipSync(bytes) : bytes
}
