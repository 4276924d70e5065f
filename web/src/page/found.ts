/** Panel with what was found: areas of the classes, thresholds, warnings, and the files to save. */

import type { Model, Result } from '../engine/types'
import { colourOf } from './drawing'
import { button, icon, make, section } from './dom'
import type { Foreground, Segments } from './segments'
import { foreground, isIndependent } from './segments'
import { text } from './text'

const SAVE = 'M12 4v11m0 0 4-4m-4 4-4-4M4 17v3h16v-3'

/** Requests of the panel. */
export interface Asked {
  /** Thresholds were moved. */
  thresholds(thresholds: number[]): void
  /** Person typed how long a pixel's side is. */
  side(): void
  saveMask(): void
  saveOverlay(): void
}

/** Panel with what was found. */
export class FoundPanel {
  readonly element: HTMLElement
  readonly #classes = make('ul', { class: 'classes' })
  readonly #exclusive = make('p', { class: 'hint', hidden: true }, text.found.exclusive)
  readonly #spacing = make('p', { class: 'hint', hidden: true })
  readonly #side = make('input', { id: 'side', type: 'text', inputmode: 'decimal', size: 6, autocomplete: 'off' })
  readonly #sideTrouble = make('p', { class: 'trouble', id: 'side-trouble', hidden: true }, text.found.sideWrong)
  readonly #sideField: HTMLElement
  readonly #warnings = make('ul', {})
  readonly #warned: HTMLElement
  readonly #inGraph = make('dd')
  readonly #left = make('dd')
  readonly #saveMask = make('span', {}, text.found.saveMask)
  readonly #saveOverlay = make('span', {}, text.found.saveOverlay)
  readonly #saveHint = make('p', { class: 'hint' })
  readonly #files: HTMLElement
  readonly #asked: Asked
  #rows: ClassRow[] = []

  constructor(asked: Asked) {
    this.#asked = asked
    this.#side.setAttribute('aria-describedby', 'side-hint side-trouble')
    this.#side.addEventListener('input', () => asked.side())
    this.#sideField = make(
      'div',
      { class: 'side', hidden: true },
      make('label', { for: 'side' }, text.found.side),
      this.#side,
      make('p', { class: 'hint', id: 'side-hint' }, text.found.sideHint),
      this.#sideTrouble,
    )
    this.#warned = make('div', { class: 'warned', hidden: true }, make('h3', {}, text.found.warnings), this.#warnings)
    this.#files = make(
      'div',
      { class: 'files' },
      button(make('span', {}, icon(SAVE), this.#saveMask), () => asked.saveMask(), { class: 'primary' }),
      button(make('span', {}, icon(SAVE), this.#saveOverlay), () => asked.saveOverlay(), { class: 'secondary' }),
      this.#saveHint,
    )
    const afterwards = make(
      'dl',
      { class: 'afterwards' },
      make('dt', {}, text.found.inGraph),
      this.#inGraph,
      make('dt', {}, text.found.leftToPredict),
      this.#left,
    )
    this.element = section(
      'found',
      text.found.heading,
      this.#warned,
      this.#classes,
      this.#exclusive,
      this.#spacing,
      this.#sideField,
      this.#files,
      make('h3', {}, text.found.afterwards),
      afterwards,
    )
    this.element.hidden = true
  }

  /** Begin with another model, at its own thresholds. */
  begin(model: Model): void {
    const thresholds = [...model.thresholds]
    this.element.hidden = true
    this.#rows = foreground(model).map(
      (one, index) =>
        new ClassRow(model, one, index, thresholds, () => {
          this.#asked.thresholds([...thresholds])
        }),
    )
    this.#classes.replaceChildren(...this.#rows.map((row) => row.element))
    this.#exclusive.hidden = isIndependent(model)
    this.#inGraph.textContent = model.inGraph || text.found.nothing
    this.#left.textContent = model.leftToPredict || text.found.nothing
    this.#saveHint.textContent =
      model.multilabel && model.regionValues.length === 0
        ? text.found.saveApart
        : `${text.found.saveHint} ${values(model)}`
  }

  /** Show a result; return it in a sentence. */
  show(result: Result, segments: Segments): string {
    const spacing = result.spacing ?? this.#typed(result)
    this.element.hidden = false
    this.#files.hidden = false
    this.#spacing.hidden = result.spacing === null
    const sides = result.dimensions === 3 ? result.spacing : result.spacing?.slice(1)
    this.#spacing.textContent = sides ? text.found.fromFile(sides.map((side) => +side.toFixed(4)).join(' × ')) : ''
    this.#sideField.hidden = result.spacing !== null || result.dimensions === 3
    this.#warnings.replaceChildren(...result.warnings.map((warning) => make('li', {}, warning)))
    this.#warned.hidden = result.warnings.length === 0
    const volume = result.dimensions === 3
    this.#saveMask.textContent = volume ? text.found.saveMaskVolume : text.found.saveMask
    this.#saveOverlay.textContent = volume ? text.found.saveOverlaySlice : text.found.saveOverlay
    return this.#measure(segments, result.dimensions, spacing)
  }

  /** Show what is on a frame. */
  showFrame(segments: Segments): void {
    this.element.hidden = false
    this.#files.hidden = this.#sideField.hidden = this.#spacing.hidden = this.#warned.hidden = true
    this.#measure(segments, 2, null)
  }

  /** Show nothing. */
  clear(): void {
    this.element.hidden = true
  }

  #measure(segments: Segments, dimensions: number, spacing: readonly number[] | null): string {
    return this.#rows.map((row) => row.show(segments, dimensions, spacing)).join(', ')
  }

  #typed(result: Result): [number, number, number] | null {
    const typed = this.#side.value.trim().replace(',', '.')
    const side = Number(typed)
    const good = typed === '' || (Number.isFinite(side) && side > 0)
    this.#sideTrouble.hidden = good
    this.#side.setAttribute('aria-invalid', String(!good))
    return result.dimensions === 2 && good && typed !== '' ? [1, side, side] : null
  }
}

/** Values of a mask's file and what they mean: "0 background, 1 lesion". */
function values(model: Model): string {
  const written = model.multilabel ? model.regionValues : model.classNames.map((_, value) => value)
  return model.classNames.map((name, index) => `${written[index]} ${name}`).join(', ')
}

class ClassRow {
  readonly element: HTMLElement
  readonly #name: string
  readonly #size = make('span', { class: 'count' })
  readonly #more = make('span', { class: 'more' })
  readonly #of: Foreground

  constructor(model: Model, of: Foreground, index: number, thresholds: number[], moved: () => void) {
    this.#of = of
    this.#name = of.name
    const swatch = make('span', { class: 'swatch' })
    swatch.style.backgroundColor = `rgb(${colourOf(index).join(' ')})`
    const line = make('div', { class: 'measured' }, swatch, make('strong', {}, of.name), this.#size, this.#more)
    this.element = make('li', {}, line)
    if (isIndependent(model)) this.element.append(this.#slider(model, thresholds, moved))
  }

  show(segments: Segments, dimensions: number, spacing: readonly number[] | null): string {
    const count = segments.count(this.#of)
    const size = text.found.pixels(count, dimensions)
    const millimetres = spacing && count * spacing[1]! * spacing[2]! * (dimensions === 3 ? spacing[0]! : 1)
    const physical = millimetres === null ? '' : text.found[dimensions === 3 ? 'volume' : 'area'](millimetres)
    this.#size.textContent = size
    this.#more.textContent = [physical, text.found.share(count / segments.pixels)].filter(Boolean).join(' · ')
    return text.found.summary(this.#name, [size, physical].filter(Boolean).join(', '))
  }

  #slider(model: Model, thresholds: number[], moved: () => void): HTMLElement {
    const { plane, name } = this.#of
    const own = model.thresholds[plane]!
    const marks = make('datalist', { id: `own-${plane}` }, make('option', { value: own }))
    const slider = make('input', {
      type: 'range',
      min: 0.01,
      max: 0.99,
      step: 0.01,
      value: own,
      list: marks.id,
      'aria-label': text.found.thresholdOf(name),
    })
    const said = make('span', { class: 'value' }, String(own)) // no output: the slider says it itself
    const reset = button(text.found.reset, () => move(own), { class: 'quiet', 'aria-label': text.found.resetOf(name) })
    const show = () => {
      said.textContent = thresholds[plane] === own ? String(own) : thresholds[plane]!.toFixed(2)
      reset.disabled = thresholds[plane] === own
    }
    const move = (threshold: number) => {
      thresholds[plane] = threshold
      slider.value = String(threshold)
      show()
      moved()
    }
    slider.addEventListener('input', () => {
      const near = Math.abs(slider.valueAsNumber - own) < 0.005 // the file's own may lie between two steps
      move(near ? own : slider.valueAsNumber)
    })
    show()
    const label = make('span', { class: 'threshold-name' }, text.found.threshold, ' ', said)
    return make(
      'div',
      { class: 'threshold' },
      label,
      slider,
      marks,
      make('span', { class: 'hint' }, text.found.own(own)),
      reset,
    )
  }
}
