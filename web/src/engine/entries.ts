/** Checks of entries that strangers wrote: each refuses in words that a sentence takes into brackets. */

import { mustBe, unknownEntry } from './text'

/** What metadata get wrong, in words. */
export class Strange extends Error {}

export type Entries = Record<string, unknown>

/** Refuse a value that does not fit. */
export function require<T>(
  name: string,
  fits: (value: unknown) => value is T,
  kind: string,
  value: unknown,
): asserts value is T {
  if (!fits(value)) throw new Strange(mustBe(name, kind, value))
}

/** Refuse entries of other names: this version would leave out what they mean. */
export function requireKnown(of: string, entries: Entries, known: string[]): void {
  const unknown = Object.keys(entries).find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Strange(unknownEntry(of, unknown))
}

export const isObject = (value: unknown): value is Entries =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
export const isWord = (value: unknown): value is string => typeof value === 'string'
export const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)
export const isWhole = (value: unknown): value is number => isNumber(value) && Number.isInteger(value)
export const isCount = (value: unknown): value is number => isWhole(value) && value > 0

export const isNumberIn =
  (least: number, most: number) =>
  (value: unknown): value is number =>
    isNumber(value) && least <= value && value <= most

export const isListOf =
  <T>(one: (value: unknown) => value is T, length?: number) =>
  (value: unknown): value is T[] =>
    Array.isArray(value) && value.every(one) && (length === undefined || value.length === length)
