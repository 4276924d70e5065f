/** ONNX Runtime: WebAssembly, or WebGPU where that gives the same. */

import gpuGlue from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url'
import gpuBinary from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url'
import wasmGlue from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url'
import wasmBinary from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url'
import type * as Ort from 'onnxruntime-web/wasm'

import type { ModelFile } from './model'
import * as text from './text'
import { type Device, Refusal } from './types'

type Runtime = typeof Ort
export type Values = { values: Float32Array; shape: readonly number[] }

const MOST_THREADS = 4
const PROBABILITY = 1e-2 // by which WebGPU may differ
const PIXELS = 5e-4 // part of a mask that may
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

/**
 * Open a file where it is asked for: "auto" is WebGPU where that gives what WebAssembly gives.
 *
 * `trial` is an input to find that out by.
 */
export async function openNetwork(file: ModelFile, device: Device, trial: Values): Promise<Network> {
  if (device === 'wasm') return openWasm(file)
  const adapter = await (navigator as Navigator & { gpu?: { requestAdapter(): Promise<unknown> } }).gpu?.requestAdapter()
  const wasm = await openWasm(file)
  if (!adapter) return device === 'webgpu' ? { ...wasm, runtime: text.noWebGpu(threads(), text.noAdapter) } : wasm
  let gpu: Network | null = null
  let why = text.gpuFails
  try {
    gpu = await openWebGpu(file)
    const found = await gpu.run(trial.values.slice(), trial.shape)
    if (alike(found, await wasm.run(trial.values.slice(), trial.shape))) {
      await wasm.release()
      return gpu
    }
    why = text.gpuDiffers
  } catch {
    // said by what computes then
  }
  await gpu?.release()
  return { ...wasm, runtime: text.noWebGpu(threads(), why) }
}

/** Return whether two runtimes give as good as the same probabilities, and masks. */
function alike(one: Values, other: Values): boolean {
  const planes = one.shape[1]
  const pixels = one.values.length / planes
  const different = new Uint8Array(pixels)
  for (let i = 0; i < one.values.length; i++) {
    if (!(Math.abs(one.values[i] - other.values[i]) <= PROBABILITY)) return false
    if (one.values[i] > 0.5 !== other.values[i] > 0.5) different[i % pixels] = 1
  }
  return different.reduce((sum, flag) => sum + flag, 0) <= PIXELS * pixels
}

/** Open a file by WebGPU, whose runtime is loaded only here. */
async function openWebGpu(file: ModelFile): Promise<Network> {
  const ort = await import('onnxruntime-web/webgpu')
  return opened(ort, file, 'webgpu', text.webGpu, { wasm: gpuBinary, mjs: gpuGlue })
}

/** Open a file by WebAssembly. */
async function openWasm(file: ModelFile): Promise<Network> {
  const ort = await import('onnxruntime-web/wasm')
  return opened(ort, file, 'wasm', text.webAssembly(threads()), { wasm: wasmBinary, mjs: wasmGlue })
}

/** Open a file by a runtime whose two files lie at addresses of the page's own. */
async function opened(
  ort: Runtime, { content, onnx, facts, model }: ModelFile, provider: 'wasm' | 'webgpu', runtime: string,
  paths: { wasm: string; mjs: string },
): Promise<Network> {
  ort.env.wasm.numThreads = threads()
  ort.env.wasm.wasmPaths = { wasm: new URL(paths.wasm, self.location.href), mjs: new URL(paths.mjs, self.location.href) }
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
