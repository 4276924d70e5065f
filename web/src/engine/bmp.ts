/** BMP files: their size, before a browser decodes them. */

import * as text from './text'
import { Refusal } from './types'

const OLD_HEADER = 12 // bytes of OS/2's header, whose sides have 16 bits

/** Return height and width. */
export function bmpSize(content: Uint8Array, file: string): [height: number, width: number] {
  if (content.length < 30) throw new Refusal(text.unreadable(file))
  const view = new DataView(content.buffer, content.byteOffset, content.length)
  if (view.getUint32(14, true) === OLD_HEADER) return [view.getUint16(20, true), view.getUint16(18, true)]
  return [Math.abs(view.getInt32(22, true)), view.getInt32(18, true)]
}
