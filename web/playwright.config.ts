import { defineConfig } from '@playwright/test'

const PORT = 4317
const HARNESS = 4174 // of the engine by itself: tests/engine/harness
const harness = '-c tests/engine/harness/vite.config.ts'

export default defineConfig({
  testDir: 'tests',
  globalSetup: './tests/models.ts',
  workers: 1, // WebAssembly takes all cores
  fullyParallel: false,
  reporter: 'list',
  timeout: 120_000,
  use: {
    baseURL: `http://localhost:${PORT}/`,
    launchOptions: {
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--no-first-run',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    },
  },
  webServer: [
    { command: `npx vite build && npx vite preview --port ${PORT} --strictPort`, port: PORT, timeout: 120_000 },
    { command: `npx vite build ${harness} --logLevel warn && npx vite preview ${harness}`, port: HARNESS, timeout: 120_000 },
  ],
})
