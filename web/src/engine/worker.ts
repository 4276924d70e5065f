/** Worker: holds the network, and answers one call after the other. */

import { decode, isPicture, pixelsOf } from './decode'
import { spacingOf } from './geometry'
import { segmentImage } from './images'
import { maskOf, refuseNaN } from './masks'
import type { Answer, Call, Request } from './messages'
import { type ModelFile, readModel } from './model'
import { isNifti, readNifti } from './nifti'
import { type Pixels, seen, toRgba } from './picture'
import { strangeImage, strangeVolume } from './ranges'
import { firstLine, isOfMemory, type Network, openNetwork, type Values } from './session'
import * as text from './text'
import { type Device, type Frame, type Model, Refusal, type Result } from './types'
import { segmentVolume, volumePicture } from './volumes'

interface Open {
  file: ModelFile
  network: Network
}

let open: Open | null = null
let last: Promise<void> = Promise.resolve()

self.onmessage = ({ data }: MessageEvent<Request>) => {
  last = last.then(() => answer(data))
}

/** Do what a call asks for, and say what came of it. */
async function answer(request: Request): Promise<void> {
  const { id } = request
  const say = (message: Answer, given: Transferable[] = []): void => self.postMessage(message, { transfer: given })
  try {
    const value = await done(request, (loaded, total) => say({ id, kind: 'progress', loaded, total }))
    say({ id, kind: 'done', value }, buffersOf(value))
  } catch (error) {
    if (error instanceof Refusal) say({ id, kind: 'refused', sentence: error.message, broken: false })
    else say({ id, kind: 'refused', sentence: sentenceOf(error, subjectOf(request)), broken: true })
  }
}

/** Do what a call asks for. */
function done(call: Call, progressed: (loaded: number, total: number) => void): Promise<Model | Result | Frame> {
  switch (call.kind) {
    case 'load':
      return load(call.source, call.device, progressed)
    case 'segment':
      return segment(call.input)
    case 'segmentFrame':
      return segmentFrame(call.frame)
  }
}

/** Open a model's file; one that is refused leaves open what was. */
async function load(
  source: File | string,
  device: Device,
  progressed: (loaded: number, total: number) => void,
): Promise<Model> {
  const content = source instanceof File ? await bytesOf(source) : await fetched(source, progressed)
  const file = await readModel(content, nameOf(source))
  const network = await openNetwork(file, device, trialOf(file))
  await open?.network.release()
  open = { file, network }
  return { ...file.model, runtime: network.runtime }
}

/** Return an input of slow waves to compare runtimes by, of the size that the network sees. */
function trialOf({ onnx, facts: { contract } }: ModelFile): Values {
  const sides = onnx.sides ?? (contract.dimensions === 3 ? contract.patchSize : (contract.imageSize ?? [256, 256]))
  const shape = [1, contract.channels, ...sides]
  const length = shape.reduce((product, side) => product * side, 1)
  const [middle, height] = contract.dimensions === 3 ? [0, 1.5] : [128, 100]
  const width = sides[sides.length - 1]
  const values = Float32Array.from(
    { length },
    (_, i) => middle + height * Math.sin((i % width) / 19) * Math.cos(Math.floor(i / width) / 31),
  )
  return { values, shape }
}

/** Segment a file by the model that is open. */
async function segment(input: File): Promise<Result> {
  const { file, network } = opened()
  const content = await bytesOf(input)
  return file.facts.contract.dimensions === 3
    ? segmentVolumeFile(content, input.name, file, network)
    : segmentImageFile(content, input.name, file, network)
}

/** Segment a picture's file. */
async function segmentImageFile(
  content: Uint8Array<ArrayBuffer>,
  name: string,
  file: ModelFile,
  network: Network,
): Promise<Result> {
  const { contract } = file.facts
  if (contract.dimensions !== 2) throw new Refusal(text.tooFlat(name))
  if (isNifti(name)) throw new Refusal(text.volumeForImages(name))
  const warnings: string[] = []
  const pixels = seen(await decode(content, name), contract.channels, contract.intensityRange, name, warnings)
  const start = performance.now()
  const found = await segmented(pixels, file, network, name)
  const milliseconds = performance.now() - start
  warnings.push(...strangeImage(pixels, file.facts, contract, name))
  const size: Result['size'] = [1, pixels.height, pixels.width]
  return {
    ...found,
    name,
    dimensions: 2,
    size,
    picture: toRgba(pixels),
    spacing: null,
    maskHeader: null,
    warnings,
    milliseconds,
  }
}

/** Segment a volume's file. */
async function segmentVolumeFile(
  content: Uint8Array<ArrayBuffer>,
  name: string,
  file: ModelFile,
  network: Network,
): Promise<Result> {
  const { contract } = file.facts
  if (contract.dimensions !== 3 || isPicture(content)) throw new Refusal(text.tooFlat(name))
  if (!isNifti(name)) throw new Refusal(text.otherKind(name))
  const warnings: string[] = []
  const volume = await readNifti(content, contract.channels, name, warnings)
  const start = performance.now()
  const probabilities = await segmentVolume(volume, contract, file, network, name)
  refuseNaN(probabilities, file.name)
  const mask = maskOf(probabilities, file.facts, file.model.thresholds)
  const milliseconds = performance.now() - start
  warnings.push(...strangeVolume(volume, file.facts, contract, name))
  const { geometry, maskHeader } = volume
  const [size, spacing] = [geometry.shape, spacingOf(geometry)]
  return {
    name,
    dimensions: 3,
    size,
    picture: volumePicture(volume),
    mask,
    probabilities,
    spacing,
    maskHeader,
    warnings,
    milliseconds,
  }
}

/** Segment a frame by the model that is open. */
async function segmentFrame(frame: ImageBitmap | VideoFrame): Promise<Frame> {
  const [height, width] =
    'displayHeight' in frame ? [frame.displayHeight, frame.displayWidth] : [frame.height, frame.width]
  const values = pixelsOf(frame, height, width)
  frame.close()
  const { file, network } = opened()
  const start = performance.now()
  const picture = { height, width, channels: 4, values, white: 255, turned: false }
  const pixels = seen(picture, file.model.channels, null, text.frame, [])
  const found = await segmented(pixels, file, network, text.frame)
  return { ...found, size: [height, width], milliseconds: performance.now() - start }
}

/** Return mask and probabilities of pixels. */
async function segmented(
  pixels: Pixels,
  file: ModelFile,
  network: Network,
  name: string,
): Promise<Pick<Frame, 'mask' | 'probabilities'>> {
  if (file.facts.contract.dimensions === 3) throw new Refusal(text.tooFlat(name))
  const probabilities = await segmentImage(pixels, file.facts.contract, file, network, name)
  refuseNaN(probabilities, file.name)
  return { mask: maskOf(probabilities, file.facts, file.model.thresholds), probabilities }
}

/** Return what is open. */
function opened(): Open {
  if (!open) throw new Refusal(text.noModel)
  return open
}

// ---- files

/** Return a file's bytes. */
async function bytesOf(file: File): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await file.arrayBuffer())
  } catch (error) {
    throw new Refusal(text.notFetched(file.name, firstLine(error)))
  }
}

/** Fetch a file that lies beside the page. */
async function fetched(
  url: string,
  progressed: (loaded: number, total: number) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const response = await fetch(url)
    if (!response.ok || !response.body) throw new Error(`${response.status} ${response.statusText}`.trim())
    const total = Number(response.headers.get('content-length')) || 0
    const parts: Uint8Array<ArrayBuffer>[] = []
    let loaded = 0
    for (const reader = response.body.getReader(); ;) {
      const { value } = await reader.read()
      if (!value) break
      parts.push(value)
      loaded += value.length
      progressed(loaded, Math.max(total, loaded))
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer())
  } catch (error) {
    throw new Refusal(text.notFetched(nameOf(url), firstLine(error)))
  }
}

/** Return a file's name. */
function nameOf(source: File | string): string {
  return source instanceof File ? source.name : decodeURIComponent(new URL(source).pathname.split('/').pop() || source)
}

// ---- answers

/** Return what a call was about, for the sentence. */
function subjectOf(call: Call): string {
  if (call.kind === 'load') return nameOf(call.source)
  return call.kind === 'segment' ? call.input.name : text.frame
}

/** Say what went wrong that no file is known to be at fault for: mostly the memory. */
function sentenceOf(error: unknown, subject: string): string {
  return isOfMemory(error) ? text.outOfMemory(subject) : text.failed(subject, firstLine(error))
}

/** Return the arrays of an answer, which are given away. */
function buffersOf(value: Model | Result | Frame): Transferable[] {
  return Object.values(value).flatMap((part) => (ArrayBuffer.isView(part) ? [part.buffer as ArrayBuffer] : []))
}
