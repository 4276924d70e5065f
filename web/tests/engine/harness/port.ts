/** Port of the harness, another one where that is taken. */
export const HARNESS_PORT = Number(process.env['HARNESS_PORT'] ?? 4174)
