/** Model's file: what it says of itself, found good. */

import { type Contract, readContract } from './contract'
import { isListOf, isNumber, isObject, isWhole, isWord, require, Strange } from './entries'
import { CLASSES, JSON_BYTES } from './limits'
import { type OnnxFile, readOnnx } from './onnx'
import { doneHere, leftOut, type Postprocessing, readPostprocessing, thresholdsOf } from './postprocessing'
import * as text from './text'
import { type Model, Refusal } from './types'

/** Lowest and highest values that the training's inputs had, by the feature's name. */
export type Ranges = Record<string, [low: number[], high: number[]]>

/** What metadata say, as far as the page relies on it. */
export interface Facts {
  name: string
  /** Planes of the probabilities. */
  planes: number
  multilabel: boolean
  classNames: string[]
  regionValues: number[]
  contract: Contract
  postprocessing: Postprocessing
  ranges: Ranges
  precision: string
  licences: Record<string, string>
}

/** File that was read, before a runtime opens it. */
export interface ModelFile {
  /** File's own name. */
  name: string
  content: Uint8Array<ArrayBuffer>
  onnx: OnnxFile
  facts: Facts
  model: Omit<Model, 'runtime'>
}

const NEEDED = ['class_names', 'model', 'multilabel', 'num_classes', 'precision', 'preprocessing']
const isFlag = (value: unknown): value is boolean => typeof value === 'boolean'
const isLabel = (value: unknown): value is number => isWhole(value) && value > 0 && value < 65536
const isRange = (value: unknown): value is [number[], number[]] =>
  isListOf(isListOf(isNumber), 2)(value) && value[0].length === value[1].length

/** Read a model's file. */
export async function readModel(content: Uint8Array<ArrayBuffer>, file: string): Promise<ModelFile> {
  const onnx = readOnnx(content, file)
  if (onnx.facts === null) throw new Refusal(text.noMetadata(file))
  const facts = factsOf(onnx.facts, file)
  if (onnx.sides && onnx.sides.length !== facts.contract.dimensions)
    throw new Refusal(
      text.strangeMetadata(file, text.mustBe('preprocessing', `of ${onnx.sides.length}D inputs`, facts.contract)),
    )
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', content))
  return {
    name: file,
    content,
    onnx,
    facts,
    model: {
      name: facts.name,
      classNames: facts.classNames,
      multilabel: facts.multilabel,
      thresholds: thresholdsOf(facts.postprocessing, facts.classNames, facts.planes),
      regionValues: facts.regionValues,
      dimensions: facts.contract.dimensions,
      channels: facts.contract.channels,
      fixedSize: onnx.sides,
      precision: facts.precision,
      bytes: content.length,
      sha256: Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join(''),
      licences: facts.licences,
      inGraph: doneHere(facts.postprocessing),
      leftToPredict: leftOut(facts.postprocessing),
    },
  }
}

/** Read metadata and find them good. */
function factsOf(json: string, file: string): Facts {
  try {
    return readFacts(json)
  } catch (error) {
    if (error instanceof Strange) throw new Refusal(text.strangeMetadata(file, error.message))
    throw error
  }
}

/** Read metadata, each entry of the kind that it must be. */
function readFacts(json: string): Facts {
  const entries = parsed(json)
  require('metadata', isObject, 'an object', entries)
  const missing = NEEDED.filter((name) => !(name in entries))
  if (missing.length) throw new Strange(text.lack(missing))
  const { checkpoint = {}, model, num_classes, multilabel, class_names, preprocessing, precision, data = {} } = entries
  require('model', isObject, 'an object', model)
  require('checkpoint', isObject, 'an object', checkpoint)
  require('num_classes', isWhole, 'a whole number', num_classes)
  if (num_classes < 1 || num_classes > CLASSES) throw new Strange(text.tooMany('num_classes is', num_classes, CLASSES))
  require('multilabel', isFlag, 'true or false', multilabel)
  const names = num_classes === 1 && !multilabel ? 2 : num_classes
  require('class_names', isListOf(isWord, names), `a list of ${names} words`, class_names)
  require('preprocessing', isObject, 'an object', preprocessing)
  require('data', isObject, 'an object', data)
  const ranges = data.ranges ?? {}
  require("data's ranges", isObject, 'an object', ranges)
  for (const [name, range] of Object.entries(ranges))
    require(`data's range of ${name}`, isRange, 'two lists of numbers', range)
  const contract = readContract(preprocessing)
  return {
    name: String(checkpoint.name || model.name || ''),
    planes: num_classes,
    multilabel,
    classNames: class_names,
    regionValues: regionValuesOf(entries.region_values, multilabel, num_classes),
    contract,
    postprocessing: readPostprocessing(
      entries.postprocessing,
      multilabel ? class_names : class_names.slice(1),
      contract.dimensions,
    ),
    ranges: ranges as Ranges,
    precision: String(precision),
    licences: licencesOf(checkpoint.licences),
  }
}

/** Return the values of a JSON text that is not too long. */
function parsed(json: string): unknown {
  if (json.length > JSON_BYTES)
    throw new Strange(text.tooMany('its metadata have characters:', json.length, JSON_BYTES))
  try {
    return JSON.parse(json)
  } catch {
    throw new Strange(text.noJson)
  }
}

/** Return the values of a multi-label mask's regions, one for each plane, or none. */
function regionValuesOf(stored: unknown, multilabel: boolean, planes: number): number[] {
  const values = stored ?? []
  require('region_values', isListOf(isLabel), 'a list of whole numbers above 0', values)
  if (values.length && !(multilabel && values.length === planes))
    throw new Strange(text.mustBe('region_values', 'one for each mask of a multi-label model', values))
  return values
}

/** Return the words about licences that are texts. */
function licencesOf(stored: unknown): Record<string, string> {
  if (!isObject(stored)) return {}
  return Object.fromEntries(Object.entries(stored).filter((entry): entry is [string, string] => isWord(entry[1])))
}
