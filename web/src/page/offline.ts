/** Service worker, as the page sees it: it keeps the page and its models for when there is no network. */

/** Register it, have what was loaded before it was there kept, too, and say when a newer version has come. */
export async function workOffline(newer: () => void): Promise<void> {
  if (!('serviceWorker' in navigator) || !import.meta.env.PROD) return
  const registration = await navigator.serviceWorker.register(new URL('service-worker.js', document.baseURI), {
    updateViaCache: 'none',
  })
  const look = () => registration.waiting && navigator.serviceWorker.controller && newer()
  look()
  registration.addEventListener('updatefound', () => {
    registration.installing?.addEventListener('statechange', look)
  })
}

/** Have a file that is loaded already kept by the service worker, where it came before that was there. */
export async function keep(address: URL): Promise<void> {
  if (!('serviceWorker' in navigator) || !import.meta.env.PROD) return
  await navigator.serviceWorker.ready
  if (navigator.serviceWorker.controller === null)
    await new Promise((claimed) => {
      navigator.serviceWorker.addEventListener('controllerchange', claimed, { once: true })
    })
  // mostly from the browser's own cache; where it fails, the page works all the same
  if (!(await caches.match(address))) await fetch(address).catch(() => undefined)
}
