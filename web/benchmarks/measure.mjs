/**
 * What the page takes in Chromium, and what its files weigh; benchmarks/web.py calls it.
 *
 *     node measure.mjs page ISOLATED PLAIN MODEL IMAGE FRAMES   times, by the addresses of a site with and without headers
 *     node measure.mjs bytes FILE...                            sizes as they are and compressed
 */

import { readFileSync } from 'node:fs'
import { brotliCompressSync, gzipSync } from 'node:zlib'

import { chromium } from '@playwright/test'

const VISITS = 5
const WARM = 4000 // milliseconds of live frames before those that count: the page's rate is of its last two seconds
const RATES = 5

const QUIET = ['--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
const [mode, ...given] = process.argv.slice(2)
console.log(JSON.stringify(mode === 'page' ? await measurePage(...given) : given.map(sizes)))

async function measurePage(isolated, plain, model, image, frames) {
  const camera = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream', `--use-file-for-fake-video-capture=${frames}`]
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', ...QUIET, ...camera],
  })
  try {
    const first = []
    for (let visit = 0; visit < VISITS; visit++) first.push(await firstMask(browser, isolated, model, image))
    return { chromium: browser.version(), first, live: await live(browser, plain, model) }
  } finally {
    await browser.close()
  }
}

/** Milliseconds from the address to the mask of an image, with nothing in the cache; the clicks are a script's. */
async function firstMask(browser, address, model, image) {
  const context = await browser.newContext()
  const page = await context.newPage()
  const start = performance.now()
  await page.goto(address, { waitUntil: 'commit' })
  await choose(page, model)
  await page.locator('.inputs input[type=file]').setInputFiles(image)
  await page.locator('.item.done').waitFor()
  const milliseconds = performance.now() - start
  const runtime = await runtimeOf(page)
  await context.close()
  return { milliseconds, runtime }
}

/** Frames a second of the camera, as the page says them, and milliseconds a frame; in one thread, as it is not isolated. */
async function live(browser, address, model) {
  const context = await browser.newContext({ serviceWorkers: 'block', permissions: ['camera'] })
  const page = await context.newPage()
  await page.goto(address)
  await choose(page, model)
  await page.locator('.facts').waitFor()
  const runtime = await runtimeOf(page)
  await page.getByRole('button', { name: 'Camera' }).click()
  await page.locator('.rate').filter({ hasText: 'second' }).waitFor()
  await page.waitForTimeout(WARM)
  const rates = []
  for (let i = 0; i < RATES; i++) {
    await page.waitForTimeout(2000)
    const [rate, milliseconds] = (await page.locator('.rate').textContent()).match(/[\d.]+/g).map(Number)
    rates.push({ rate, milliseconds })
  }
  await context.close()
  return { runtime, rates }
}

async function choose(page, model) {
  await page.getByRole('button', { name: new RegExp(`^${model}:`) }).click()
}

async function runtimeOf(page) {
  return (await page.locator('.facts').textContent()).match(/Web(Assembly, \d+ threads?|GPU)/)?.[0] ?? ''
}

function sizes(file) {
  const content = readFileSync(file)
  return { plain: content.length, gzip: gzipSync(content, { level: 9 }).length, brotli: brotliCompressSync(content).length }
}
