/** Models that the tests open: what lies in web/models, else what segzoo exports of its shipped checkpoint. */

import { execFileSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const WEB = join(import.meta.dirname, '../..')
export const MODELS = join(WEB, 'models')
const SEGZOO = process.env['SEGZOO'] ?? join(WEB, '../.venv/bin/segzoo')
export const IMAGES = 'lv-unet-busi'
export const VOLUMES = 'mednext-s-k3-hippocampus'

export default function prepare(): void {
  if (existsSync(join(MODELS, 'models.json'))) return
  mkdirSync(MODELS, { recursive: true })
  const file = join(MODELS, `${IMAGES}.onnx`)
  if (!existsSync(file)) execFileSync(SEGZOO, ['export', IMAGES, file, '--size', '256', '256'], { stdio: 'inherit' })
  const content = readFileSync(file)
  const listed = {
    name: IMAGES,
    file: `${IMAGES}.onnx`,
    bytes: content.length,
    sha256: createHash('sha256').update(content).digest('hex'),
    task: 'lesion in breast ultrasound',
    dataset: 'BUSI',
    dimensions: 2,
    size: [256, 256],
    licence: 'Apache-2.0',
  }
  writeFileSync(join(MODELS, 'models.json'), JSON.stringify({ models: [listed] }))
}
