/** Limits on what a file may ask for, as segzoo has them (src/segzoo/limits.py gives each its reason). */

export const IMAGE_PIXELS = 2e8
export const VOXELS = 2 ** 31
export const HEADER_BYTES = 2 ** 20
export const TAIL_BYTES = 2 ** 20
export const JSON_BYTES = 2 ** 22
export const CLASSES = 256 // of masks in bytes
export const NETWORK_INPUT = 2 ** 24
export const GRAPH_PIXELS = 2 ** 24 // of an image that the graph resizes itself; a larger one is resized here
