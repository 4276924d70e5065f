/** Licences of what others wrote and the page holds, as a file beside it. */

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Plugin } from 'vite'

const WEB = join(import.meta.dirname, '..')
const KEPT = join(WEB, 'licences') // of packages that come without their text
const FILE = 'licences.txt'
const TEXTS = /^(licen[cs]e|notice|copying|third-?party)/i

interface Package {
  version: string
  license?: string
  dev?: boolean
}

/** Write the licences of all packages but those that only build or describe. */
export function licences(): Plugin {
  return {
    name: 'segzoo-licences',
    apply: 'build',
    writeBundle: ({ dir }) => writeFileSync(join(dir ?? '', FILE), allTexts()), // not in the bundle: it is not for offline
  }
}

function allTexts(): string {
  const lock = JSON.parse(readFileSync(join(WEB, 'package-lock.json'), 'utf8')) as { packages: Record<string, Package> }
  const shipped = Object.entries(lock.packages).filter(([path, one]) => path && !one.dev && !path.includes('/@types/'))
  const parts = shipped.map(([path, one]) => {
    const name = path.slice('node_modules/'.length)
    return `${name} ${one.version} (${one.license ?? 'licence below'})\n\n${textsOf(name, path)}`
  })
  return parts.join(`\n${'-'.repeat(80)}\n\n`)
}

function textsOf(name: string, path: string): string {
  const kept = join(KEPT, `${name}.txt`)
  const folder = join(WEB, path)
  const files = existsSync(kept) ? [kept] : readdirSync(folder).filter((file) => TEXTS.test(file)).map((file) => join(folder, file))
  if (!files.length) throw new Error(`${name} comes without its licence's text: put it into web/licences/${name}.txt`)
  return files.map((file) => readFileSync(file, 'utf8').trim() + '\n').join('\n')
}
