/**
 * Contract between the page, which has the document, and the engine, which has the network and runs in a worker.
 *
 * The engine never touches the document, the page never touches a tensor. What crosses is said here alone.
 */

/** Model's file as it describes itself, found good. */
export interface Model {
  /** Checkpoint that was exported, or the architecture. */
  name: string
  /** Of the mask's values from 0, or, in multi-label, of its planes. */
  classNames: string[]
  /** True where classes may overlap, and each has a mask of its own. */
  multilabel: boolean
  /** Of each plane of the probabilities: above it, a class that is decided on its own is there. 0.5 unless said. */
  thresholds: number[]
  /** In multi-label: value of each class in one file, where the last of a pixel wins; [] for a file each. */
  regionValues: number[]
  /** 2 for images, 3 for volumes. */
  dimensions: 2 | 3
  /** Of an input. */
  channels: number
  /** Sides of the inputs of a file of one size, else null. */
  fixedSize: number[] | null
  precision: string
  bytes: number
  sha256: string
  /** Words about the licences of code, weights and data, as the file has them. */
  licences: Record<string, string>
  /** What is done to a mask afterwards: in the graph, and by `segzoo predict` alone; in words, "" for nothing. */
  inGraph: string
  leftToPredict: string
  /** What computes, for people: "WebAssembly, 2 threads" or "WebGPU". */
  runtime: string
}

/** Segmented image or volume. Planes are in the order of the file, rows from the top. */
export interface Result {
  name: string
  dimensions: 2 | 3
  /** Depth (1 of an image), height and width. */
  size: [number, number, number]
  /** What was segmented, to be shown: RGBA of every plane, opaque, [D, H, W, 4]. */
  picture: Uint8ClampedArray<ArrayBuffer>
  /** Class of each pixel [D, H, W]; in multi-label null. */
  mask: Uint8Array<ArrayBuffer> | null
  /** Probabilities [K, D, H, W] on the input's own grid, before any threshold: those that the mask is made of. */
  probabilities: Float32Array<ArrayBuffer>
  /** Length of a pixel's sides in millimetres, [D, H, W], where the file says it, else null. */
  spacing: [number, number, number] | null
  /** Of a volume: what a NIfTI file of a mask on its grid begins with, for `niftiOf` of engine/nifti.ts; else null. */
  maskHeader: Uint8Array<ArrayBuffer> | null
  /** What a person should know of this input, a sentence each: as `segzoo predict` warns. */
  warnings: string[]
  /** From the decoded pixels to the mask. */
  milliseconds: number
}

/** Frame of a video or a camera, segmented: for models of images. */
export interface Frame {
  size: [number, number]
  /** As of a result, or null in multi-label. */
  mask: Uint8Array<ArrayBuffer> | null
  probabilities: Float32Array<ArrayBuffer>
  milliseconds: number
}

/** What goes wrong because of a file, in one sentence for the person: what is wrong, in which file, what to do. */
export class Refusal extends Error {}

/** Where the engine may compute; "auto" is WebGPU where that is there and found equal, else WebAssembly. */
export type Device = 'auto' | 'wasm' | 'webgpu'

/** Engine as the page sees it. Calls are answered in turn; each rejects with a Refusal where a file is at fault. */
export interface Engine {
  /**
   * Open a model: an .onnx file that a person has given, or the address of one beside the page. Where it is refused,
   * the one before stays open.
   */
  load(source: File | URL, device?: Device, progressed?: (loaded: number, total: number) => void): Promise<Model>
  /** Segment an image or a volume by the model that is open. */
  segment(input: File): Promise<Result>
  /** Segment a frame; it is given away. */
  segmentFrame(frame: ImageBitmap | VideoFrame): Promise<Frame>
}
