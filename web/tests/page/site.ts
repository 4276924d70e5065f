/** Site as any host serves it: files, without a header that the page would like; it can be stopped and changed. */

import { cpSync, createReadStream, existsSync, mkdtempSync, statSync } from 'node:fs'
import type { Server } from 'node:http'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { extname, join } from 'node:path'
import { MODELS } from './models'

const DIST = join(import.meta.dirname, '../../dist')
const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.css': 'text/css',
  '.json': 'application/json',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
}

/** Site that runs. */
export interface Site {
  address: string
  /** Folder of its files, a copy. */
  folder: string
  stop(): Promise<void>
}

/** Serve a copy of the build. */
export async function startSite(): Promise<Site> {
  const folder = mkdtempSync(join(tmpdir(), 'segzoo-site-'))
  cpSync(DIST, folder, { recursive: true })
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url!, 'http://here').pathname)
    const inModels = path.startsWith('/models/')
    const file = inModels
      ? join(MODELS, path.slice('/models/'.length))
      : join(folder, path === '/' ? 'index.html' : path)
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end()
    response.setHeader('Content-Type', TYPES[extname(file)] ?? 'application/octet-stream')
    createReadStream(file).pipe(response)
  })
  await new Promise<void>((listening) => void server.listen(0, 'localhost', listening))
  const { port } = server.address() as { port: number }
  return { address: `http://localhost:${port}/`, folder, stop: () => stop(server) }
}

function stop(server: Server): Promise<void> {
  server.closeAllConnections()
  return new Promise((closed) => void server.close(() => closed()))
}
