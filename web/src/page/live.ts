/** Camera and video, frame by frame: the newest frame is segmented, those that came meanwhile are not. */

import type { Frame } from '../engine/types'
import { text } from './text'

const KEPT = 2000 // milliseconds over which frames are counted
const CAMERA = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: { ideal: 'environment' } }

/** Frame as it is shown: its picture and what was found on it, of the same moment. */
export interface Shown {
  picture: HTMLCanvasElement
  frame: Frame
  rate: number
}

/** Return the camera's stream, or throw a sentence. */
export async function openCamera(): Promise<MediaStream> {
  if (!navigator.mediaDevices) throw new Error(text.live.insecure)
  try {
    return await navigator.mediaDevices.getUserMedia({ video: CAMERA, audio: false })
  } catch (error) {
    throw new Error(sentenceOf(error instanceof DOMException ? error.name : ''))
  }
}

function sentenceOf(name: string): string {
  if (name === 'NotAllowedError' || name === 'SecurityError') return text.live.refused
  return name === 'NotFoundError' || name === 'OverconstrainedError' ? text.live.missing : text.live.busy
}

/** Camera or video that is being segmented. */
export class Live {
  readonly #video = document.createElement('video')
  readonly #source: MediaStream | File
  readonly #segment: (frame: ImageBitmap) => Promise<Frame>
  readonly #show: (shown: Shown) => void
  readonly #times: number[] = []
  #stopped = false
  #isFresh = false
  #isOver = false
  #wake = (): void => undefined

  constructor(
    source: MediaStream | File,
    segment: (frame: ImageBitmap) => Promise<Frame>,
    show: (shown: Shown) => void,
  ) {
    this.#source = source
    this.#segment = segment
    this.#show = show
    this.#video.muted = this.#video.playsInline = true
    this.#video.loop = true
  }

  /** Run until it is stopped; throw a sentence where that is not by the person. */
  async run(): Promise<void> {
    try {
      this.#watch()
      await this.#open()
      await this.#segmentFrames()
    } finally {
      this.stop()
    }
  }

  /** Stop, and let the camera go. */
  stop(): void {
    this.#stopped = true
    this.#finish()
    this.#video.pause()
    if (this.#source instanceof MediaStream) for (const track of this.#source.getTracks()) track.stop()
    else URL.revokeObjectURL(this.#video.src)
    this.#video.srcObject = null
  }

  /** Hold a video, or let it go on; return whether it is held. */
  pause(): boolean {
    if (this.#video.paused) void this.#video.play()
    else this.#video.pause()
    return this.#video.paused
  }

  async #open(): Promise<void> {
    if (this.#source instanceof MediaStream) this.#video.srcObject = this.#source
    else this.#video.src = URL.createObjectURL(this.#source)
    try {
      await this.#video.play()
    } catch {
      if (this.#stopped) return
      throw new Error(this.#source instanceof File ? text.live.unreadable(this.#source.name) : text.live.busy)
    }
  }

  /** Show each frame once the next is under way, so that drawing and computing take place at the same time. */
  async #segmentFrames(): Promise<void> {
    let ready: Shown | null = null
    while (!this.#stopped && (await this.#nextFrame())) {
      const picture = this.#still()
      const under = this.#segment(await createImageBitmap(picture))
      if (ready) this.#show(ready)
      const frame = await under
      ready = { picture, frame, rate: this.#counted() }
      if (this.#video.paused) this.#show(ready) // the next is far
    }
    if (this.#source instanceof MediaStream && !this.#stopped) throw new Error(text.live.lost)
  }

  #still(): HTMLCanvasElement {
    const picture = document.createElement('canvas')
    picture.width = this.#video.videoWidth
    picture.height = this.#video.videoHeight
    picture.getContext('2d')!.drawImage(this.#video, 0, 0)
    return picture
  }

  /** Notice each frame, also while another is being segmented: then nobody waits for the one after. */
  #watch(): void {
    const track = this.#source instanceof MediaStream ? this.#source.getVideoTracks()[0] : undefined
    const came = () => {
      this.#isFresh = true
      this.#wake()
      this.#video.requestVideoFrameCallback(came)
    }
    track?.addEventListener('ended', () => this.#finish())
    this.#video.requestVideoFrameCallback(came)
  }

  #finish(): void {
    this.#isOver = true
    this.#wake()
  }

  /** Wait for a frame that was not seen; false where none will come. */
  async #nextFrame(): Promise<boolean> {
    if (!this.#isFresh && !this.#isOver) await new Promise<void>((woken) => (this.#wake = woken))
    this.#isFresh = false
    return !this.#isOver
  }

  #counted(): number {
    const now = performance.now()
    this.#times.push(now)
    while (now - this.#times[0]! > KEPT) this.#times.shift()
    const span = now - this.#times[0]!
    return span > 0 ? (1000 * (this.#times.length - 1)) / span : 0
  }
}
