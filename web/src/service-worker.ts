/**
 * Service worker: the page without a network, and the headers that its host may not send.
 *
 * A build's files are stored whole, each compared with its digest, before this worker takes over; so the page is of
 * one build, never half of each of two. A newer build waits until the last page of this one is closed or reloaded.
 */

import { policy } from './policy'

declare const self: ServiceWorkerGlobalScope
/** Files of this build, beside the page, and their digests; "" for the page itself, which holds the version instead. */
declare const FILES: Record<string, string>
declare const VERSION: string

const PREFIX = 'segzoo-page-'
const PAGE = PREFIX + VERSION
const MODELS = 'segzoo-models' // outlive a build
const SCOPE = self.registration.scope

self.addEventListener('install', (event) => event.waitUntil(store()))
self.addEventListener('activate', (event) => event.waitUntil(takeOver()))
self.addEventListener('message', (event) => event.data === 'take over' && void self.skipWaiting())
self.addEventListener('fetch', (event) => {
  const { method, url } = event.request
  const isOurs = url.startsWith(SCOPE) && !url.startsWith(SCOPE + 'docs/') // which has a policy of its own
  if (method === 'GET' && isOurs) event.respondWith(answer(event))
})

async function store(): Promise<void> {
  const cache = await caches.open(PAGE)
  await Promise.all(
    Object.entries(FILES).map(async ([path, digest]) => {
      // a file's name changes with its content, but for the page's own
      const asked = digest
        ? new Request(SCOPE + path, { integrity: digest })
        : new Request(SCOPE, { cache: 'no-cache' })
      const response = await fetch(asked)
      const isOurs = digest !== '' || (await response.clone().text()).includes(VERSION)
      if (!response.ok || !isOurs) throw new Error(`${asked.url} is not of version ${VERSION}`)
      await cache.put(SCOPE + path, response)
    }),
  )
}

async function takeOver(): Promise<void> {
  const names = await caches.keys()
  const older = names.filter((name) => name.startsWith(PREFIX) && name !== PAGE)
  await Promise.all(older.map((name) => caches.delete(name)))
  await self.clients.claim()
}

async function answer(event: FetchEvent): Promise<Response> {
  const { request } = event
  const path = new URL(request.url).pathname.slice(new URL(SCOPE).pathname.length)
  if (request.mode === 'navigate' && (await giveWay())) return new Response('', { headers: { Refresh: '0' } })
  const stored = path === 'index.html' ? '' : path
  if (stored in FILES) return withHeaders((await caches.match(SCOPE + stored)) ?? (await fetch(request)))
  return withHeaders(await (path === 'models/models.json' ? newest(event) : lasting(event, path)))
}

/** Let a newer version begin where no other page is of this one; it answers the same address again. */
async function giveWay(): Promise<boolean> {
  const { waiting } = self.registration
  if (!waiting || (await self.clients.matchAll({ type: 'window' })).length > 1) return false
  waiting.postMessage('take over')
  return true
}

/** Answer with what may change under its address: from the network, else what was stored. */
async function newest(event: FetchEvent): Promise<Response> {
  try {
    const response = await fetch(event.request, { cache: 'no-cache' })
    if (response.ok) event.waitUntil(put(MODELS, event.request, response.clone()))
    return response
  } catch (error) {
    const stored = await caches.match(event.request)
    if (stored) return stored
    throw error
  }
}

/** Answer with what is for ever the same under its address, which tells a model's digest, or a build's. */
async function lasting(event: FetchEvent, path: string): Promise<Response> {
  const stored = await caches.match(event.request)
  if (stored) return stored
  const response = await fetch(event.request)
  const isModel = new URL(event.request.url).searchParams.has('sha256')
  if (response.ok && isModel) event.waitUntil(put(MODELS, event.request, response.clone()))
  if (response.ok && path.startsWith('assets/')) event.waitUntil(put(PAGE, event.request, response.clone()))
  return response
}

/** Store a file in place of an older one. */
async function put(name: string, request: Request, response: Response): Promise<void> {
  try {
    const cache = await caches.open(name)
    await cache.delete(request, { ignoreSearch: true })
    await cache.put(request, response)
  } catch {
    // no room: it works as long as there is a network
  }
}

/** Add what isolates the page, so that it may have threads, and the policy, which workers take from their own file. */
function withHeaders(response: Response): Response {
  if (response.status === 0 || response.redirected || response.type === 'error') return response
  const headers = new Headers(response.headers)
  headers.set('Cross-Origin-Opener-Policy', 'same-origin')
  headers.set('Cross-Origin-Embedder-Policy', 'require-corp')
  headers.set('Content-Security-Policy', policy)
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
}
