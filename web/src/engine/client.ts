/** Engine as the page has it: calls go to a worker, one after the other; a worker that breaks is started anew. */

import type { Answer, Call } from './messages'
import { failed, frame as theFrame } from './text'
import workerFile from './worker?worker&url'
import { type Device, type Engine, type Frame, type Model, Refusal, type Result } from './types'

type Progress = (loaded: number, total: number) => void

/** Start the engine. */
export function startEngine(): Engine {
  return new Client()
}

class Client implements Engine {
  private worker: Worker | null = null
  private count = 0
  private last: Promise<unknown> = Promise.resolve()
  /** What is open in a worker, or was in one that broke. */
  private open: Extract<Call, { kind: 'load' }> | null = null

  async load(source: File | URL, device: Device = 'auto', progressed?: Progress): Promise<Model> {
    const call: Call = { kind: 'load', source: source instanceof URL ? source.href : source, device }
    return this.inTurn(async () => {
      const model = (await this.asked(call, [], progressed)) as Model
      this.open = call
      return model
    })
  }

  segment(input: File): Promise<Result> {
    return this.inTurn(() => this.again({ kind: 'segment', input }, [])) as Promise<Result>
  }

  segmentFrame(frame: ImageBitmap | VideoFrame): Promise<Frame> {
    return this.inTurn(() => this.again({ kind: 'segmentFrame', frame }, [frame])) as Promise<Frame>
  }

  /** Do something once all before it is done, well or not. */
  private inTurn<T>(what: () => Promise<T>): Promise<T> {
    const found = this.last.then(what, what)
    this.last = found.catch(() => undefined)
    return found
  }

  /** Ask the worker, and open the model anew where the last one broke. */
  private async again(call: Call, given: Transferable[]): Promise<Model | Result | Frame> {
    if (!this.worker && this.open) await this.opened(this.open)
    return this.asked(call, given)
  }

  /** Open in a new worker what was open in the one that broke; where that fails, the next call tries again. */
  private async opened(call: Call): Promise<void> {
    try {
      await this.asked(call, [])
    } catch (error) {
      this.stop()
      throw error
    }
  }

  /** Ask the worker and wait for its answer. */
  private asked(call: Call, given: Transferable[], progressed?: Progress): Promise<Model | Result | Frame> {
    const worker = (this.worker ??= startWorker())
    const id = ++this.count
    return new Promise((resolve, reject) => {
      const refuse = (sentence: string, broken: boolean): void => {
        if (broken) this.stop()
        reject(new Refusal(sentence))
      }
      worker.onmessage = ({ data }: MessageEvent<Answer>) => {
        if (data.id !== id) return
        if (data.kind === 'progress') progressed?.(data.loaded, data.total)
        else if (data.kind === 'done') resolve(data.value)
        else refuse(data.sentence, data.broken)
      }
      worker.onerror = ({ message }) => refuse(failed(subjectOf(call), message || 'its worker ended'), true)
      worker.postMessage({ ...call, id }, given)
    })
  }

  /** Let go of a worker that broke, and of its memory. */
  private stop(): void {
    this.worker?.terminate()
    this.worker = null
  }
}

/** Start a worker under the page's own security policy; one whose file is fetched has what that file's headers say. */
function startWorker(): Worker {
  const file = new URL(workerFile, location.href).href
  const module = new Blob([`import ${JSON.stringify(file)}`], { type: 'text/javascript' })
  return new Worker(URL.createObjectURL(module), { type: 'module' })
}

/** Return what a call is about. */
function subjectOf(call: Call): string {
  if (call.kind === 'segment') return call.input.name
  if (call.kind === 'segmentFrame') return theFrame
  return call.source instanceof File ? call.source.name : call.source
}
