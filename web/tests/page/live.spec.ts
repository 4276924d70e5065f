import { expect, test } from '@playwright/test'
import { openModel } from './page'

test('the camera is segmented live, and let go when it is stopped', async ({ page }) => {
  await page.goto('./')
  await openModel(page)
  await page.evaluate(() => {
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices)
    navigator.mediaDevices.getUserMedia = async (asked) =>
      ((window as never as { stream: MediaStream }).stream = await open(asked))
  })
  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.locator('.rate')).toHaveText(/^[1-9]\d*\.\d frames a second · \d+ ms a frame$/)
  const canvas = page.locator('.frame canvas')
  const first = await canvas.screenshot()
  await expect(async () => expect(first.equals(await canvas.screenshot())).toBe(false)).toPass()
  await page.getByRole('button', { name: 'Stop' }).click()
  await expect(page.locator('.live')).toBeHidden()
  await expect(page.getByText('Nothing to show yet')).toBeVisible()
  const states = await page.evaluate(() =>
    (window as never as { stream: MediaStream }).stream.getTracks().map((track) => track.readyState),
  )
  expect(states).toEqual(['ended'])
})

test('a camera that breaks off ends in a sentence', async ({ page }) => {
  await page.goto('./')
  await openModel(page)
  await page.evaluate(() => {
    const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices)
    navigator.mediaDevices.getUserMedia = async (asked) => {
      const stream = await open(asked)
      setTimeout(() => {
        const [track] = stream.getTracks()
        track!.stop()
        track!.dispatchEvent(new Event('ended'))
      }, 1500)
      return stream
    }
  })
  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.getByRole('alert')).toContainText('The camera has stopped')
  await expect(page.locator('.live')).toBeHidden()
})

test('a video is segmented live, held and gone on with', async ({ page }) => {
  await page.goto('./')
  await openModel(page)
  const bytes = await page.evaluate(async () => {
    const canvas = document.createElement('canvas')
    const context = canvas.getContext('2d')!
    const recorder = new MediaRecorder(canvas.captureStream(20), { mimeType: 'video/webm' })
    const parts: Blob[] = []
    recorder.addEventListener('dataavailable', ({ data }) => parts.push(data))
    recorder.start()
    for (let frame = 0; frame < 20; frame++) {
      context.fillStyle = `hsl(${20 * frame} 80% 50%)`
      context.fillRect(0, 0, 300, 150)
      await new Promise((later) => setTimeout(later, 50))
    }
    await new Promise((stopped) => {
      recorder.addEventListener('stop', stopped)
      recorder.stop()
    })
    return [...new Uint8Array(await new Blob(parts).arrayBuffer())]
  })
  const video = { name: 'sweep.webm', mimeType: 'video/webm', buffer: Buffer.from(bytes) }
  await page.locator('.inputs input[type=file]').setInputFiles(video)
  await expect(page.locator('.rate')).toContainText('frames a second')
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.getByRole('button', { name: 'Play' }).click()
  await page.getByRole('button', { name: 'Pause' }).click()
  await page.getByRole('button', { name: 'Stop' }).click()
  await expect(page.locator('.live')).toBeHidden()

  const broken = { name: 'broken.mp4', mimeType: 'video/mp4', buffer: Buffer.from('no video') }
  await page.locator('.inputs input[type=file]').setInputFiles(broken)
  await expect(page.getByRole('alert')).toContainText('broken.mp4')
})

test('without a model, the camera ends in a sentence', async ({ page }) => {
  await page.goto('./')
  await page.getByRole('button', { name: 'Camera' }).click()
  await expect(page.getByRole('alert')).toContainText('Choose a model of images first')
})

for (const [name, sentence] of [
  ['NotAllowedError', 'The camera was not allowed'],
  ['NotFoundError', 'No camera was found'],
  ['NotReadableError', 'The camera cannot be read'],
] as const) {
  test(`a camera that is not given (${name}) ends in a sentence`, async ({ page }) => {
    await page.goto('./')
    await openModel(page)
    await page.evaluate((error) => {
      navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', error))
    }, name)
    await page.getByRole('button', { name: 'Camera' }).click()
    await expect(page.getByRole('alert')).toContainText(sentence)
    await expect(page.locator('.live')).toBeHidden()
  })
}
