/** Draw the pictures of the page that the documentation shows: node pictures.mjs ADDRESS, of a site that is served. */

import { readdirSync } from 'node:fs'
import { join } from 'node:path'

import { chromium } from '@playwright/test'

const ROOT = join(import.meta.dirname, '..')
const SAMPLES = join(ROOT, 'tests/samples/BUSI/Dataset_BUSI_with_GT/malignant')
const PICTURES = { 'page.png': { width: 1280, height: 760 }, 'page-phone.png': { width: 390, height: 844 } }

const images = readdirSync(SAMPLES).filter((name) => !name.includes('mask'))
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
})
for (const [name, viewport] of Object.entries(PICTURES)) {
  const page = await browser.newPage({ viewport })
  await page.goto(process.argv[2])
  await page.getByRole('button', { name: /^lv-unet-busi:/ }).click()
  await page.locator('.facts').waitFor()
  await page.locator('.inputs input[type=file]').setInputFiles(images.map((image) => join(SAMPLES, image)))
  await page.locator('.progressed', { hasText: `${images.length} of` }).waitFor()
  await page.locator('.found').scrollIntoViewIfNeeded()
  await page.screenshot({ path: join(ROOT, 'docs', name) })
}
await browser.close()
