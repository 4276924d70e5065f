/** What segzoo itself makes of the same files, by its own command line and its own readers. */

import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join, resolve } from 'node:path'
import { gunzipSync } from 'node:zlib'

import { decode } from 'fast-png'

const root = resolve(import.meta.dirname, '../../..')
const python =
  process.env.PYTHON ?? (existsSync(join(root, '.venv/bin/python')) ? join(root, '.venv/bin/python') : 'python3')
const NIFTI_VOXELS = 352

export const samples = join(root, 'tests/samples')

/** Return the exported files of these names; they lie in web/models, or where MODELS says. */
export function exported(names: RegExp): string[] {
  const folder = process.env.MODELS ?? join(root, 'web/models')
  const found = existsSync(folder) ? readdirSync(folder).filter((name) => names.test(name)) : []
  return found.sort().map((name) => join(folder, name))
}

/** Return a file of the shipped checkpoint for images of any size; the first time exports it. */
export function anySize(): string {
  const path = join(root, 'web/expected/lv-unet-busi-any-size.onnx')
  if (!existsSync(path)) runPython('-m', 'segzoo.cli', 'export', 'lv-unet-busi', path)
  return path
}

/** Run a script of Python with the segzoo of this repository. */
export function runPython(...argv: string[]): string {
  const env = { ...process.env, PYTHONPATH: join(root, 'src'), OMP_NUM_THREADS: '1' }
  return execFileSync(python, argv, {
    cwd: root,
    env,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 2 ** 28,
  })
}

/** Return the files of masks that segzoo predict writes, by the input's path. */
export function predictedFiles(model: string, inputs: string[]): Map<string, string> {
  const folder = mkdtempSync(join(tmpdir(), 'masks-'))
  runPython('-c', 'from segzoo.cli import main; main()', 'predict', model, ...inputs, '--output', folder)
  return new Map(
    inputs.map((path) => [
      path,
      join(
        folder,
        basename(path).replace(/\.\w+$/, (suffix) => (/^\.(nii|gz)$/.test(suffix) ? suffix : '.png')),
      ),
    ]),
  )
}

/** Return the masks that segzoo predict makes, by the input's path. */
export function predicted(model: string, inputs: string[]): Map<string, Uint8Array> {
  return new Map([...predictedFiles(model, inputs)].map(([path, file]) => [path, maskIn(file)]))
}

/** Return the values of a mask's file. */
export function maskIn(path: string): Uint8Array {
  const content = readFileSync(path)
  if (path.endsWith('.png')) return decode(content).data as Uint8Array
  return new Uint8Array(path.endsWith('.gz') ? gunzipSync(content) : content).subarray(NIFTI_VOXELS)
}
