import { defineConfig } from 'vite'
import { licences } from './build/licences.ts'
import { models, offline, words } from './build/offline.ts'

export default defineConfig({
  base: './', // the page lies where it lies: a folder of a host, a Space, a disk's own server
  plugins: [words(), models(), offline(), licences()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0, // what is inlined, the security policy refuses
    modulePreload: { polyfill: false },
    sourcemap: false,
    rolldownOptions: {
      input: { index: 'index.html', 'service-worker': 'src/service-worker.ts' },
      output: { entryFileNames: ({ name }) => (name === 'service-worker' ? '[name].js' : 'assets/[name]-[hash].js') },
    },
  },
  worker: { format: 'es' },
})
