/** Orientation by which viewers turn a picture, as its EXIF says it. */

const ORIENTATION = 0x0112

/** Return the orientation, 1 for none, of EXIF data, which begin as a TIFF does. */
export function orientationOf(exif: Uint8Array | undefined): number {
  if (!exif || exif.length < 14) return 1
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length)
  const little = view.getUint16(0) === 0x4949
  const start = view.getUint32(4, little)
  if (start + 2 > exif.length) return 1
  const count = view.getUint16(start, little)
  for (let i = 0, entry = start + 2; i < count && entry + 12 <= exif.length; i++, entry += 12)
    if (view.getUint16(entry, little) === ORIENTATION) return view.getUint16(entry + 8, little)
  return 1
}
