/** Pictures of masks and probabilities: on the screen, in its own pixels, and as segzoo draws them into a file. */

/** Colours of the classes, told apart by most colour-blind readers too (Okabe and Ito's palette), as in segzoo. */
export const COLOURS = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
] as const
type Colour = readonly [number, number, number]

/** Colours of probabilities 0, 0.25, ... 1 (cividis, made for colour-blind readers); the style sheet's legend, too. */
const PROBABILITY: Colour[] = [
  [0, 34, 78],
  [65, 77, 107],
  [124, 123, 120],
  [188, 175, 111],
  [254, 232, 56],
]
const TINT = 0.4 // of a mask's colour on the screen
const SHARE = 0.8 // of a probability's colour on the screen
const LINE = 1.5 // CSS pixels of an outline

/** Class on a picture: where it is, of the picture's own pixels. */
export interface Layer {
  colour: Colour
  inside: Uint8Array
}

export type Mode = 'picture' | 'outline' | 'fill' | 'probability'

/** Picture, and what is to be seen on it. */
export interface Scene {
  picture: HTMLCanvasElement
  layers: Layer[]
  /** Shown in the mode "probability". */
  probabilities: Float32Array | null
  mode: Mode
}

/** Return the colour of a class. */
export function colourOf(index: number): Colour {
  return COLOURS[index % COLOURS.length]!
}

/** Draw a scene, filling the canvas, whose pixels are the screen's. */
export function drawScene(canvas: HTMLCanvasElement, scene: Scene, screenPixels: number): void {
  const { width, height } = canvas
  const context = canvas.getContext('2d', { willReadFrequently: true })!
  context.imageSmoothingQuality = 'high'
  context.drawImage(scene.picture, 0, 0, width, height)
  if (scene.mode === 'picture') return

  const image = context.getImageData(0, 0, width, height)
  const columns = nearest(width, scene.picture.width)
  const rows = nearest(height, scene.picture.height)
  if (scene.mode === 'probability' && scene.probabilities) {
    tintByProbability(image, scene.probabilities, columns, rows, scene.picture.width)
  }
  for (const layer of scene.layers) {
    const inside = enlarged(layer.inside, columns, rows, scene.picture.width)
    if (scene.mode === 'fill') tint(image.data, inside, layer.colour)
    drawOutline(image, inside, layer.colour, Math.max(1, Math.round(LINE * screenPixels)))
  }
  context.putImageData(image, 0, 0)
}

/** Return, for each of some pixels, the one of the source that lies there. */
function nearest(length: number, source: number): Int32Array {
  return Int32Array.from({ length }, (_, at) => Math.min(source - 1, Math.floor(((at + 0.5) * source) / length)))
}

function enlarged(inside: Uint8Array, columns: Int32Array, rows: Int32Array, sourceWidth: number): Uint8Array {
  const found = new Uint8Array(columns.length * rows.length)
  let at = 0
  for (const row of rows) for (const column of columns) found[at++] = inside[row * sourceWidth + column]!
  return found
}

function tint(pixels: Uint8ClampedArray, inside: Uint8Array, colour: Colour): void {
  for (let at = 0; at < inside.length; at++) if (inside[at]) blend(pixels, 4 * at, colour, TINT)
}

function tintByProbability(
  image: ImageData,
  probabilities: Float32Array,
  columns: Int32Array,
  rows: Int32Array,
  sourceWidth: number,
): void {
  let at = 0
  for (const row of rows) {
    for (const column of columns) {
      const probability = Math.min(1, Math.max(0, probabilities[row * sourceWidth + column]!))
      const place = Math.min(PROBABILITY.length - 2, Math.floor(probability * (PROBABILITY.length - 1)))
      const part = probability * (PROBABILITY.length - 1) - place
      const [low, high] = [PROBABILITY[place]!, PROBABILITY[place + 1]!]
      for (let channel = 0; channel < 3; channel++) {
        const colour = low[channel]! + part * (high[channel]! - low[channel]!)
        image.data[at + channel] = (1 - SHARE) * image.data[at + channel]! + SHARE * colour
      }
      at += 4
    }
  }
}

/** Draw the inner edge in the colour, and a dark line around it, so that it is seen on bright pictures, too. */
function drawOutline(image: ImageData, inside: Uint8Array, colour: Colour, line: number): void {
  const { width, height, data } = image
  const differs = (x: number, y: number, distance: number, value: number): boolean =>
    (x >= distance && inside[y * width + x - distance] !== value) ||
    (x + distance < width && inside[y * width + x + distance] !== value) ||
    (y >= distance && inside[(y - distance) * width + x] !== value) ||
    (y + distance < height && inside[(y + distance) * width + x] !== value)
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (inside[at]) {
        if (differs(x, y, line, 1)) blend(data, 4 * at, colour, 1)
      } else if (differs(x, y, 1, 0)) blend(data, 4 * at, [0, 0, 0], 0.6)
    }
  }
}

function blend(pixels: Uint8ClampedArray, at: number, colour: Colour, share: number): void {
  for (let channel = 0; channel < 3; channel++) {
    pixels[at + channel] = (1 - share) * pixels[at + channel]! + share * colour[channel]!
  }
}

/** Return RGB of a picture (RGBA), with each class tinted and outlined as by `segzoo predict --overlay`. */
export function overlay(picture: Uint8ClampedArray, width: number, height: number, layers: Layer[]): Uint8Array {
  const found = new Uint8Array(3 * width * height)
  for (let at = 0; at < width * height; at++) found.set(picture.subarray(4 * at, 4 * at + 3), 3 * at)
  for (const { colour, inside } of layers) {
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        if (!inside[at]) continue
        const edge =
          (x > 0 && !inside[at - 1]) ||
          (x + 1 < width && !inside[at + 1]) ||
          (y > 0 && !inside[at - width]) ||
          (y + 1 < height && !inside[at + width])
        for (let channel = 0; channel < 3; channel++) {
          const tinted = Math.floor(0.75 * found[3 * at + channel]! + 0.25 * colour[channel]!)
          found[3 * at + channel] = edge ? colour[channel]! : tinted
        }
      }
    }
  }
  return found
}
