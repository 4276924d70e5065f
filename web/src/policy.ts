/**
 * Policy of the page: the browser lets it load from its own origin, and nothing else.
 *
 * It stands in the page itself, and the service worker sends it along with all that it answers: a worker that comes
 * from the network heeds its own headers, not the page's. "blob:" is for the worker that starts the engine, which has
 * the page's policy from the first visit on, and for videos of the person.
 */
export const policy = [
  "default-src 'none'",
  "script-src 'self' 'wasm-unsafe-eval'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "worker-src 'self' blob:",
  'media-src blob:',
  "base-uri 'none'",
  "form-action 'none'",
].join('; ')
