/** ONNX Runtime: WebAssembly, or WebGPU where that gives the same. */

import gpuGlue from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url'
import gpuBinary from 'onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url'
import wasmGlue from 'onnxruntime-web/ort-wasm-simd-threaded.mjs?url'
import wasmBinary from 'onnxruntime-web/ort-wasm-simd-threaded.wasm?url'
import type * as Ort from 'onnxruntime-web/wasm'

import { alike } from './masks'
import type { ModelFile } from './model'
import * as text from './text'
import { type Device, Refusal } from './types'

type Runtime = typeof Ort
export type Values = { values: Float32Array; shape: readonly number[] }

const MOST_THREADS = 4
const ERRORS = 3 // of what ONNX Runtime logs; warnings are of its own work
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
  const adapter = await adapterOfGpu()
  const wasm = await openWasm(file)
  if (!adapter) return device === 'webgpu' ? { ...wasm, runtime: text.noWebGpu(threads(), text.noAdapter) } : wasm
  let gpu: Network | null = null
  let why = text.gpuFails
  try {
    gpu = await openWebGpu(file)
    const found = await gpu.run(trial.values.slice(), trial.shape)
    const wanted = await wasm.run(trial.values.slice(), trial.shape)
    if (alike(found.values, wanted.values, file.facts, file.model.thresholds)) {
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

/** Return what WebGPU would compute on; null where there is nothing. */
async function adapterOfGpu(): Promise<unknown> {
  const { gpu } = navigator as Navigator & { gpu?: { requestAdapter(): Promise<unknown> } }
  return (await gpu?.requestAdapter().catch(() => null)) ?? null
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
  ort: Runtime,
  { name, content, onnx, facts }: ModelFile,
  provider: 'wasm' | 'webgpu',
  runtime: string,
  paths: { wasm: string; mjs: string },
): Promise<Network> {
  ort.env.wasm.numThreads = threads()
  ort.env.wasm.wasmPaths = { wasm: new URL(paths.wasm, self.origin), mjs: new URL(paths.mjs, self.origin) }
  ort.env.logLevel = 'error'
  let session: Ort.InferenceSession
  try {
    session = await ort.InferenceSession.create(content, { executionProviders: [provider], logSeverityLevel: ERRORS })
  } catch (error) {
    if (isOurs(error)) throw error
    throw new Refusal(text.cannotOpen(name, firstLine(error)))
  }
  const wanted = onnx.outputs.includes(UNTEMPERED) ? UNTEMPERED : 'probabilities'
  return {
    runtime,
    async run(values, shape) {
      const input = new ort.Tensor('float32', values, shape)
      const { [wanted]: output } = await session.run({ [onnx.input]: input }, [wanted])
      if (output.dims[1] !== facts.planes) throw new Refusal(text.otherClasses(name, output.dims[1], facts.planes))
      return { values: output.data as Float32Array, shape: output.dims }
    },
    release: () => session.release(),
  }
}

/** Return whether an error is for want of memory. */
export function isOfMemory(error: unknown): boolean {
  return /memory|alloc|too large|array (buffer )?length/i.test(firstLine(error))
}

/** Return whether it is no file's fault that none is opened: the runtime was not loaded, or the memory is used up. */
function isOurs(error: unknown): boolean {
  return isOfMemory(error) || /no available backend/i.test(firstLine(error))
}

/** Return the first line of what went wrong; of ONNX Runtime's, which begins with its source's place, the end. */
export function firstLine(error: unknown): string {
  const line = (error instanceof Error ? error.message : String(error)).split('\n')[0]
  return line
    .slice(line.lastIndexOf(' : ') + 1)
    .replace(/^: /, '')
    .trim()
}
