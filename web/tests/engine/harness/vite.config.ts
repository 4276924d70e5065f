import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vite'

import { HARNESS_PORT } from './port.ts'

export default defineConfig({
  root: fileURLToPath(new URL('.', import.meta.url)),
  base: './',
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    outDir: fileURLToPath(new URL('../../../node_modules/.harness', import.meta.url)),
    emptyOutDir: true,
  },
  worker: { format: 'es' },
  preview: { port: HARNESS_PORT, strictPort: true },
})
