/** Orientation by which viewers turn a picture, as its EXIF says it; a TIFF says it alike. */

const ORIENTATION = 0x0112

/** Return the orientation, 1 for none, of EXIF data, which begin as a TIFF does. */
export function orientationOf(exif: Uint8Array | undefined): number {
  const found = exif && placeOfOrientation(exif)
  return found ? found.view.getUint16(found.place, found.little) : 1
}

/** Return TIFF data with nothing that turns the picture. */
export function unturned(content: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const copy = content.slice()
  const found = placeOfOrientation(copy)
  if (found) found.view.setUint16(found.place, 1, found.little)
  return copy
}

/** Return where the orientation stands; null where nothing is said of it. */
function placeOfOrientation(exif: Uint8Array): { view: DataView; place: number; little: boolean } | null {
  if (exif.length < 14) return null
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length)
  const little = view.getUint16(0) === 0x4949
  const start = view.getUint32(4, little)
  if (start + 2 > exif.length) return null
  const count = view.getUint16(start, little)
  for (let i = 0, entry = start + 2; i < count && entry + 12 <= exif.length; i++, entry += 12)
    if (view.getUint16(entry, little) === ORIENTATION) return { view, place: entry + 8, little }
  return null
}
