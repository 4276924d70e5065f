import { AxeBuilder } from '@axe-core/playwright'
import type { Page } from '@playwright/test'
import { expect, test } from '@playwright/test'
import { VOLUMES } from './models'
import { IMAGE, NO_IMAGE, VOLUME, give, hasModel, openModel, showResult } from './page'

/** States of the page, each with the steps to it. */
const STATES: Record<string, (page: Page) => Promise<void>> = {
  empty: async (page) => void (await page.goto('./')),
  model: async (page) => {
    await page.goto('./')
    await openModel(page)
  },
  result: showResult,
  'probability and facts': async (page) => {
    await showResult(page)
    await page.getByLabel('Probability', { exact: true }).check()
    await page.getByText('What runs where').click()
    await page.getByText('Choose another model').click()
  },
  error: async (page) => {
    await page.goto('./')
    await page.getByRole('button', { name: 'Camera' }).click() // there is no model
    await openModel(page)
    await give(page, NO_IMAGE, IMAGE)
    await expect(page.locator('.item.refused .trouble')).toBeVisible()
    await expect(page.locator('.item.done')).toBeVisible()
    await page.locator('.item.done .select').click()
    await page.getByLabel('Side of a pixel, in mm').fill('x')
  },
  volume: async (page) => {
    await page.goto('./')
    await openModel(page, VOLUMES)
    await give(page, VOLUME)
    await expect(page.getByRole('slider', { name: 'Slice' })).toBeVisible({ timeout: 100_000 })
  },
  live: async (page) => {
    await page.goto('./')
    await openModel(page)
    await page.getByRole('button', { name: 'Camera' }).click()
    await expect(page.locator('.rate')).toContainText('frames a second')
  },
}

for (const [state, reach] of Object.entries(STATES)) {
  test(`${state}: nothing serious for axe, and nothing to scroll sideways on a phone`, async ({ page }) => {
    test.skip(state === 'volume' && !hasModel(VOLUMES), `web/models has no ${VOLUMES}.onnx`)
    await reach(page)
    for (const size of [
      { width: 1280, height: 800 },
      { width: 360, height: 740 },
    ]) {
      await page.setViewportSize(size)
      expect(await page.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(size.width)
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme })
        const { violations } = await new AxeBuilder({ page }).analyze()
        const serious = violations.filter(({ impact }) => impact === 'serious' || impact === 'critical')
        const said = serious.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${colorScheme}, ${id}: ${html}`))
        expect(said).toEqual([])
      }
    }
  })
}

test('all is done by the keyboard alone', async ({ page }) => {
  page.on('filechooser', (chooser) => void chooser.setFiles([IMAGE]))
  await page.goto('./')
  await expect(page.getByRole('button', { name: /^lv-unet-busi:/ })).toBeVisible()
  const focused = () =>
    page.evaluate(() => document.activeElement!.getAttribute('aria-label') ?? document.activeElement!.textContent!)
  const tabTo = async (wanted: RegExp) => {
    for (let press = 0; press < 60; press++) {
      await page.keyboard.press('Tab')
      if (wanted.test(await focused())) return
    }
    throw new Error(`the keyboard does not come to ${wanted}`)
  }
  await page.keyboard.press('Tab')
  expect(await focused()).toBe('Skip to the result')
  await tabTo(/^lv-unet-busi:/)
  expect(await page.evaluate(() => getComputedStyle(document.activeElement!).outlineStyle)).toBe('solid')
  await page.keyboard.press('Enter')
  await expect(page.locator('.facts')).toBeVisible()

  await tabTo(/^Choose files/)
  await page.keyboard.press('Enter')
  await expect(page.locator('.found')).toBeVisible()
  await tabTo(/^malignant \(21\)/)
  await page.keyboard.press('Tab')
  expect(await focused()).toBe('Remove malignant (21).png')
  await page.keyboard.press('Tab') // what is shown
  await page.keyboard.press('ArrowRight')
  await expect(page.getByLabel('Mask', { exact: true })).toBeChecked()
  await tabTo(/^Threshold of lesion/)
  await page.keyboard.press('ArrowRight')
  await expect(page.locator('.threshold .value')).toHaveText('0.51')
  await tabTo(/^Save mask/)
  const [download] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('Space')])
  expect(download.suggestedFilename()).toContain('_mask_threshold0.51')
})

test('what happens is said to a screen reader', async ({ page }) => {
  await showResult(page)
  await expect(page.locator('p[role=status]')).toContainText(/lesion: [\d,]+ pixels/)
  await expect(page.getByRole('img', { name: /malignant \(21\)\.png\. lesion: [\d,]+ pixels/ })).toBeVisible()
  await expect(page.locator('html')).toHaveAttribute('lang', 'en')
})
