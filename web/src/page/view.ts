/** Panel with the picture: what was segmented, drawn as the person chose, slice by slice. */

import type { Mode, Scene } from './drawing'
import { colourOf, drawScene } from './drawing'
import { make, section } from './dom'
import type { Foreground, Segments } from './segments'
import { foreground } from './segments'
import { text } from './text'

const MODES: Mode[] = ['outline', 'fill', 'probability', 'picture']
const SHARPEST = 2 // screen's pixels to a CSS pixel that are drawn: more is not seen, and takes long
const UPSCALED = 12 // at most, in CSS pixels to a pixel of the picture

/** Panel with the picture. */
export class View {
  readonly element: HTMLElement
  mode: Mode = 'outline'
  slice = 0
  readonly #canvas = make('canvas', { role: 'img', 'aria-label': text.view.empty })
  readonly #frame: HTMLElement
  readonly #title = make('p', { class: 'caption' })
  readonly #empty: HTMLElement
  readonly #emptyTitle = make('strong')
  readonly #hint = make('p')
  readonly #tools: HTMLElement
  readonly #classes = make('select', { 'aria-label': text.view.ofClass })
  readonly #classChoice = make('label', { class: 'of-class', hidden: true }, text.view.ofClass, ' ', this.#classes)
  readonly #legend: HTMLElement
  readonly #slider = make('input', { type: 'range', min: 1, value: 1, id: 'slice' })
  readonly #sliceNumber = make('span', { class: 'value' })
  readonly #slices: HTMLElement
  readonly #live = make('div', { class: 'live-bar' })
  #segments: Segments | null = null
  #picture: HTMLCanvasElement | null = null
  #aspect = 1

  constructor(pictureOfSlice: (slice: number) => HTMLCanvasElement | null) {
    this.#empty = make('div', { class: 'empty' }, make('p', {}, this.#emptyTitle), this.#hint)
    this.#frame = make('div', { class: 'frame' }, this.#empty, this.#canvas)
    this.#slices = make('div', { class: 'slices', hidden: true })
    this.#slices.append(make('label', { for: 'slice' }, text.view.slice), this.#slider, this.#sliceNumber)
    this.#legend = make('div', { class: 'legend', role: 'img', 'aria-label': text.view.legend, hidden: true })
    this.#legend.append(make('span', {}, '0'), make('span', { class: 'ramp' }), make('span', {}, '1'))
    this.#tools = make('div', { class: 'tools', hidden: true }, this.#modes(), this.#classChoice, this.#legend)
    this.element = section('view', text.view.heading, this.#title, this.#live, this.#tools, this.#frame, this.#slices)
    this.element.id = 'view'
    this.element.tabIndex = -1 // the link to it brings the keyboard here
    this.#slider.addEventListener('input', () => {
      this.slice = this.#slider.valueAsNumber - 1
      this.#picture = pictureOfSlice(this.slice)
      this.redraw()
    })
    this.#classes.addEventListener('change', () => this.redraw())
    new ResizeObserver(() => this.redraw()).observe(this.#frame)
    this.#canvas.hidden = true
  }

  /** Bar above the picture, for what runs live. */
  get liveBar(): HTMLElement {
    return this.#live
  }

  /** Show nothing, and say why. */
  clear([title, hint]: [string, string]): void {
    this.#segments = this.#picture = null
    this.#emptyTitle.textContent = title
    this.#hint.textContent = hint
    this.#title.textContent = ''
    this.#empty.hidden = false
    this.#canvas.hidden = this.#tools.hidden = this.#slices.hidden = true
  }

  /** Show another image, at a slice of it; pixels are so many times as high as wide. */
  open(name: string, segments: Segments, slice: number, pixelAspect: number, picture: HTMLCanvasElement): void {
    const [depth] = segments.found.size
    this.slice = slice
    this.#aspect = pixelAspect
    this.#title.textContent = name
    this.#slider.max = String(depth)
    this.#slider.value = String(slice + 1)
    this.#slices.hidden = depth === 1
    this.#choices(foreground(segments.model))
    this.show(segments, picture)
  }

  /** Show the same at other thresholds, or the next frame. */
  show(segments: Segments, picture = this.#picture): void {
    this.#segments = segments
    this.#picture = picture
    this.#empty.hidden = true
    this.#canvas.hidden = this.#tools.hidden = false
    this.redraw()
  }

  /** Say in words what is seen. */
  describe(words: string): void {
    this.#canvas.setAttribute('aria-label', words)
  }

  /** Return what is seen of a slice, for files. */
  scene(): Scene | null {
    if (!this.#segments || !this.#picture) return null
    const classes = foreground(this.#segments.model)
    const chosen = classes[Math.max(0, this.#classes.selectedIndex)]!
    const shown = this.mode === 'probability' ? [chosen] : classes
    return {
      picture: this.#picture,
      mode: this.mode,
      layers: shown.map((one) => ({
        colour: colourOf(classes.indexOf(one)),
        inside: this.#segments!.plane(one, this.slice),
      })),
      probabilities: this.mode === 'probability' ? this.#segments.probabilities(chosen, this.slice) : null,
    }
  }

  redraw(): void {
    const probable = this.mode === 'probability'
    this.#legend.hidden = !probable
    this.#classChoice.hidden = !probable || this.#classes.length < 2
    this.#sliceNumber.textContent = text.view.sliceOf(this.slice + 1, Number(this.#slider.max))
    this.#slider.setAttribute('aria-valuetext', this.#sliceNumber.textContent)
    const scene = this.scene()
    if (!scene) return
    const { width, height } = scene.picture
    const room = this.#frame.getBoundingClientRect()
    if (room.width === 0) return
    const scale = Math.min(room.width / width, room.height / (height * this.#aspect), UPSCALED)
    const shown = [width * scale, height * this.#aspect * scale].map((side) => Math.max(1, Math.floor(side)))
    const sharpness = Math.min(SHARPEST, devicePixelRatio)
    const [across, down] = shown.map((side) => Math.round(side * sharpness))
    if (this.#canvas.width !== across) this.#canvas.width = across!
    if (this.#canvas.height !== down) this.#canvas.height = down!
    this.#canvas.style.width = `${shown[0]}px`
    this.#canvas.style.height = `${shown[1]}px`
    drawScene(this.#canvas, scene, sharpness)
  }

  #choices(classes: Foreground[]): void {
    const names = classes.map((one) => one.name)
    if ([...this.#classes.options].map((one) => one.text).join('\n') === names.join('\n')) return
    this.#classes.replaceChildren(...names.map((name) => make('option', {}, name)))
  }

  #modes(): HTMLElement {
    const group = make('fieldset', { class: 'modes' }, make('legend', { class: 'unseen' }, text.view.mode))
    for (const mode of MODES) {
      const radio = make('input', { type: 'radio', name: 'mode', value: mode, checked: mode === this.mode })
      radio.addEventListener('change', () => {
        this.mode = mode
        this.redraw()
      })
      group.append(make('label', {}, radio, make('span', {}, text.view[mode])))
    }
    return group
  }
}
