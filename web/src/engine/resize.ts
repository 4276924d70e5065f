/** Bilinear resizing with antialiasing, as segzoo does it around a file of one size (by Pillow, in floating point). */

interface Weights {
  first: Int32Array
  /** Of each result, as many as `reach`, zeros at the end. */
  values: Float64Array
  reach: number
}

/** Resize planes [C, H, W] to another height and width. */
export function resized(
  planes: ArrayLike<number>,
  [height, width]: readonly number[],
  [toHeight, toWidth]: readonly number[],
): Float32Array<ArrayBuffer> {
  const count = planes.length / (height * width)
  const across = width === toWidth ? null : weightsOf(width, toWidth)
  const down = height === toHeight ? null : weightsOf(height, toHeight)
  const found = new Float32Array(count * toHeight * toWidth)
  const rows = new Float32Array(height * toWidth)
  for (let plane = 0; plane < count; plane++) {
    const start = plane * height * width
    if (across) alongRows(planes, start, height, width, across, rows, toWidth)
    else for (let i = 0; i < rows.length; i++) rows[i] = planes[start + i]
    const target = found.subarray(plane * toHeight * toWidth, (plane + 1) * toHeight * toWidth)
    if (down) alongColumns(rows, toWidth, down, target)
    else target.set(rows)
  }
  return found
}

/** Fill rows of another width. */
function alongRows(
  source: ArrayLike<number>,
  start: number,
  height: number,
  width: number,
  { first, values, reach }: Weights,
  rows: Float32Array,
  toWidth: number,
): void {
  for (let y = 0; y < height; y++)
    for (let x = 0; x < toWidth; x++) {
      let sum = 0
      const from = start + y * width + first[x]
      for (let k = 0; k < reach; k++) {
        const weight = values[x * reach + k]
        if (weight === 0) break
        sum += source[from + k] * weight
      }
      rows[y * toWidth + x] = sum
    }
}

/** Fill columns of another height. */
function alongColumns(
  rows: Float32Array,
  width: number,
  { first, values, reach }: Weights,
  target: Float32Array,
): void {
  const sums = new Float64Array(width)
  for (let y = 0; y < target.length / width; y++) {
    sums.fill(0)
    for (let k = 0; k < reach; k++) {
      const weight = values[y * reach + k]
      if (weight === 0) break
      const from = (first[y] + k) * width
      for (let x = 0; x < width; x++) sums[x] += rows[from + x] * weight
    }
    target.set(sums, y * width)
  }
}

/** Return what each result is of: values under a triangle over its place, wide as a step where that is over one. */
function weightsOf(side: number, toSide: number): Weights {
  const step = side / toSide
  const half = Math.max(1, step)
  const reach = Math.ceil(half) * 2 + 1
  const first = new Int32Array(toSide)
  const values = new Float64Array(toSide * reach)
  for (let i = 0; i < toSide; i++) {
    const centre = (i + 0.5) * step
    first[i] = Math.max(0, Math.trunc(centre - half + 0.5))
    const count = Math.min(side, Math.trunc(centre + half + 0.5)) - first[i]
    let total = 0
    for (let k = 0; k < count; k++) {
      const weight = Math.max(0, 1 - Math.abs((k + first[i] - centre + 0.5) / half))
      values[i * reach + k] = weight
      total += weight
    }
    // a triangle's foot may fall on a pixel's middle: that zero is left out, so that all zeros are at the end
    let leading = 0
    while (leading < count && values[i * reach + leading] === 0) leading++
    values.copyWithin(i * reach, i * reach + leading, i * reach + count)
    values.fill(0, i * reach + count - leading, (i + 1) * reach)
    first[i] += leading
    for (let k = 0; k < count; k++) values[i * reach + k] /= total
  }
  return { first, values, reach }
}
