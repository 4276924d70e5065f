/** Page: its panels, and what passes between them and the engine. */

import { startEngine } from '../engine/client'
import type { Model, Result } from '../engine/types'
import { Refusal } from '../engine/types'
import { button, icon, make } from './dom'
import { FactsPanel } from './facts'
import type { Named } from './files'
import { maskFiles, overlayFile, save } from './files'
import { FoundPanel } from './found'
import type { Item } from './inputs'
import { InputPanel, takeDroppedAndPasted } from './inputs'
import { LivePanel } from './live-panel'
import type { Listed } from './models'
import { ModelPanel, addressOf, listModels } from './models'
import { keep, workOffline } from './offline'
import { Queue } from './queue'
import { Segments, fullestSlice } from './segments'
import { text } from './text'
import { View } from './view'

const VIDEO = /\.(mp4|m4v|mov|webm|ogv|mkv|avi)$/i
const UNHURRIED = 5000 // milliseconds, after which the page is kept for when there is no network
const LOCK = 'M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3'

const engine = startEngine()
let model: Model | null = null
let listed: Listed | null = null
let thresholds: number[] = []
let shown: Result | null = null // by the view
let loads = 0
let isKept = false

const status = make('p', { role: 'status', class: 'unseen' })
const notice = make('div', { role: 'alert', class: 'notice' })
const newer = make('p', { class: 'newer', hidden: true }, text.newer)
const modelPanel = new ModelPanel(
  (chosen) => void open(addressOf(chosen), chosen),
  (files) => take(files),
)
const queue = new Queue(engine, showQueue)
const inputs = new InputPanel({
  add: (files) => take(files),
  select: (item) => {
    live.stop()
    queue.select(item)
    if (view.element.getBoundingClientRect().top > innerHeight / 2) view.element.scrollIntoView() // on a phone
  },
  remove: (items) => queue.remove(items),
  camera: () => live.startCamera(model),
})
const view = new View((slice) => shown && pictureOf(shown, slice))
const found = new FoundPanel({
  thresholds: (moved) => {
    thresholds = moved
    showAgain()
  },
  side: showAgain,
  saveMask: async () => shown && saved(await maskFiles(shown, segmentsOf(shown))),
  saveOverlay: () => shown && saved([overlayFile(shown, segmentsOf(shown), view.slice)]),
})
const facts = new FactsPanel()
const live = new LivePanel(engine, {
  segments: (frame) => new Segments(model!, frame, thresholds),
  show: (segments, picture, isFirst) => {
    shown = null
    if (isFirst) view.open('', segments, 0, 1, picture)
    else view.show(segments, picture)
    found.showFrame(segments)
  },
  ended: showSelected,
  say,
  warn,
})

// ---- what a person gives

function take(files: File[]): void {
  const isModel = (file: File) => /\.onnx$/i.test(file.name)
  const isVideo = (file: File) => file.type.startsWith('video/') || VIDEO.test(file.name)
  const [models, videos] = [files.filter(isModel), files.filter(isVideo)]
  const rest = files.filter((file) => !isModel(file) && !isVideo(file))
  if (models.length > 1) warn(text.model.several)
  else if (models[0]) void open(models[0], null)
  if (rest.length > 0) {
    live.stop()
    queue.add(rest)
  } else if (videos[0]) live.startVideo(videos[0], model)
}

async function open(source: File | URL, chosen: Listed | null): Promise<void> {
  const load = ++loads
  const name = chosen?.name ?? (source as File).name
  live.stop()
  queue.ready = false
  modelPanel.opening(name)
  try {
    const opened = await engine.load(source, 'auto', (loaded, total) => {
      if (load === loads) modelPanel.progressed(name, loaded, total)
    })
    if (chosen && opened.sha256 !== chosen.sha256) {
      model = null // the engine has the wrong one
      throw new Refusal(text.model.altered(name))
    }
    begin(opened, chosen)
    if (load === loads) modelPanel.opened(opened, chosen)
    say(text.model.ready(opened.name))
    beginOffline()
    if (source instanceof URL) void keep(source)
    queue.restart()
  } catch (error) {
    const sentence = error instanceof Refusal ? error.message : text.inputs.unexpected(name, String(error))
    if (load === loads) modelPanel.failed(sentence, model, listed)
    say(sentence)
  }
  if (load !== loads) return
  queue.ready = model !== null
  showQueue(null)
  void queue.go()
}

function begin(opened: Model, chosen: Listed | null): void {
  model = opened
  listed = chosen
  thresholds = [...opened.thresholds]
  found.begin(opened)
  facts.show(opened, chosen)
}

// ---- what is shown

function showQueue(changed: Item | null): void {
  inputs.show(queue.items, queue.selected, queue.ready)
  if (changed?.state === 'refused') say(changed.sentence)
  if (!live.isRunning && (changed === null || changed === queue.selected)) showSelected()
  const { items } = queue
  const left = items.some((item) => item.state === 'waiting' || item.state === 'working')
  if (changed && !left && items.length > 1) say(text.inputs.progress(items.length, items.length))
}

function showSelected(): void {
  const item = queue.selected
  const result = item?.result ?? null
  if (!result) {
    shown = null
    view.clear(hintFor(item))
    found.clear()
  } else if (result !== shown) {
    shown = result
    const segments = segmentsOf(result)
    const [, down, across] = result.spacing ?? [1, 1, 1]
    const slice = fullestSlice(segments)
    view.open(result.name, segments, slice, down / across, pictureOf(result, slice))
    describe(result, segments)
  }
}

function showAgain(): void {
  if (!shown) return
  const segments = segmentsOf(shown)
  view.show(segments)
  describe(shown, segments)
}

function describe(result: Result, segments: Segments): void {
  const summary = found.show(result, segments)
  view.describe(text.view.picturedAs(result.name, summary))
  say(summary)
}

function hintFor(item: Item | null): [string, string] {
  if (item?.state === 'refused') return [text.view.refused, item.sentence]
  if (item) return [queue.ready ? text.view.segmenting : text.view.waiting, item.file.name]
  return [text.view.empty, model ? text.view.emptyModel : text.view.emptyHint]
}

function segmentsOf(result: Result): Segments {
  return new Segments(model!, result, thresholds)
}

function pictureOf(result: Result, slice: number): HTMLCanvasElement {
  const [, height, width] = result.size
  const picture = make('canvas', { width, height })
  const pixels = result.picture.subarray(4 * slice * height * width, 4 * (slice + 1) * height * width)
  picture.getContext('2d')!.putImageData(new ImageData(pixels, width, height), 0, 0)
  return picture
}

// ---- what is said

function saved(files: Named[]): void {
  save(files)
  say(text.found.saved(files.map((file) => file.name).join(', ')))
}

function say(sentence: string): void {
  status.textContent = sentence
}

function warn(sentence: string): void {
  const close = button('×', () => notice.replaceChildren(), { class: 'quiet', 'aria-label': text.close })
  notice.replaceChildren(make('p', {}, sentence), close)
}

// ---- the page itself

function build(): void {
  const name = make('h1', {}, make('span', { class: 'mark', 'aria-hidden': 'true' }), text.name)
  const privacy = make('p', { class: 'private' }, icon(LOCK), text.private)
  const top = make('header', {}, name, make('p', { class: 'tagline' }, text.tagline), privacy)
  const where = make('details', { class: 'where' }, make('summary', {}, text.where.heading))
  where.append(make('ul', {}, ...text.where.points.map((point) => make('li', {}, point))))
  const foot = make('footer', {}, make('p', { class: 'research' }, text.research), where, newer)
  const given = make('div', { class: 'given' }, modelPanel.element, inputs.element)
  const told = make('div', { class: 'told' }, found.element, facts.element)
  view.liveBar.append(live.element)
  const main = make('main', {}, notice, given, view.element, told)
  document.body.append(make('a', { class: 'skip', href: '#view' }, text.skip), top, main, foot, status)
}

async function showModels(): Promise<void> {
  try {
    modelPanel.list(await listModels())
    void keep(new URL('models/models.json', document.baseURI))
  } catch {
    modelPanel.notListed()
  }
}

/** Have the page kept, once: it would be in the way of the first model, which loads the same files. */
function beginOffline(): void {
  if (!isKept) void workOffline(() => (newer.hidden = false))
  isKept = true
}

build()
takeDroppedAndPasted(take)
showQueue(null)
void showModels()
setTimeout(beginOffline, UNHURRIED)
