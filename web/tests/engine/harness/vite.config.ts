import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vite'

import { HARNESS_PORT } from './port.ts'

const ISOLATION = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' }
const isolated = process.env['ISOLATED'] === '1'

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
  preview: { port: HARNESS_PORT + (isolated ? 1 : 0), strictPort: true, headers: isolated ? ISOLATION : {} },
})
