import { expect, test } from '@playwright/test'
import type { Model } from '../../src/engine/types'
import { Segments, foreground, fullestSlice } from '../../src/page/segments'

const MODEL: Model = {
  name: 'made up',
  classNames: ['background', 'lesion'],
  multilabel: false,
  thresholds: [0.5],
  regionValues: [],
  dimensions: 2,
  channels: 1,
  fixedSize: null,
  precision: 'float32',
  bytes: 1,
  sha256: '',
  licences: {},
  inGraph: '',
  leftToPredict: '',
  runtime: '',
}

function values(segments: Segments): number[] | null {
  const labels = segments.labelMap(null)
  return labels && [...labels]
}

test("a binary mask is the engine's at its own threshold, else what lies above in float32", () => {
  const found = {
    size: [1, 1, 3] as [number, number, number],
    mask: new Uint8Array([1, 0, 0]),
    probabilities: new Float32Array([0.3, 0.7, 0.8]),
  }
  expect(values(new Segments(MODEL, found, [0.5]))).toEqual([1, 0, 0])
  expect(values(new Segments(MODEL, found, [0.4]))).toEqual([0, 1, 1])
  expect(values(new Segments(MODEL, found, [0.7]))).toEqual([0, 0, 1]) // equal is not above; 0.7 is not float32's
})

test('classes that exclude each other are those of the mask', () => {
  const model = { ...MODEL, classNames: ['background', 'a', 'b'], thresholds: [0.5, 0.5, 0.5] }
  const mask = new Uint8Array([0, 2, 1, 2])
  const segments = new Segments(model, { size: [2, 1, 2], mask, probabilities: new Float32Array(12) }, model.thresholds)
  const [a, b] = foreground(model)
  expect([segments.count(a!), segments.count(b!)]).toEqual([1, 2])
  expect([...segments.plane(b!, 1)]).toEqual([0, 1])
  expect([...segments.labelMap(1)!]).toEqual([1, 2])
  expect(fullestSlice(segments)).toBe(1)
})

test('classes that overlap have a file each, or the values of their regions, the last over the others', () => {
  const model = { ...MODEL, classNames: ['whole', 'core'], multilabel: true, thresholds: [0.5, 0.4] }
  const found = {
    size: [1, 1, 3] as [number, number, number],
    mask: null,
    probabilities: new Float32Array([0.9, 0.6, 0.5, 0.1, 0.45, 0.4]),
  }
  const segments = new Segments(model, found, model.thresholds)
  const [whole, core] = foreground(model)
  expect([...segments.plane(whole!, null)]).toEqual([1, 1, 0])
  expect([...segments.plane(core!, null)]).toEqual([0, 1, 0]) // 0.4 is not above itself
  expect(values(segments)).toBeNull()
  expect(values(new Segments({ ...model, regionValues: [2, 300] }, found, model.thresholds))).toEqual([2, 300, 0])
})
