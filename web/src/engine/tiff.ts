/** TIFF files: not decoded yet. */

import type { Picture } from './picture'
import * as text from './text'
import { Refusal } from './types'

/** Refuse a TIFF. */
export function decodeTiff(_content: Uint8Array<ArrayBuffer>, file: string): Picture {
  throw new Refusal(text.cannotDecode(file, 'is a TIFF'))
}
