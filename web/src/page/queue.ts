/** Images that a person gave, segmented one after another; one that is refused does not stop the others. */

import type { Engine, Result } from '../engine/types'
import { Refusal } from '../engine/types'
import type { Item } from './inputs'
import { text } from './text'

const KEPT_BYTES = 2 ** 29 // of results: an older one is made again when it is looked at

/** List of images, and who segments them. */
export class Queue {
  items: Item[] = []
  selected: Item | null = null
  /** False while there is no model, or another is on its way. */
  ready = false
  #busy = false
  readonly #engine: Engine
  readonly #changed: (item: Item | null) => void

  /** Tells of each change, and of the item whose state it was. */
  constructor(engine: Engine, changed: (item: Item | null) => void) {
    this.#engine = engine
    this.#changed = changed
  }

  add(files: File[]): void {
    const added = files.map((file): Item => ({ file, state: 'waiting', result: null, sentence: '' }))
    this.items.push(...added)
    if (added[0]) this.select(added[0])
  }

  select(item: Item): void {
    this.selected = item
    if (item.state === 'done' && item.result === null) item.state = 'waiting'
    this.#changed(null)
    void this.go()
  }

  remove(items: Item[]): void {
    const place = this.selected ? this.items.indexOf(this.selected) : -1
    this.items = this.items.filter((item) => !items.includes(item))
    if (this.selected && !this.items.includes(this.selected)) {
      this.selected = this.items[Math.min(place, this.items.length - 1)] ?? null
    }
    this.#changed(null)
  }

  /** Have all wait again: the model is another one. */
  restart(): void {
    for (const item of this.items) Object.assign(item, { state: 'waiting', result: null, sentence: '' })
  }

  /** Segment what waits, what is looked at first. */
  async go(): Promise<void> {
    if (this.#busy) return
    this.#busy = true
    for (let item = this.#next(); item && this.ready; item = this.#next()) {
      item.state = 'working'
      this.#changed(item)
      await this.#segment(item)
      this.#changed(item)
    }
    this.#busy = false
  }

  #next(): Item | undefined {
    const waiting = this.items.filter((item) => item.state === 'waiting')
    return waiting.find((item) => item === this.selected) ?? waiting[0]
  }

  async #segment(item: Item): Promise<void> {
    try {
      item.result = await this.#engine.segment(item.file)
      item.state = 'done'
      this.#letGo()
    } catch (error) {
      item.state = 'refused'
      item.sentence = error instanceof Refusal ? error.message : text.inputs.unexpected(item.file.name, String(error))
    }
  }

  #letGo(): void {
    let bytes = 0
    const kept = this.items.filter((item) => item.result).reverse()
    for (const item of kept) {
      bytes += bytesOf(item.result!)
      if (bytes > KEPT_BYTES && item !== this.selected) item.result = null
    }
  }
}

function bytesOf(result: Result): number {
  return result.picture.byteLength + result.probabilities.byteLength + (result.mask?.byteLength ?? 0)
}
