import { expect, test } from '@playwright/test'
import { openModel } from './page'

// the browser's own refusal: a camera, and nobody who allows it
test.use({
  launchOptions: {
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--use-fake-device-for-media-stream',
      '--deny-permission-prompts',
    ],
  },
})

test('a camera that the person does not allow ends in a sentence', async ({ page }) => {
  await page.goto('./')
  await openModel(page)
  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.getByRole('alert')).toContainText('The camera was not allowed')
})
