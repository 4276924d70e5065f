/** Panel in which a model is chosen: one of the site's, or a file of one's own. */

import type { Model } from '../engine/types'
import { button, fileButton, icon, make, section } from './dom'
import { megabytes, text } from './text'

/** Model that lies beside the page, as models/models.json tells. */
export interface Listed {
  name: string
  file: string
  bytes: number
  sha256: string
  task: string
  dataset: string
  dimensions: 2 | 3
  size: number[]
  licence: string
}

const OPEN = 'M12 16V4m0 0 4 4m-4-4L8 8M4 16v4h16v-4'

/** Read the list of the site's models; empty where it has none. */
export async function listModels(): Promise<Listed[]> {
  const answer = await fetch(new URL('models/models.json', document.baseURI))
  if (answer.status === 404) return []
  if (!answer.ok) throw new Error(answer.statusText)
  return ((await answer.json()) as { models: Listed[] }).models
}

/** Address of a model's file; it changes with the file, so that what is stored under it is never an older one. */
export function addressOf(listed: Listed): URL {
  const address = new URL(`models/${listed.file}`, document.baseURI)
  address.searchParams.set('sha256', listed.sha256)
  return address
}

/** Panel with the models. */
export class ModelPanel {
  readonly element: HTMLElement
  readonly #choice = make('details', { class: 'choice', open: true })
  readonly #title = make('summary', {}, text.model.choose)
  readonly #list = make('ul', { class: 'models' })
  readonly #note = make('p', { class: 'hint' }, text.model.listing)
  readonly #current = make('p', { class: 'current', hidden: true })
  readonly #progress = make('progress', { max: 1, hidden: true, 'aria-label': text.model.heading })
  readonly #trouble = make('p', { class: 'trouble', hidden: true })
  readonly #choose: (listed: Listed) => void

  constructor(choose: (listed: Listed) => void, open: (files: File[]) => void) {
    this.#choose = choose
    const own = fileButton(make('span', {}, icon(OPEN), text.model.own), '.onnx', false, open, { class: 'secondary' })
    this.#choice.append(this.#title, this.#note, this.#list, own, make('p', { class: 'hint' }, text.model.ownHint))
    const said = [this.#current, this.#progress, this.#trouble]
    this.element = section('model', text.model.heading, ...said, this.#choice)
  }

  /** Show the site's models. */
  list(models: Listed[]): void {
    this.#note.textContent = text.model.none
    this.#note.hidden = models.length > 0
    this.#list.replaceChildren(...models.map((listed) => make('li', {}, this.#row(listed))))
  }

  /** Say that there is no list. */
  notListed(): void {
    this.#note.textContent = text.model.notListed
  }

  /** Show that a model is on its way. */
  opening(name: string): void {
    this.#trouble.hidden = true
    this.#progress.hidden = false
    this.#progress.removeAttribute('value')
    this.#say(text.model.opening(name))
    this.#press('')
  }

  /** Show how far a model is. */
  progressed(name: string, loaded: number, total: number): void {
    if (total > 0) this.#progress.value = loaded / total
    this.#say(total > 0 ? text.model.progress(name, megabytes(loaded), megabytes(total)) : text.model.opening(name))
  }

  /** Show which model is open. */
  opened(model: Model, listed: Listed | null): void {
    this.#progress.hidden = true
    this.#current.hidden = false
    const about = [listed?.task, megabytes(model.bytes)].filter(Boolean).join(' · ')
    this.#current.replaceChildren(make('strong', {}, model.name), make('span', {}, about))
    this.#title.textContent = text.model.another
    const hadFocus = this.#choice.contains(document.activeElement)
    this.#choice.open = false
    if (hadFocus) this.#title.focus() // what had it is hidden now
    this.#press(listed?.name ?? '')
  }

  /** Show why a model cannot be opened; the one before is still there. */
  failed(sentence: string, before: Model | null, listed: Listed | null): void {
    if (before) this.opened(before, listed)
    this.#current.hidden = before === null
    this.#progress.hidden = true
    this.#trouble.textContent = sentence
    this.#trouble.hidden = false
    this.#choice.open = true
  }

  #say(words: string): void {
    this.#current.hidden = false
    this.#current.replaceChildren(words)
  }

  #press(name: string): void {
    for (const row of this.#list.querySelectorAll('button')) {
      row.setAttribute('aria-pressed', String(row.dataset['name'] === name))
    }
  }

  #row(listed: Listed): HTMLButtonElement {
    const size = megabytes(listed.bytes)
    const row = button(make('strong', {}, listed.name), () => this.#choose(listed), {
      'data-name': listed.name,
      'aria-pressed': 'false',
      'aria-label': text.model.choice(listed.name, listed.task, size),
    })
    row.append(make('span', { class: 'task' }, listed.task), make('span', { class: 'size' }, size))
    return row
  }
}
