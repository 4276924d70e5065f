/** Panel with the images that a person gave, and the ways to give them: drop, paste, choose, camera. */

import type { Result } from '../engine/types'
import { button, fileButton, icon, make, section } from './dom'
import { text } from './text'

/** Image or volume of a person, and what has become of it. */
export interface Item {
  file: File
  state: 'waiting' | 'working' | 'done' | 'refused'
  result: Result | null
  /** Reason why it was refused. */
  sentence: string
}

/** Requests of the panel. */
export interface Asked {
  add(files: File[]): void
  select(item: Item): void
  remove(items: Item[]): void
  camera(): void
}

const ACCEPTED = 'image/png,image/jpeg,image/tiff,image/bmp,video/*,.nii,.nii.gz,.gz'
const CAMERA = 'M4 8h4l2-3h4l2 3h4v11H4zM12 16.5a3.3 3.3 0 1 0 0-6.6 3.3 3.3 0 0 0 0 6.6z'
const PICTURES = 'M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01'
const CROSS = 'M6 6l12 12M18 6 6 18'

/** Panel with the images. */
export class InputPanel {
  readonly element: HTMLElement
  readonly #list = make('ol', { class: 'items', 'aria-label': text.inputs.list })
  readonly #progress = make('p', { class: 'hint progressed' })
  readonly #clear: HTMLButtonElement
  readonly #rows = new Map<Item, Row>()
  readonly #asked: Asked

  constructor(asked: Asked) {
    this.#asked = asked
    this.#clear = button(text.inputs.clear, () => this.#asked.remove([...this.#rows.keys()]), { class: 'quiet' })
    const choose = fileButton(text.inputs.choose, ACCEPTED, true, (files) => asked.add(files), { class: 'primary' })
    const camera = button(make('span', {}, icon(CAMERA), text.inputs.camera), () => asked.camera(), {
      class: 'secondary',
    })
    const drop = make(
      'div',
      { class: 'drop' },
      icon(PICTURES),
      make('p', {}, make('strong', {}, text.inputs.drop)),
      make('p', { class: 'hint' }, text.inputs.dropHint),
      make('div', { class: 'buttons' }, choose, camera),
    )
    const summary = make('div', { class: 'summary' }, this.#progress, this.#clear)
    this.element = section('inputs', text.inputs.heading, drop, this.#list, summary)
    this.show([], null, false)
  }

  /** Show the images and their states. */
  show(items: Item[], selected: Item | null, modelIsOpen: boolean): void {
    const focused = this.#focusedPlace()
    for (const [item, row] of this.#rows) {
      if (items.includes(item)) continue
      row.element.remove()
      this.#rows.delete(item)
    }
    for (const item of items) {
      const row = this.#rows.get(item) ?? this.#added(item)
      row.show(item, item === selected, modelIsOpen)
    }
    const done = items.filter((item) => item.state === 'done' || item.state === 'refused').length
    const failed = items.filter((item) => item.state === 'refused').length
    this.#progress.textContent =
      items.length > 1 ? text.inputs.progress(done, items.length) + (failed ? text.inputs.failed(failed) : '') : ''
    this.#clear.hidden = items.length < 2
    if (focused >= 0 && !this.#list.contains(document.activeElement)) this.#focusNear(focused)
  }

  #added(item: Item): Row {
    const row = new Row(item, this.#asked)
    this.#rows.set(item, row)
    this.#list.append(row.element)
    return row
  }

  #focusedPlace(): number {
    return [...this.#list.children].findIndex((row) => row.contains(document.activeElement))
  }

  /** Keep the keyboard's place when the row that had it is gone. */
  #focusNear(place: number): void {
    const row = this.#list.children[Math.min(place, this.#list.children.length - 1)]
    const target = row ?? this.element
    target.querySelector<HTMLElement>('button')?.focus()
  }
}

class Row {
  readonly element = make('li')
  readonly #state = make('span', { class: 'state' })
  readonly #select: HTMLButtonElement
  readonly #sentence = make('p', { class: 'trouble', hidden: true })

  constructor(item: Item, asked: Asked) {
    const { name } = item.file
    this.#select = button(make('span', { class: 'file', title: name }, name), () => asked.select(item), {
      class: 'select',
    })
    this.#select.append(this.#state)
    const remove = button(icon(CROSS), () => asked.remove([item]), {
      class: 'remove',
      'aria-label': text.inputs.remove(name),
    })
    this.element.append(this.#select, remove, this.#sentence)
  }

  show(item: Item, selected: boolean, modelIsOpen: boolean): void {
    const said = {
      waiting: modelIsOpen ? text.inputs.waiting : text.inputs.waitingForModel,
      working: text.inputs.working,
      done: item.result ? text.inputs.done(item.result.milliseconds) : text.inputs.doneBefore,
      refused: text.inputs.refused,
    }
    this.element.className = `item ${item.state}`
    this.#state.textContent = said[item.state]
    this.#select.setAttribute('aria-current', String(selected))
    this.#sentence.textContent = item.sentence
    this.#sentence.hidden = item.state !== 'refused'
  }
}

/** Have files that are dropped anywhere on the page, or pasted, given. */
export function takeDroppedAndPasted(given: (files: File[]) => void): void {
  const isOfFiles = (event: DragEvent) => event.dataTransfer?.types.includes('Files') ?? false
  let depth = 0 // of elements that the pointer has entered
  const mark = (change: number) => {
    depth = Math.max(0, depth + change)
    document.body.classList.toggle('dropping', depth > 0)
  }
  document.addEventListener('dragenter', (event) => isOfFiles(event) && mark(1))
  document.addEventListener('dragleave', (event) => isOfFiles(event) && mark(-1))
  document.addEventListener('dragover', (event) => isOfFiles(event) && event.preventDefault())
  document.addEventListener('drop', (event) => {
    if (!isOfFiles(event)) return
    event.preventDefault()
    mark(-depth)
    given([...event.dataTransfer!.files])
  })
  document.addEventListener('paste', (event) => {
    const files = [...(event.clipboardData?.files ?? [])]
    if (files.length === 0) return
    event.preventDefault()
    given(files)
  })
}
