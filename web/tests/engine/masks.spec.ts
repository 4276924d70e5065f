/** Masks of probabilities, and when another runtime's are as good. */

import { expect, test } from '@playwright/test'

import { alike, maskOf } from '../../src/engine/masks'
import type { Facts } from '../../src/engine/model'

const task = (planes: number, multilabel = false): Facts => ({ planes, multilabel }) as Facts

test('thresholds decide alone, and weigh classes that exclude each other', () => {
  expect(maskOf(Float32Array.of(0.2, 0.5, 0.51), task(1), [0.5])).toEqual(Uint8Array.of(0, 0, 1))
  expect(maskOf(Float32Array.of(0.1, 0.3, 0.25), task(1), [0.25])).toEqual(Uint8Array.of(0, 1, 0))
  expect(maskOf(Float32Array.of(0.3, 0.1), task(1), [0.1])).toEqual(Uint8Array.of(1, 0)) // 0.1 of float32 on both sides
  const three = Float32Array.of(0.5, 0.2, 0.4, 0.3, 0.3, 0.4, 0.2, 0.5, 0.2)
  expect(maskOf(three, task(3), [0.5, 0.5, 0.5])).toEqual(Uint8Array.of(0, 2, 0)) // the first of equals
  expect(maskOf(three, task(3), [0.5, 0.3, 0.5])).toEqual(Uint8Array.of(1, 1, 1))
  expect(maskOf(three, task(3, true), [0.5, 0.5, 0.5])).toBeNull()
})

test('another runtime is trusted only with as good as the same masks and probabilities', () => {
  const pixels = 4000
  const one = Float32Array.from({ length: pixels }, (_, i) => i / pixels)
  const near = one.map((value) => value + 1e-5)
  const moved = one.map((value) => value + 2e-3) // which moves eight pixels across
  const off = one.map((value, i) => (i === 17 ? 0.9 : value))
  expect(alike(near, one, task(1), [0.5])).toBe(true)
  expect(alike(moved, one, task(1), [0.5])).toBe(false)
  expect(alike(off, one, task(1), [0.5])).toBe(false)
  expect(
    alike(
      one.map(() => NaN),
      one,
      task(1),
      [0.5],
    ),
  ).toBe(false)
  expect(alike(moved, one, task(1, true), [0.5])).toBe(false)
  expect(alike(near, one, task(2, true), [0.5, 0.2])).toBe(true)
})
