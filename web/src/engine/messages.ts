/** Messages between client and worker: a call has a number, and its answer has the same. */

import type { Device, Frame, Model, Result } from './types'

export type Call =
  | { kind: 'load'; source: File | string; device: Device }
  | { kind: 'segment'; input: File }
  | { kind: 'segmentFrame'; frame: ImageBitmap | VideoFrame }

export type Request = Call & { id: number }

export type Answer = { id: number } & (
  | { kind: 'done'; value: Model | Result | Frame }
  | { kind: 'progress'; loaded: number; total: number }
  /** `broken`: the worker has to be started anew, as its memory is used up or its runtime has ended. */
  | { kind: 'refused'; sentence: string; broken: boolean }
)
