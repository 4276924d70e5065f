import { defineConfig } from '@playwright/test'

const PORT = 4317

export default defineConfig({
  testDir: 'tests',
  globalSetup: './tests/models.ts',
  workers: 1, // two would measure each other
  fullyParallel: false,
  reporter: 'list',
  timeout: 60_000,
  use: {
    baseURL: `http://localhost:${PORT}/`,
    launchOptions: {
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      args: [
        '--no-sandbox',
        '--disable-gpu',
        '--disable-quic',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
      ],
    },
  },
  webServer: { command: `npx vite build && npx vite preview --port ${PORT} --strictPort`, port: PORT, timeout: 120_000 },
})
