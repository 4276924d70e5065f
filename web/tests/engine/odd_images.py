"""Odd pictures, made in a folder, and what segzoo reads of each: JSON of pixels, warnings and refusals on stdout."""

import base64
import json
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.images import read_image

HEIGHT, WIDTH = 13, 22
Y, X = np.mgrid[:HEIGHT, :WIDTH]
COLOURS = np.stack([11 * X, 17 * Y, 255 - 5 * X - 9 * Y], -1).clip(0, 255).astype(np.uint8)
GREY = COLOURS[..., 2]
ALPHA = np.where(X % 3 == 0, 0, 40 + 9 * X).clip(0, 255).astype(np.uint8)


def main(folder: Path, others: Path) -> None:
    """Make the pictures and read them, and those of another folder."""
    make(folder)
    found = {}
    for path in [*sorted(folder.iterdir()), *(sorted(others.iterdir()) if others.is_dir() else [])]:
        found[str(path)] = {str(channels): what_is_read(path, channels) for channels in (1, 3)}
    json.dump(found, sys.stdout)


def what_is_read(path: Path, channels: int) -> dict[str, object]:
    """Return the pixels of a picture and how many warnings there were, or that it is refused."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            pixels = read_image(path, channels)
        except SegzooError as error:
            return {"refused": str(error)}
    warned = len({str(one.message) for one in said if str(path) in str(one.message)})  # not Pillow's own
    return {"shape": pixels.shape, "pixels": base64.b64encode(pixels.tobytes()).decode(), "warnings": warned}


def make(folder: Path) -> None:
    """Make pictures of all kinds that people have."""
    picture, grey = Image.fromarray(COLOURS), Image.fromarray(GREY)
    exif = Image.Exif()
    exif[274] = 6
    profile = b"\0" * 20 + b"a profile that nobody can read"
    save = {
        "rgb.png": (picture, {}),
        "grey.png": (grey, {}),
        "one-bit.png": (grey.convert("1"), {}),
        "palette.png": (picture.quantize(7), {"bits": 4}),
        "palette-transparent.png": (picture.quantize(9), {"transparency": bytes([0, 90, 255])}),
        "transparent.png": (Image.fromarray(np.dstack([COLOURS, ALPHA])), {}),
        "grey-transparent.png": (Image.fromarray(np.dstack([GREY, ALPHA])), {}),
        "one-colour-transparent.png": (picture, {"transparency": (0, 0, 255)}),
        "turned.png": (picture, {"exif": exif}),
        "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 257 + 3), {}),
        "fourteen-bits.png": (Image.fromarray(GREY.astype(np.uint16) * 64), {}),
        "twelve-bits.png": (Image.fromarray(GREY.astype(np.uint16) * 16), {}),
        "black.png": (Image.fromarray(np.zeros((9, 7), np.uint16)), {}),
        "several.png": (picture, {"save_all": True, "append_images": [picture.rotate(180)]}),
        "rgb.jpg": (picture, {"quality": 90}),
        "whole.jpg": (picture, {"quality": 95, "subsampling": 0}),
        "progressive.jpeg": (picture, {"progressive": True}),
        "grey.jpg": (grey, {}),
        "turned.jpg": (picture, {"exif": exif}),
        "profile.jpg": (picture, {"icc_profile": profile}),
        "print.jpg": (picture.convert("CMYK"), {}),
        "rgb.bmp": (picture, {}),
        "grey.bmp": (grey, {}),
        "palette.bmp": (picture.quantize(9), {}),
        "one-bit.bmp": (grey.convert("1"), {}),
        "rgb.tif": (picture, {}),
        "grey.tif": (grey, {}),
        "one-bit.tif": (grey.convert("1"), {}),
        "palette.tif": (picture.quantize(9), {}),
        "transparent.tif": (Image.fromarray(np.dstack([COLOURS, ALPHA])), {}),
        "deep.tif": (Image.fromarray(GREY.astype(np.uint16) * 257), {}),
        "fractions.tif": (Image.fromarray(GREY.astype(np.float32) / 255), {}),
        "packed.tif": (picture, {"compression": "tiff_lzw"}),
        "deflated.tif": (picture, {"compression": "tiff_adobe_deflate"}),
        "packbits.tif": (picture, {"compression": "packbits"}),
        "turned.tif": (picture, {"tiffinfo": {274: 3}}),
        "negative.tif": (grey, {"tiffinfo": {262: 0}}),
        "pages.tif": (picture, {"save_all": True, "append_images": [picture]}),
        "other.gif": (grey, {}),
    }
    for name, (one, options) in save.items():
        one.save(folder / name, **options)
    deep = (COLOURS.astype(">u2") * 250 + 77).astype(">u2")
    (folder / "deep-colours.png").write_bytes(png(16, 2, deep.view(np.uint8).reshape(HEIGHT, -1)))
    for bits in (2, 4):
        values = GREY >> (8 - bits)
        each = 8 // bits
        padded = np.pad(values, ((0, 0), (0, -WIDTH % each))).reshape(HEIGHT, -1, each)
        packed = sum(padded[..., i] << (8 - bits * (i + 1)) for i in range(each)).astype(np.uint8)
        (folder / f"{bits}-bits.png").write_bytes(png(bits, 0, packed))
    content = (folder / "rgb.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    (folder / "changed.png").write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])
    (folder / "huge.png").write_bytes(content[:16] + struct.pack(">II", 90000, 90000) + content[24:])
    content = (folder / "rgb.jpg").read_bytes()
    (folder / "cut-header.jpg").write_bytes(content[:200])
    (folder / "cut.jpg").write_bytes(content[: len(content) - 60])
    (folder / "words.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    (folder / "letters.jpg").write_bytes((folder / "rgb.png").read_bytes())  # a PNG by its content


def png(bits: int, kind: int, rows: np.ndarray) -> bytes:
    """Return a PNG of rows of bytes."""
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, kind, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


main(Path(sys.argv[1]), Path(sys.argv[2]))
