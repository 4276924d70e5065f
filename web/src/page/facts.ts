/** Panel with what a model's file says about itself. */

import type { Model } from '../engine/types'
import { make, section } from './dom'
import type { Listed } from './models'
import { megabytes, text } from './text'

/** Panel with the facts of the model that is open. */
export class FactsPanel {
  readonly element: HTMLElement
  readonly #facts = make('dl', {})

  constructor() {
    this.element = section('facts', text.facts.heading, this.#facts)
    this.element.hidden = true
  }

  /** Show a model's facts. */
  show(model: Model, listed: Listed | null): void {
    const size = model.fixedSize?.join(' × ') ?? text.facts.anySize
    const facts: [string, string][] = [
      [text.facts.task, listed?.task ?? ''],
      [text.facts.classes, model.classNames.join(', ') + (model.multilabel ? ` (${text.facts.overlap})` : '')],
      [text.facts.input, text.facts.inputOf(model.channels, size)],
      [text.facts.dataset, listed?.dataset ?? ''],
      ...Object.entries(model.licences).map(([of, licence]): [string, string] => [text.facts.licence(of), licence]),
      [text.facts.precision, model.precision],
      [text.facts.size, megabytes(model.bytes)],
      [text.facts.runtime, model.runtime],
      [text.facts.sha256, model.sha256],
    ]
    const said = facts.filter(([, value]) => value !== '')
    this.#facts.replaceChildren(...said.flatMap(([name, value]) => [make('dt', {}, name), make('dd', {}, value)]))
    this.element.hidden = false
  }
}
