/** Description of what is done to a mask afterwards, as the metadata of a file have it. */

import { isObject, isNumberIn, require, requireKnown } from './entries'
import * as text from './text'

const EVEN = 0.5 // the threshold that leaves a class as it is
const UNITS: Record<string, number[]> = { pixels: [2, 3], mm2: [2], mm3: [3] } // of the inputs that have them
const KNOWN = ['threshold', 'filled_holes', 'smallest_part', 'unit', 'largest_component']
const [THRESHOLD, SIZE, TEMPERATURE] = [
  [0.001, 0.999],
  [0, 1e9],
  [0.1, 10],
] as const

/** What is done to a class. */
export interface Cleaning {
  threshold: number
  filledHoles: boolean
  smallestPart: number
  unit: string
  largestComponent: boolean
}

export interface Postprocessing {
  classes: Map<string, Cleaning>
  temperature: number
}

/** Read what metadata say of it; `classes` are those that are scored. */
export function readPostprocessing(stored: unknown, classes: string[], dimensions: number): Postprocessing {
  const found: Postprocessing = { classes: new Map(), temperature: 1 }
  if (stored === undefined || stored === null) return found
  require('post-processing', isObject, 'an object', stored)
  requireKnown('post-processing', stored, ['classes', 'tuned', 'temperature', 'doubt'])
  const temperature = stored.temperature ?? 1
  require('temperature', isNumberIn(...TEMPERATURE), `a number from ${TEMPERATURE.join(' to ')}`, temperature)
  found.temperature = temperature
  const entries = stored.classes ?? {}
  require("post-processing's classes", isObject, 'an object', entries)
  requireKnown("post-processing's classes", entries, classes)
  for (const [name, values] of Object.entries(entries)) found.classes.set(name, readCleaning(name, values, dimensions))
  return found
}

/** Read what is done to a class. */
function readCleaning(name: string, stored: unknown, dimensions: number): Cleaning {
  const subject = `the post-processing of ${name}`
  require(subject, isObject, 'an object', stored)
  requireKnown(subject, stored, KNOWN)
  const {
    threshold = EVEN,
    filled_holes = false,
    smallest_part = 0,
    unit = 'pixels',
    largest_component = false,
  } = stored
  const flag = (value: unknown): value is boolean => typeof value === 'boolean'
  const known = (value: unknown): value is string =>
    typeof value === 'string' && (UNITS[value]?.includes(dimensions) ?? false)
  require('threshold', isNumberIn(...THRESHOLD), `a number from ${THRESHOLD.join(' to ')}`, threshold)
  require('smallest_part', isNumberIn(...SIZE), `a number from ${SIZE.join(' to ')}`, smallest_part)
  require('filled_holes', flag, 'true or false', filled_holes)
  require('largest_component', flag, 'true or false', largest_component)
  require('unit', known, `a size of ${dimensions}D inputs`, unit)
  return {
    threshold,
    filledHoles: filled_holes,
    smallestPart: smallest_part,
    unit,
    largestComponent: largest_component,
  }
}

/** Return a threshold for each plane of the probabilities. */
export function thresholdsOf({ classes }: Postprocessing, classNames: string[], planes: number): number[] {
  const named = classNames.slice(-planes) // binary: none for the background
  return named.map((name) => classes.get(name)?.threshold ?? EVEN)
}

/** Return, in words, what is done here: thresholds, and a temperature, which changes no mask. */
export function doneHere({ classes, temperature }: Postprocessing): string {
  const said = [...classes].filter(([, { threshold }]) => threshold !== EVEN)
  const words = said.map(([name, { threshold }]) => `${name}: ${text.threshold(threshold)}`)
  return [...words, ...(temperature === 1 ? [] : [text.temperature(temperature)])].join('; ')
}

/** Return, in words, what `segzoo predict` does and the page does not. */
export function leftOut({ classes }: Postprocessing): string {
  return [...classes]
    .map(([name, cleaning]) => [name, cleaningWords(cleaning)])
    .filter(([, words]) => words)
    .map(([name, words]) => `${name}: ${words}`)
    .join('; ')
}

/** Return what looks for connected parts, in words. */
function cleaningWords({ filledHoles, smallestPart, unit, largestComponent }: Cleaning): string {
  return [
    ...(filledHoles ? [text.holesFilled] : []),
    ...(smallestPart ? [text.smallestPart(smallestPart, unit)] : []),
    ...(largestComponent ? [text.largestOnly] : []),
  ].join(', ')
}
