/** Parts of the build that Vite has not: the page's words and policy in its HTML, and the service worker's list. */

import { createHash } from 'node:crypto'
import { createReadStream, existsSync, statSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { extname, join, normalize } from 'node:path'
import type { Plugin } from 'vite'
import { language, text } from '../src/page/text.ts'
import { policy } from '../src/policy.ts'

const WORKER = 'service-worker.js'
const ON_DEMAND = /webgpu|jsep|jspi|asyncify/ // the runtime with WebGPU, which few load, and then keep
const TYPES: Record<string, string> = { '.json': 'application/json', '.onnx': 'application/octet-stream' }

/** Put words and policy into the page. */
export function words(): Plugin {
  const said: Record<string, string> = { language, policy, title: text.title, description: text.description }
  said['noScript'] = text.noScript
  return {
    name: 'segzoo-words',
    transformIndexHtml: { order: 'pre', handler: (html) => html.replace(/%(\w+)%/g, (all, word) => said[word] ?? all) },
  }
}

/** Tell the service worker which files this build has made, and their digests. */
export function offline(): Plugin {
  return {
    name: 'segzoo-offline',
    apply: 'build',
    enforce: 'post',
    generateBundle: {
      order: 'post',
      handler(_, bundle) {
        const worker = bundle[WORKER]
        const page = bundle['index.html']
        if (worker?.type !== 'chunk' || page?.type !== 'asset')
          throw new Error('the build has no page or no service worker')
        const files: Record<string, string> = {}
        for (const [path, made] of Object.entries(bundle)) {
          if (made === worker || made === page || ON_DEMAND.test(path)) continue
          files[path] = `sha256-${digest(made.type === 'chunk' ? made.code : made.source).toString('base64')}`
        }
        const html = String(page.source)
        const version = digest(JSON.stringify(files) + html + worker.code)
          .toString('hex')
          .slice(0, 16)
        page.source = html.replace('</head>', `  <meta name="version" content="${version}" />\n  </head>`)
        const list = JSON.stringify({ ...files, '': '' })
        worker.code = `const VERSION = ${JSON.stringify(version)}, FILES = ${list};\n${worker.code}`
      },
    },
  }
}

/** Serve the models that lie in web/models, as a site does. */
export function models(): Plugin {
  const serve = (request: IncomingMessage, response: ServerResponse, next: () => void) => {
    const asked = new URL(request.url ?? '/', 'http://here').pathname
    const file = join(import.meta.dirname, '..', normalize(decodeURIComponent(asked)))
    if (!asked.startsWith('/models/') || !file.startsWith(join(import.meta.dirname, '..', 'models'))) return next()
    if (!existsSync(file) || !statSync(file).isFile()) return void response.writeHead(404).end()
    response.setHeader('Content-Type', TYPES[extname(file)] ?? 'application/octet-stream')
    response.setHeader('Content-Length', statSync(file).size)
    createReadStream(file).pipe(response)
  }
  return {
    name: 'segzoo-models',
    configureServer: (server) => void server.middlewares.use(serve),
    configurePreviewServer: (server) => void server.middlewares.use(serve),
  }
}

function digest(content: string | Uint8Array): Buffer {
  return createHash('sha256').update(content).digest()
}
