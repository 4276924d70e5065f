import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { BrowserContext, Page } from '@playwright/test'
import { expect, test } from '@playwright/test'
import { IMAGE, give, openModel, pixelsOf } from './page'
import type { Site } from './site'
import { startSite } from './site'

let site: Site
test.beforeEach(async () => void (site = await startSite()))
test.afterEach(async () => site.stop())

/** Wait until the service worker answers the page's requests. */
async function controlled(page: Page): Promise<void> {
  await page.waitForFunction(() => navigator.serviceWorker.controller !== null)
}

async function stored(page: Page): Promise<string[]> {
  return page.evaluate(async () => {
    const caches = await self.caches.keys()
    const requests = await Promise.all(caches.map(async (name) => (await self.caches.open(name)).keys()))
    return requests.flat().map(({ url }) => new URL(url).pathname)
  })
}

function recordRequests(context: BrowserContext): string[] {
  const asked: string[] = []
  context.on('request', (request) => asked.push(request.url()))
  return asked
}

test('page, worker and service worker ask their own origin alone', async ({ page, context }) => {
  const asked = recordRequests(context)
  await page.goto(site.address)
  await openModel(page)
  await give(page, IMAGE)
  await expect(page.locator('.found')).toBeVisible()
  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.locator('.rate')).toContainText('frames a second')
  await controlled(page)
  expect(context.serviceWorkers().map((worker) => worker.url())).toEqual([`${site.address}service-worker.js`])
  expect(asked.some((url) => url.endsWith('.wasm'))).toBe(true) // workers' requests are among them
  expect(asked.filter((url) => !url.startsWith(site.address) && !url.startsWith(`blob:${site.address}`))).toEqual([])
})

test('the policy refuses inline scripts, and other sites to page and worker', async ({ page }) => {
  await page.goto(site.address)
  await openModel(page)
  const [worker] = page.workers()
  const foreign = await startSite() // one that would answer
  const reach = (address: string) =>
    fetch(address, { mode: 'no-cors' }).then(
      () => 'reached',
      () => 'refused',
    )
  expect(await page.evaluate(reach, site.address)).toBe('reached')
  expect(await page.evaluate(reach, foreign.address)).toBe('refused')
  expect(await worker!.evaluate(reach, site.address)).toBe('reached')
  expect(await worker!.evaluate(reach, foreign.address)).toBe('refused')
  const ran = await page.evaluate(() => {
    const script = document.createElement('script')
    script.textContent = 'window.ran = true'
    document.body.append(script)
    return 'ran' in window
  })
  expect(ran).toBe(false)
  await foreign.stop()
})

test('a second load works with the server stopped, with threads', async ({ page, context }) => {
  await page.goto(site.address)
  await openModel(page)
  await controlled(page)
  await expect.poll(() => stored(page)).toContain('/models/lv-unet-busi.onnx')
  await expect.poll(() => stored(page)).toContain('/models/models.json')
  expect((await stored(page)).filter((path) => /webgpu|asyncify|jsep/.test(path))).toEqual([])
  await page.close()
  await site.stop()

  const again = await context.newPage()
  await again.goto(site.address)
  await openModel(again)
  await give(again, IMAGE)
  await expect(again.locator('.found')).toBeVisible()
  expect(await pixelsOf(again)).toBeGreaterThan(0)
  expect(await again.evaluate(() => crossOriginIsolated)).toBe(true)
  await expect(again.locator('.facts')).toContainText(/WebAssembly, \d+ thread/)
})

/** Make another build of the site: its page has another title. */
function renew(folder: string, title: string): void {
  const page = join(folder, 'index.html')
  const worker = join(folder, 'service-worker.js')
  const html = readFileSync(page, 'utf8')
  const version = /name="version" content="(\w+)"/.exec(html)![1]!
  const next = version.split('').reverse().join('')
  writeFileSync(page, html.replace(version, next).replace(/<title>.*<\/title>/, `<title>${title}</title>`))
  writeFileSync(worker, readFileSync(worker, 'utf8').replace(version, next))
}

async function update(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const registration = (await navigator.serviceWorker.getRegistration())!
    await registration.update()
    const fresh = registration.installing
    if (fresh) await new Promise((done) => fresh.addEventListener('statechange', done, { once: true }))
  })
}

test('a newer version waits, is announced, and is there whole after a reload', async ({ page }) => {
  await page.goto(site.address)
  await controlled(page)
  renew(site.folder, 'Newer')
  await update(page)
  await expect(page.getByText('A newer version of this page is here')).toBeVisible()
  await page.reload()
  await expect(page).toHaveTitle('Newer')
  await controlled(page)
  await expect
    .poll(() =>
      page.evaluate(async () => (await caches.keys()).filter((name) => name.startsWith('segzoo-page')).length),
    )
    .toBe(1)
  await site.stop()
  await page.reload()
  await expect(page).toHaveTitle('Newer')
})

test('a newer version of which a file is not its own does not begin', async ({ page }) => {
  await page.goto(site.address)
  await controlled(page)
  const title = await page.title()
  renew(site.folder, 'Newer')
  const style = /assets\/index-[\w-]+\.css/.exec(readFileSync(join(site.folder, 'index.html'), 'utf8'))![0]
  writeFileSync(join(site.folder, style), 'body { display: none }')
  await page.evaluate(async () => (await caches.keys()).length)
  await update(page)
  await page.reload()
  await expect(page).toHaveTitle(title)
  await expect(page.getByRole('heading', { name: 'segzoo' })).toBeVisible()
})
