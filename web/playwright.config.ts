import { defineConfig } from '@playwright/test'

import { HARNESS_PORT } from './tests/engine/harness/port'

const QUIET = [
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const CAMERA = ['--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']
const PAGE = 'http://localhost:4317/'
const SITE = 'http://localhost:4318/' // as segzoo web writes and serves it
const PYTHON = process.env['PYTHON'] ?? '../.venv/bin/python'
const HARNESS_ADDRESS = `http://localhost:${HARNESS_PORT}/`
const HARNESS = '-c tests/engine/harness/vite.config.ts'
const launchOptions = {
  executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', ...QUIET],
}

export default defineConfig({
  workers: 1, // WebAssembly takes all cores
  timeout: 120_000,
  expect: { timeout: 30_000 },
  reporter: 'list',
  globalSetup: './tests/page/models.ts',
  use: { launchOptions },
  projects: [
    { name: 'engine', testDir: 'tests/engine' },
    {
      name: 'page',
      testDir: 'tests/page',
      use: { baseURL: PAGE, launchOptions: { ...launchOptions, args: [...launchOptions.args, ...CAMERA] } },
    },
    { name: 'site', testDir: 'tests/site', use: { baseURL: SITE } },
  ],
  webServer: [
    {
      command: `npx vite build ${HARNESS} --logLevel warn && npx vite preview ${HARNESS}`,
      url: HARNESS_ADDRESS,
    },
    {
      command: `npx vite preview ${HARNESS}`,
      env: { ISOLATED: '1' },
      port: HARNESS_PORT + 1,
    },
    { command: 'npx vite build --logLevel warn && npx vite preview --port 4317 --strictPort', url: PAGE },
    { command: `${PYTHON} -m segzoo.cli web --output site --serve 4318`, url: SITE, reuseExistingServer: true },
  ],
})
