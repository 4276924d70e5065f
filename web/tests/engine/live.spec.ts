/** Frames of a camera: the same masks as of pictures, and how many a second. */

import { join } from 'node:path'

import { chromium, expect, test } from '@playwright/test'

import { tiny } from './onnx'
import { openHarness } from './page'
import { exported, samples } from './predict'

const picture = join(samples, 'BUSI/Dataset_BUSI_with_GT/benign/benign (9).png')

test('a frame is segmented as its picture is', async ({ page }) => {
  const [path] = exported(/^lv-unet-busi.*\.onnx$/)
  test.skip(!path, 'no lv-unet-busi.onnx lies in web/models: make web exports it')
  const harness = await openHarness(page)
  await harness.load(path)
  const still = await harness.segment(picture)
  const frame = await harness.frame(picture)
  expect(frame.size).toEqual(still.size.slice(1))
  expect(Buffer.compare(frame.mask, still.mask)).toBe(0)
  const { milliseconds } = await harness.frames(picture, 20, 256, 256)
  const sorted = milliseconds.sort((one, other) => one - other)
  console.log(`256 x 256, one thread: ${(1000 / sorted[10]).toFixed(1)} frames a second (median of 20)`)
})

test('WebGPU is taken where it gives the same, and its files are loaded only then', async () => {
  const args = [
    '--no-sandbox',
    '--enable-unsafe-webgpu',
    '--use-webgpu-adapter=swiftshader',
    '--enable-features=Vulkan',
  ]
  const browser = await chromium.launch({ executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium', args })
  const page = await browser.newPage()
  const loaded: string[] = []
  page.on('request', (request) => loaded.push(request.url()))
  const harness = await openHarness(page)
  const model = { name: 'tiny.onnx', content: tiny() }
  const wasm = await harness.load(model, 'wasm').then(() => harness.segment(picture))
  expect(loaded.filter((url) => /asyncify|webgpu/.test(url))).toEqual([])
  const { runtime } = await harness.load(model, 'auto')
  test.skip(runtime !== 'WebGPU' && !runtime.includes('('), 'this Chromium has no WebGPU, not even in software')
  expect(runtime).toBe('WebGPU')
  expect(loaded.filter((url) => /asyncify.*\.wasm/.test(url)).length).toBe(1)
  const gpu = await harness.segment(picture)
  const worst = gpu.probabilities.reduce(
    (most, value, i) => Math.max(most, Math.abs(value - wasm.probabilities[i])),
    0,
  )
  expect(worst).toBeLessThan(1e-5)
  await browser.close()
})

test('without WebGPU its files are not loaded, and the page says so where it was asked for', async ({ page }) => {
  const loaded: string[] = []
  page.on('request', (request) => loaded.push(request.url()))
  const harness = await openHarness(page)
  const model = { name: 'tiny.onnx', content: tiny() }
  expect((await harness.load(model, 'auto')).runtime).toBe('WebAssembly, 1 thread')
  expect((await harness.load(model, 'webgpu')).runtime).toMatch(/^WebAssembly, 1 thread \(.*WebGPU/)
  expect(loaded.filter((url) => /asyncify|webgpu/.test(url))).toEqual([])
})
