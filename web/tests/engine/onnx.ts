/** ONNX files made by hand, byte by byte: networks whose probabilities tell what they were given. */

type Part = Uint8Array

const encoder = new TextEncoder()
const [FLOAT, WHOLE] = [1, 7]

/** Return a whole number as protobuf has it. */
function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) | 128, ...varint(Math.floor(value / 128))]
}

/** Return a field of a whole number, a text, or parts of a message. */
function field(number: number, value: number | string | Part[]): Part {
  if (typeof value === 'number') return Uint8Array.from([...varint(number * 8), ...varint(value)])
  const content = typeof value === 'string' ? encoder.encode(value) : joined(value)
  return joined([Uint8Array.from([...varint(number * 8 + 2), ...varint(content.length)]), content])
}

const joined = (parts: Part[]): Uint8Array => Uint8Array.from(Buffer.concat(parts))

/** Return an input or output of these sides, words where they vary. */
function value(name: string, sides: (number | string)[]): Part[] {
  const dims = sides.map((side) => field(1, [typeof side === 'number' ? field(1, side) : field(2, side)]))
  return [field(1, name), field(2, [field(1, [field(1, FLOAT), field(2, dims)])])]
}

/** Return a node. */
function node(operation: string, inputs: string[], output: string): Part[] {
  return [...inputs.map((input) => field(1, input)), field(2, output), field(4, operation)]
}

/** Return a tensor of one number. */
function scalar(name: string, number: number): Part[] {
  return [field(2, FLOAT), field(8, name), field(9, [new Uint8Array(Float32Array.of(number).buffer)])]
}

/** Return a tensor of one whole number, or of a list. */
function whole(name: string, numbers: number | number[]): Part[] {
  const listed = Array.isArray(numbers) ? numbers : [numbers]
  const values = field(9, [new Uint8Array(BigInt64Array.from(listed, BigInt).buffer)])
  return [...(Array.isArray(numbers) ? [field(1, listed.length)] : []), field(2, WHOLE), field(8, name), values]
}

/** What a hand-made ONNX file is like. */
export interface Tiny {
  channels?: number
  sides?: (number | string)[]
  factor?: number
  /** Sum up along the first and the last side before, and take a sigmoid after: what is told depends on the order. */
  sums?: boolean
  /** Take memory by the square of the input's size, for nothing. */
  greedy?: boolean
  /** Metadata, or nothing at all. */
  facts?: Record<string, unknown> | string | null
  external?: boolean
  /** Give the probabilities a second time, and others as those with a temperature. */
  tempered?: boolean
}

/** Metadata of a model of images, each of whose channels is a class. */
export function factsOfImages(channels: number, changed: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    model: { name: 'tiny' },
    num_classes: channels,
    multilabel: true,
    class_names: Array.from({ length: channels }, (_, i) => `channel ${i}`),
    precision: 'float32',
    preprocessing: { channels, image_size: null, mean: Array(channels).fill(0), std: Array(channels).fill(1) },
    ...changed,
  }
}

/** Metadata of a model of volumes. */
export function factsOfVolumes(
  contract: Record<string, unknown> = {},
  changed: Record<string, unknown> = {},
): Record<string, unknown> {
  return {
    model: { name: 'tiny' },
    num_classes: 1,
    multilabel: false,
    class_names: ['background', 'bright'],
    precision: 'float32',
    preprocessing: {
      channels: 1,
      orientation: 'SAR',
      spacing: null,
      patch_size: [8, 8, 8],
      intensity: 'zscore',
      ...contract,
    },
    ...changed,
  }
}

/** Return an ONNX file whose probabilities are its input, times a number. */
export function tiny({
  channels = 3,
  sides = ['height', 'width'],
  factor = 1 / 255,
  facts = factsOfImages(channels),
  sums,
  greedy,
  external,
  tempered,
}: Tiny = {}): Uint8Array {
  const shape = ['batch', channels, ...sides]
  const elsewhere = external ? [field(13, [field(1, 'location'), field(2, 'x')]), field(14, 1)] : []
  const nodes = greedy
    ? [
        node('Reshape', ['image', 'column'], 'a'),
        node('Reshape', ['image', 'row'], 'b'),
        node('MatMul', ['a', 'b'], 'c'),
        node('ReduceMax', ['c'], 'd'),
        node('Min', ['d', 'factor'], 'e'),
        node('Mul', ['image', 'e'], 'probabilities'),
      ]
    : sums
      ? [
          node('CumSum', ['image', 'first'], 'a'),
          node('CumSum', ['a', 'last'], 'b'),
          node('Mul', ['b', 'factor'], 'c'),
          node('Sigmoid', ['c'], 'probabilities'),
        ]
      : [node('Mul', ['image', 'factor'], 'probabilities')]
  const wholes = { first: 2, last: 1 + sides.length, column: [-1, 1], row: [1, -1] }
  const tensors = [
    [...scalar('factor', factor), ...elsewhere],
    ...Object.entries(wholes).map(([name, one]) => whole(name, one)),
  ]
  if (tempered)
    nodes.splice(
      0,
      1,
      node('Mul', ['image', 'factor'], 'uncalibrated'),
      node('Sqrt', ['uncalibrated'], 'probabilities'),
    )
  const outputs = tempered ? ['probabilities', 'uncalibrated'] : ['probabilities']
  const said = typeof facts === 'string' ? facts : JSON.stringify(facts)
  return joined([
    field(1, 9), // ONNX's own version
    field(7, [
      ...nodes.map((one) => field(1, one)),
      field(2, 'tiny'),
      ...tensors.map((tensor) => field(5, tensor)),
      field(11, value('image', shape)),
      ...outputs.map((name) => field(12, value(name, shape))),
    ]),
    field(8, [field(2, 20)]), // of the operations
    ...(facts === null ? [] : [field(14, [field(1, 'segzoo'), field(2, said)])]),
  ])
}
