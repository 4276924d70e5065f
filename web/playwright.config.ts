import { defineConfig } from '@playwright/test'

const QUIET = ['--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']

export default defineConfig({
  testDir: 'tests',
  workers: 1, // WebAssembly takes all cores
  timeout: 120_000,
  reporter: 'list',
  use: {
    launchOptions: {
      executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
      args: ['--no-sandbox', '--disable-gpu', ...QUIET],
    },
  },
  webServer: [
    {
      command:
        'npx vite build -c tests/engine/harness/vite.config.ts --logLevel warn && npx vite preview -c tests/engine/harness/vite.config.ts',
      url: 'http://localhost:4174/',
      reuseExistingServer: true,
    },
  ],
})
