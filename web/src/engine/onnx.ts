/** ONNX files as bytes: what they say of themselves, and whether all that they compute with is inside. */

import { Refusal } from './types'
import * as text from './text'

/** What is read of an ONNX file before a runtime sees it. */
export interface OnnxFile {
  /** JSON that `segzoo export` wrote; null where there is none. */
  facts: string | null
  input: string
  /** Sides of the inputs; null where they vary. */
  sides: number[] | null
  outputs: string[]
}

type Kind = 'model' | 'training' | 'function' | 'graph' | 'node' | 'attribute' | 'sparse' | 'tensor'
type Field = [number: number, value: number | Uint8Array]

const FACTS = 'segzoo'
// messages of onnx.proto in which a tensor can lie, however deep: number of the field -> the message there
const NESTED: Record<Kind, Record<number, Kind>> = {
  model: { 7: 'graph', 20: 'training', 25: 'function' },
  training: { 1: 'graph', 2: 'graph' },
  function: { 7: 'node', 11: 'attribute' },
  graph: { 1: 'node', 5: 'tensor', 15: 'sparse' },
  node: { 5: 'attribute' },
  attribute: { 5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse' },
  sparse: { 1: 'tensor', 2: 'tensor' },
  tensor: {},
}
const MODEL = { version: 1, graph: 7, metadata: 14 }
const GRAPH = { input: 11, output: 12 }
const EXTERNAL_DATA = 13 // fields of a tensor: where its values are, and that they are there
const DATA_LOCATION = 14

const utf8 = new TextDecoder()
const inner = (fields: Field[], number: number): Uint8Array[] =>
  fields.flatMap(([found, value]) => (found === number && value instanceof Uint8Array ? [value] : []))
const named = (message: Uint8Array): string => utf8.decode(inner([...fieldsOf(message)], 1)[0] ?? new Uint8Array())

/** Error of a message that ends before it should. */
class Cut extends Error {}

/** Read what an ONNX file says of itself; refuses what is none, is cut, or keeps weights elsewhere. */
export function readOnnx(content: Uint8Array, file: string): OnnxFile {
  try {
    const model = [...fieldsOf(content)]
    const graph = inner(model, MODEL.graph)[0]
    if (!graph || !model.some(([number, value]) => number === MODEL.version && typeof value === 'number'))
      throw new Refusal(text.noOnnx(file))
    if (hasExternalData(content)) throw new Refusal(text.externalData(file))
    const inside = [...fieldsOf(graph)]
    const input = inner(inside, GRAPH.input)[0]
    if (!input) throw new Refusal(text.noOnnx(file))
    return {
      facts: factsOf(inner(model, MODEL.metadata)),
      input: named(input),
      sides: sidesOf(input),
      outputs: inner(inside, GRAPH.output).map(named),
    }
  } catch (error) {
    if (error instanceof Refusal) throw error
    throw new Refusal(
      error instanceof Cut && content[0] === 8 && content.length > 16 ? text.cutOnnx(file) : text.noOnnx(file),
    )
  }
}

/** Return the text under segzoo's key among the metadata, of which each is a key and a value. */
function factsOf(metadata: Uint8Array[]): string | null {
  for (const entry of metadata) {
    const fields = [...fieldsOf(entry)]
    if (utf8.decode(inner(fields, 1)[0]) === FACTS) return utf8.decode(inner(fields, 2)[0])
  }
  return null
}

/** Return the sides of an input [B, C, *S]; null where one varies. */
function sidesOf(input: Uint8Array): number[] | null {
  let message = input
  const [type, tensor, shape] = [2, 1, 2]
  for (const number of [type, tensor, shape]) message = inner([...fieldsOf(message)], number)[0] ?? new Uint8Array()
  const sides = inner([...fieldsOf(message)], 1)
    .slice(2)
    .map((side) => [...fieldsOf(side)].find(([number]) => number === 1)?.[1])
  return sides.length > 0 && sides.every((side) => typeof side === 'number') ? (sides as number[]) : null
}

/** Return whether a tensor, however deep, has its values in another file. */
function hasExternalData(content: Uint8Array): boolean {
  const waiting: [Kind, Uint8Array][] = [['model', content]]
  for (let next = waiting.pop(); next; next = waiting.pop()) {
    const [kind, message] = next
    for (const [number, value] of fieldsOf(message)) {
      if (kind === 'tensor' && (number === EXTERNAL_DATA || (number === DATA_LOCATION && value))) return true
      const nested = NESTED[kind][number]
      if (nested && value instanceof Uint8Array) waiting.push([nested, value])
    }
  }
  return false
}

/** Yield the fields of a protobuf message: number, and whole number or bytes. */
function* fieldsOf(message: Uint8Array): Generator<Field> {
  let place = 0
  const whole = (): number => {
    let number = 0
    for (let factor = 1; factor < 2 ** 70 && place < message.length; factor *= 128) {
      const byte = message[place++]
      number += (byte & 127) * factor
      if (byte < 128) return number
    }
    throw new Cut()
  }
  while (place < message.length) {
    const key = whole()
    const stored = key % 8
    if (stored === 0) {
      yield [Math.floor(key / 8), whole()]
      continue
    }
    const size = stored === 2 ? whole() : stored === 1 ? 8 : stored === 5 ? 4 : NaN
    if (Number.isNaN(size)) throw new Error(`a field is stored as ${stored}`)
    if (place + size > message.length) throw new Cut()
    yield [Math.floor(key / 8), message.subarray(place, place + size)]
    place += size
  }
}
