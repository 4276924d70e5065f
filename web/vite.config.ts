import { defineConfig } from 'vite'

export default defineConfig({
  base: './', // the page lies where it lies: a folder of a host, a Space, a disk's own server
  build: { target: 'es2022', assetsInlineLimit: 0, sourcemap: false }, // what is inlined, the security policy refuses
  worker: { format: 'es' },
})
