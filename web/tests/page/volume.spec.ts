import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { expect, test } from '@playwright/test'
import { VOLUMES } from './models'
import { IMAGE, VOLUME, give, hasModel, openModel } from './page'

test.skip(!hasModel(VOLUMES), `web/models has no ${VOLUMES}.onnx`)

test('a volume is gone through slice by slice, measured in ml and saved as NIfTI', async ({ page }) => {
  await page.goto('./')
  await openModel(page, VOLUMES)
  await give(page, VOLUME, IMAGE)
  await expect(page.locator('.item.refused .trouble')).toContainText('malignant (21).png', { timeout: 100_000 })
  await page.getByRole('button', { name: 'hippocampus_148' }).first().click()
  const slider = page.getByRole('slider', { name: 'Slice' })
  await expect(slider).toBeVisible()
  const canvas = page.locator('.frame canvas')
  const before = await canvas.screenshot()
  await slider.focus()
  for (let press = 0; press < 5; press++) await page.keyboard.press('ArrowLeft')
  expect(before.equals(await canvas.screenshot())).toBe(false)
  await expect(page.locator('.more').first()).toContainText(/[\d.]+ ml · /)
  await expect(page.getByText('so there is no threshold')).toBeVisible()

  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Save mask (NIfTI)' }).click(),
  ])
  expect(download.suggestedFilename()).toBe('hippocampus_148_mask.nii.gz')
  const mask = gunzipSync(readFileSync(await download.path()))
  const given = gunzipSync(readFileSync(VOLUME))
  expect(mask.subarray(40, 48)).toEqual(given.subarray(40, 48)) // dimensions
  const values = mask.subarray(mask.readFloatLE(108))
  const counts = await page.locator('.count').allTextContents()
  counts.forEach((said, index) => {
    const count = values.reduce((sum, value) => sum + Number(value === index + 1), 0)
    expect(count).toBe(Number(said.replace(/\D/g, '')))
  })

  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.getByRole('alert')).toContainText('segments volumes')
})
