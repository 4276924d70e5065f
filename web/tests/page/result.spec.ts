import { readFileSync } from 'node:fs'
import type { Download, Page } from '@playwright/test'
import { expect, test } from '@playwright/test'
import { decode } from 'fast-png'
import { IMAGE, NO_IMAGE, OTHER_IMAGE, give, openModel, pixelsOf, showResult } from './page'

async function saved(page: Page, button: string): Promise<{ name: string; pixels: ReturnType<typeof decode> }> {
  const [download]: [Download, void] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: button }).click(),
  ])
  return { name: download.suggestedFilename(), pixels: decode(readFileSync(await download.path())) }
}

function sum(values: Iterable<number>): number {
  return [...values].reduce((total, value) => total + value, 0)
}

test('mask and overlay that are saved are what is shown', async ({ page }) => {
  await showResult(page)
  const mask = await saved(page, 'Save mask (PNG)')
  const overlay = await saved(page, 'Save overlay (PNG)')
  const image = decode(readFileSync(IMAGE))

  expect(mask.name).toBe('malignant (21)_mask.png')
  expect(mask.pixels).toMatchObject({ width: image.width, height: image.height, channels: 1, depth: 8 })
  expect(new Set(mask.pixels.data)).toEqual(new Set([0, 1]))
  expect(sum(mask.pixels.data)).toBe(await pixelsOf(page))

  expect(overlay.name).toBe('malignant (21)_overlay.png')
  expect(overlay.pixels).toMatchObject({ width: image.width, height: image.height, channels: 3 })
  const orange = [230, 159, 0]
  const wrong = [...mask.pixels.data.keys()].filter((at) => {
    const drawn = [...overlay.pixels.data.slice(3 * at, 3 * at + 3)].join()
    const stored = [0, 1, 2].map((channel) => image.data[image.channels * at + (image.channels > 2 ? channel : 0)]!)
    const tinted = stored.map((value, channel) => Math.floor(0.75 * value + 0.25 * orange[channel]!))
    return ![mask.pixels.data[at] ? tinted.join() : stored.join(), mask.pixels.data[at] && orange.join()].includes(
      drawn,
    )
  })
  expect(wrong).toEqual([])
})

test('a threshold is applied to the probabilities, and its mask named after it', async ({ page }) => {
  await showResult(page)
  const own = await pixelsOf(page)
  const slider = page.getByRole('slider', { name: 'Threshold of lesion' })
  await slider.fill('0.9')
  const strict = await pixelsOf(page)
  expect(strict).toBeLessThan(own)
  const mask = await saved(page, 'Save mask (PNG)')
  expect(mask.name).toBe('malignant (21)_mask_threshold0.90.png')
  expect(sum(mask.pixels.data)).toBe(strict)
  await slider.fill('0.1')
  expect(await pixelsOf(page)).toBeGreaterThan(own)
  await page.getByRole('button', { name: 'Reset the threshold of lesion' }).click()
  expect(await pixelsOf(page)).toBe(own)
  await expect(slider).toHaveValue('0.5')
})

test('areas are in square millimetres where the person says how large a pixel is', async ({ page }) => {
  await showResult(page)
  const pixels = await pixelsOf(page)
  const side = page.getByLabel('Side of a pixel, in mm')
  await side.fill('0,5') // as in much of Europe
  const area = new Intl.NumberFormat('en', { maximumSignificantDigits: 4 }).format(pixels / 4)
  await expect(page.locator('.more')).toContainText(`${area} mm²`)
  await side.fill('-1')
  await expect(page.getByText('Type a number above 0')).toBeVisible()
  await expect(page.locator('.more')).not.toContainText('mm²')
})

test('a bad file has its sentence in its row, and the others go on', async ({ page }) => {
  await page.goto('./')
  await give(page, IMAGE, NO_IMAGE, OTHER_IMAGE)
  await expect(page.getByText('waits for a model', { exact: true })).toHaveCount(3)
  await openModel(page)
  await expect(page.getByText('3 of 3 done, 1 not segmented')).toBeVisible()
  const row = page.getByRole('listitem').filter({ hasText: 'notes.txt' }).first()
  await expect(row.locator('.trouble')).toContainText('notes.txt')
  await expect(page.locator('.item.done')).toHaveCount(2)
  await page.getByRole('button', { name: 'benign (9).png' }).first().click()
  await expect(page.getByRole('img', { name: /^benign \(9\)\.png\. lesion: [\d,]+ pixels/ })).toBeVisible()
  await page.getByRole('button', { name: 'Remove notes.txt' }).click()
  await expect(page.locator('.item')).toHaveCount(2)
})

test('a file that is no model ends in a sentence, and the model before stays', async ({ page }) => {
  await showResult(page)
  const pixels = await pixelsOf(page)
  const bad = { name: 'bad.onnx', mimeType: '', buffer: Buffer.from('nothing') }
  await page.locator('.model input[type=file]').setInputFiles(bad)
  await expect(page.locator('.model .trouble')).toContainText('bad.onnx')
  await expect(page.locator('.current')).toContainText('lv-unet-busi')
  await give(page, OTHER_IMAGE)
  await expect(page.locator('.item.done')).toHaveCount(2)
  await page.getByRole('button', { name: 'malignant (21).png' }).first().click()
  expect(await pixelsOf(page)).toBe(pixels)
})

test('a file of the site that is not the one of its list is refused', async ({ page }) => {
  await page.route('**/models/models.json', async (route) => {
    const list = await (await route.fetch()).text()
    await route.fulfill({
      body: list.replace(/"sha256": ?"\w{4}/g, '"sha256": "0000'),
      contentType: 'application/json',
    })
  })
  await page.goto('./')
  await page.getByRole('button', { name: /^lv-unet-busi:/ }).click()
  await expect(page.locator('.model .trouble')).toContainText('lv-unet-busi')
  await give(page, IMAGE)
  await expect(page.getByText('waits for a model', { exact: true })).toBeVisible()
})

test('files are dropped and pasted', async ({ page }) => {
  await page.goto('./')
  await openModel(page)
  const content = readFileSync(IMAGE).toString('base64')
  for (const [kind, name] of [
    ['drop', 'dropped.png'],
    ['paste', 'pasted.png'],
  ] as const) {
    await page.evaluate(
      async ([event, file, bytes]) => {
        const given = new DataTransfer()
        given.items.add(
          new File([Uint8Array.from(atob(bytes), (one) => one.charCodeAt(0))], file, { type: 'image/png' }),
        )
        const made =
          event === 'drop'
            ? new DragEvent(event, { dataTransfer: given, bubbles: true, cancelable: true })
            : new ClipboardEvent(event, { clipboardData: given, bubbles: true, cancelable: true })
        document.body.dispatchEvent(made)
      },
      [kind, name, content] as const,
    )
    await expect(page.locator('.item.done').filter({ hasText: name })).toBeVisible()
  }
})
