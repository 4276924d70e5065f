/**
 * Every word that a person reads on the page: those of the page here, the engine's about files in the file named below.
 * To translate it, translate the two and set `language`.
 */

export * as sentences from '../engine/text'

export const language = 'en'

const number = new Intl.NumberFormat(language)
const measure = new Intl.NumberFormat(language, { maximumSignificantDigits: 4 })

/** Bytes as people read them: "2.0 MB". */
export function megabytes(bytes: number): string {
  const inMegabytes = bytes / 1e6
  return `${inMegabytes.toFixed(inMegabytes < 10 ? 1 : 0)} MB`
}

export const text = {
  title: 'segzoo: segment medical images in this browser',
  description: 'Segments medical images and volumes in the browser. Nothing that you open leaves your computer.',
  noScript: 'This page computes in your browser and needs JavaScript for it. Allow it for this page, then reload.',
  name: 'segzoo',
  tagline: 'Medical image segmentation, in this browser',
  skip: 'Skip to the result',
  private: 'What you open stays on this computer',
  research: 'Research only. Not a medical device.',
  close: 'Close',

  model: {
    heading: 'Model',
    choose: 'Choose a model',
    another: 'Choose another model',
    own: 'Open an .onnx file',
    ownHint: 'of segzoo export, from this computer',
    listing: 'Looking for models …',
    none: 'This site has no models of its own. Open an .onnx file that segzoo export wrote.',
    notListed: 'The list of models cannot be read: reload the page, or open an .onnx file of your own.',
    choice: (name: string, task: string, size: string) => `${name}: ${task}, ${size}`,
    volumes: 'volumes',
    opening: (name: string) => `Opening ${name}`,
    progress: (name: string, loaded: string, total: string) => `Opening ${name}: ${loaded} of ${total}`,
    ready: (name: string) => `${name} is ready.`,
    several: 'Several .onnx files were given: open one at a time.',
    altered: (name: string) =>
      `${name} is not the file that the list of models describes: reload the page; if that does not help, its site ` +
      'was copied in part.',
  },

  inputs: {
    heading: 'Images',
    drop: 'Drop or paste images here',
    dropHint: 'PNG, JPEG, TIFF, BMP or NIfTI, several at once; or a video',
    choose: 'Choose files',
    camera: 'Camera',
    list: 'Images',
    waiting: 'waiting',
    doneBefore: 'done',
    waitingForModel: 'waits for a model',
    working: 'being segmented …',
    done: (milliseconds: number) => `${number.format(Math.round(milliseconds))} ms`,
    refused: 'not segmented',
    remove: (name: string) => `Remove ${name}`,
    clear: 'Remove all',
    progress: (done: number, all: number) => `${done} of ${all} done`,
    failed: (count: number) => `, ${count} not segmented`,
    unexpected: (name: string, reason: string) => `${name} could not be segmented (${reason}): please report it.`,
  },

  view: {
    heading: 'Result',
    empty: 'Nothing to show yet',
    emptyHint: 'Choose a model, then images. Both are read and computed here, in this browser.',
    emptyModel: 'Now drop, paste or choose an image.',
    mode: 'Show',
    outline: 'Outline',
    fill: 'Mask',
    probability: 'Probability',
    picture: 'Picture',
    ofClass: 'of class',
    slice: 'Slice',
    sliceOf: (slice: number, all: number) => `${slice} of ${all}`,
    picturedAs: (name: string, found: string) => `${name}. ${found}`,
    segmenting: 'Being segmented …',
    refused: 'Not segmented',
    waiting: 'Waits for a model',
    legend: 'Probability, from 0 to 1',
  },

  found: {
    heading: 'Measurements',
    pixels: (count: number, dimensions: number) =>
      `${number.format(count)} ${dimensions === 2 ? 'pixel' : 'voxel'}${count === 1 ? '' : 's'}`,
    share: (part: number) => `${(100 * part).toFixed(part > 0 && part < 0.1 ? 2 : 1)} %`,
    area: (millimetres: number) => `${measure.format(millimetres)} mm²`,
    volume: (millimetres: number) => `${measure.format(millimetres / 1000)} ml`,
    summary: (name: string, size: string) => `${name}: ${size}`,
    threshold: 'Threshold',
    thresholdOf: (name: string) => `Threshold of ${name}`,
    own: (threshold: number) => `the file's own: ${threshold}`,
    reset: 'Reset',
    resetOf: (name: string) => `Reset the threshold of ${name}`,
    exclusive: 'The most likely class is taken everywhere, so there is no threshold.',
    side: 'Side of a pixel, in mm',
    sideHint: 'The file does not say it.',
    sideWrong: 'Type a number above 0, such as 0.3.',
    fromFile: (spacing: string) => `Spacing of the file: ${spacing} mm`,
    warnings: 'Please note',
    afterwards: 'Post-processing',
    inGraph: 'Done here, in the file',
    leftToPredict: 'Only done by segzoo predict',
    nothing: 'nothing',
    saveMask: 'Save mask (PNG)',
    saveOverlay: 'Save overlay (PNG)',
    saveMaskVolume: 'Save mask (NIfTI)',
    saveOverlaySlice: 'Save overlay of slice (PNG)',
    saveHint: 'Values of the mask:',
    saveApart: 'One file a class: 0 or 1.',
    saved: (names: string) => `Saved: ${names}`,
  },

  facts: {
    heading: 'About the model',
    classes: 'Classes',
    overlap: 'may overlap',
    input: 'Input',
    inputOf: (channels: number, size: string) => `${size}, ${channels} channel${channels === 1 ? '' : 's'}`,
    anySize: 'any size',
    licence: (of: string) => `Licence of ${of}`,
    task: 'Segments',
    dataset: 'Trained on',
    precision: 'Precision',
    size: 'Size',
    sha256: 'SHA-256',
    runtime: 'Computed by',
  },

  live: {
    camera: 'Camera',
    stop: 'Stop',
    pause: 'Pause',
    play: 'Play',
    opening: 'The camera is being asked for …',
    began: (name: string) => `${name} runs live.`,
    ended: 'Live has ended.',
    rate: (frames: number) => `${frames.toFixed(1)} frames a second`,
    latency: (milliseconds: number) => `${Math.round(milliseconds)} ms a frame`,
    noModel: 'Choose a model of images first; then start the camera or the video again.',
    volumes: (name: string) => `${name} segments volumes: choose a model of images for the camera or a video.`,
    refused: "The camera was not allowed: allow it for this page in the browser's settings, then start it again.",
    missing: 'No camera was found: connect one, then start it again, or drop a video file.',
    busy: 'The camera cannot be read: close other programs that use it, then start it again.',
    insecure: 'Browsers give the camera only to pages by https or on this computer: open the page so.',
    lost: 'The camera has stopped: connect it again, then start it.',
    unreadable: (name: string) => `${name} cannot be played by this browser: save it as MP4 (H.264) or WebM.`,
  },

  where: {
    heading: 'What runs where',
    points: [
      'Images, volumes, videos, camera pictures and your own models are read and computed by this browser, on this ' +
        'computer. They are not stored, and never sent.',
      "The page's site gives the page itself and its models, and gets nothing back but the names of those files.",
      'A security policy in the page has the browser refuse every request to another site.',
      'Once loaded, the page works without a network; so do the models that you have opened.',
    ],
  },
  newer: 'A newer version of this page is here: it is shown when you reload.',
}
