/** Bar of what runs live: camera or video, its rate, and the buttons that hold and end it. */

import type { Engine, Frame, Model } from '../engine/types'
import { button, make } from './dom'
import type { Shown } from './live'
import { Live, openCamera } from './live'
import type { Found, Segments } from './segments'
import { text } from './text'

/** Requests of the bar. */
export interface Asked {
  segments(frame: Found): Segments
  show(segments: Segments, picture: HTMLCanvasElement, isFirst: boolean): void
  ended(): void
  say(sentence: string): void
  warn(sentence: string): void
}

/** Bar of what runs live. */
export class LivePanel {
  readonly element = make('div', { class: 'live', hidden: true })
  readonly #name = make('strong')
  readonly #rate = make('span', { class: 'rate' })
  readonly #pause = button(text.live.pause, () => this.#hold(), { class: 'secondary' })
  readonly #engine: Engine
  readonly #asked: Asked
  #live: Live | null = null
  #starts = 0

  constructor(engine: Engine, asked: Asked) {
    this.#engine = engine
    this.#asked = asked
    const stop = button(text.live.stop, () => this.stop(), { class: 'primary' })
    this.element.append(
      make('span', { class: 'dot', 'aria-hidden': 'true' }),
      this.#name,
      this.#rate,
      this.#pause,
      stop,
    )
  }

  get isRunning(): boolean {
    return this.#live !== null
  }

  startCamera(model: Model | null): void {
    if (!this.#fits(model)) return
    const start = ++this.#starts
    this.#asked.say(text.live.opening)
    openCamera().then(
      (stream) => {
        if (start !== this.#starts)
          for (const track of stream.getTracks()) track.stop() // something else was begun
        else void this.#run(stream, text.live.camera)
      },
      (error: Error) => this.#asked.warn(error.message),
    )
  }

  startVideo(file: File, model: Model | null): void {
    if (this.#fits(model)) void this.#run(file, file.name)
  }

  stop(): void {
    this.#starts++
    this.#live?.stop()
  }

  #fits(model: Model | null): boolean {
    if (model?.dimensions === 2) return true
    this.#asked.warn(model ? text.live.volumes(model.name) : text.live.noModel)
    return false
  }

  #hold(): void {
    if (this.#live) this.#pause.textContent = this.#live.pause() ? text.live.play : text.live.pause
  }

  async #run(source: MediaStream | File, name: string): Promise<void> {
    this.stop()
    let isFirst = true
    const live = new Live(
      source,
      (frame) => this.#engine.segmentFrame(frame),
      (shown) => {
        if (this.#live !== live) return
        this.#show(shown, isFirst)
        isFirst = false
      },
    )
    this.#begin(live, name)
    let sentence = ''
    try {
      await live.run()
    } catch (error) {
      sentence = error instanceof Error ? error.message : String(error)
    }
    if (sentence) this.#asked.warn(sentence)
    if (this.#live === live) this.#end()
  }

  #begin(live: Live, name: string): void {
    this.#live = live
    this.#name.textContent = name
    this.#rate.textContent = ''
    this.#pause.textContent = text.live.pause
    this.element.hidden = false
    this.#asked.say(text.live.began(name))
  }

  #end(): void {
    this.#live = null
    const focused = this.element.contains(document.activeElement)
    this.element.hidden = true
    this.#asked.ended()
    this.#asked.say(text.live.ended)
    if (focused) document.querySelector<HTMLElement>('#view')?.focus()
  }

  #show({ picture, frame, rate }: Shown, isFirst: boolean): void {
    this.#asked.show(this.#asked.segments(found(frame)), picture, isFirst)
    this.#rate.textContent = [rate > 0 ? text.live.rate(rate) : '', text.live.latency(frame.milliseconds)]
      .filter(Boolean)
      .join(' · ')
  }
}

function found({ size: [height, width], mask, probabilities }: Frame): Found {
  return { size: [1, height, width], mask, probabilities }
}
