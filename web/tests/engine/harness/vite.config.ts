import { fileURLToPath } from 'node:url'

import { defineConfig, mergeConfig } from 'vite'

import page from '../../../vite.config.ts'

export default mergeConfig(
  page,
  defineConfig({
    root: fileURLToPath(new URL('.', import.meta.url)),
    build: { outDir: fileURLToPath(new URL('../../../test-results/harness', import.meta.url)), emptyOutDir: true },
    preview: { port: 4174, strictPort: true },
  }),
)
