/** ONNX Runtime: WebAssembly, or WebGPU where that gives the same. */

import type * as Ort from 'onnxruntime-web/wasm'

import type { ModelFile } from './model'
import * as text from './text'
import { Refusal } from './types'

type Runtime = typeof Ort
type Values = { values: Float32Array; shape: readonly number[] }

const MOST_THREADS = 4
const UNTEMPERED = 'uncalibrated' // the output of probabilities without a temperature, of which masks are made

/** Network that is ready to run. */
export interface Network {
  runtime: string
  /** From inputs [B, C, *S] to probabilities [B, K, *S], without a temperature. */
  run(values: Float32Array, shape: readonly number[]): Promise<Values>
  release(): Promise<void>
}

/** Threads that WebAssembly may take: several only where the page is isolated from others. */
export function threads(): number {
  return self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1
}

/** Open a file by WebAssembly. */
export async function openWasm(file: ModelFile): Promise<Network> {
  const [ort, binary, glue] = await Promise.all([
    import('onnxruntime-web/wasm'),
    import('onnxruntime-web/ort-wasm-simd-threaded.wasm?url'),
    import('onnxruntime-web/ort-wasm-simd-threaded.mjs?url'),
  ])
  return opened(ort, file, 'wasm', text.webAssembly(threads()), binary.default, glue.default)
}

/** Open a file by a runtime whose two files lie at addresses of the page's own. */
async function opened(
  ort: Runtime, { content, onnx, facts, model }: ModelFile, provider: 'wasm' | 'webgpu', runtime: string,
  binary: string, glue: string,
): Promise<Network> {
  ort.env.wasm.numThreads = threads()
  ort.env.wasm.wasmPaths = { wasm: new URL(binary, self.location.href), mjs: new URL(glue, self.location.href) }
  ort.env.logLevel = 'error'
  let session: Ort.InferenceSession
  try {
    session = await ort.InferenceSession.create(content, { executionProviders: [provider] })
  } catch (error) {
    throw new Refusal(text.cannotOpen(model.name, firstLine(error)))
  }
  const wanted = onnx.outputs.includes(UNTEMPERED) ? UNTEMPERED : 'probabilities'
  return {
    runtime,
    async run(values, shape) {
      const input = new ort.Tensor('float32', values, shape)
      const { [wanted]: output } = await session.run({ [onnx.input]: input }, [wanted])
      if (output.dims[1] !== facts.planes) throw new Refusal(text.otherClasses(model.name, output.dims[1], facts.planes))
      return { values: output.data as Float32Array, shape: output.dims }
    },
    release: () => session.release(),
  }
}

/** Return the first line of what went wrong. */
export function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0].trim()
}
