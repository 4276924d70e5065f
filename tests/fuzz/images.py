"""Pictures of every kind that a decoder knows, damaged and odd ones among them, under any name."""

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.edits import BytesEdit, bytes_edits, edit_bytes
from tests.fuzz.materials import checkpoint, picture, require_mask
from tests.fuzz.oracle import Order

from segzoo.imaging.images import image_size

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP", "JPEG2000", "PPM", "ICO", "TGA")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".PNG", ".gif", "")
# tags of TIFF: width, bits, compression, photometric, orientation, samples, strips, planes, predictor, colours, tiles
TAGS = (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 296, 317, 320, 322, 338, 339, 34675)


@dataclass(frozen=True)
class OddPicture:
    """``segzoo predict`` on one picture.

    Attributes:
        mode: of Pillow.
        format: that Pillow writes.
        suffix: of the file's name.
        frames: pages.
        edits: of its bytes.
        chunk: of PNG, to be written anew with a right checksum: its name, and edits of what it holds.
        tag: of TIFF, with another type, count and value.
    """

    mode: str = "L"
    format: str = "PNG"
    suffix: str = ".png"
    frames: int = 1
    edits: tuple[BytesEdit, ...] = ()
    chunk: tuple[bytes, tuple[BytesEdit, ...]] | None = None
    tag: tuple[int, int, int, int] | None = None

    def lay(self, folder: Path) -> Order:
        content = encoded(self.mode, self.format, self.frames)
        if self.chunk and self.format == "PNG":
            content = rewritten_chunk(content, *self.chunk)
        if self.tag and self.format == "TIFF":
            content = rewritten_tag(content, *self.tag)
        name = f"scan{self.suffix}"
        (folder / name).write_bytes(edit_bytes(content, self.edits))

        def check(folder: Path, printed: str) -> None:
            height, width = image_size(folder / name)  # tifffile reads what Pillow does not
            require_mask(folder / "masks" / "scan.png", (width, height))

        command = ["predict", str(checkpoint()), name, "--output", "masks", "--device", "cpu", "--overlay"]
        return Order(command, ("masks/scan.png", "masks/scan_overlay.png"), check)


def encoded(mode: str, format: str, frames: int) -> bytes:
    """Return a small picture as a file; in the nearest mode where the format has not this one."""
    grey = picture()
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(grey.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]) * 250)
    elif mode in ("LAB", "HSV", "YCbCr"):
        image = Image.merge(mode, [Image.fromarray(grey)] * 3)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode if mode != "PA" else "P").convert(mode)
    plain = Image.fromarray(grey).convert("RGB")
    for wanted, pages in ((image, frames), (plain, frames), (plain, 1)):
        file = io.BytesIO()
        try:
            more = {"save_all": True, "append_images": [wanted] * (pages - 1)} if pages > 1 else {}
            wanted.save(file, format, **more)
        except (OSError, ValueError, KeyError, TypeError, SystemError):
            continue
        return file.getvalue()
    raise ValueError(f"{format} takes no RGB")


def rewritten_chunk(png: bytes, name: bytes, edits: tuple[BytesEdit, ...]) -> bytes:
    """Return a PNG with one chunk edited, or added before the pixels, and a checksum that fits it."""
    parts, at, done = [png[:8]], 8, False
    while at + 8 <= len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        at += size + 12
        if kind == name:
            body, done = edit_bytes(body, edits) if body else b"", True
        elif kind == b"IDAT" and not done:
            parts.append(packed_chunk(name, edit_bytes(b"\0" * 16, edits)))
            done = True
        parts.append(packed_chunk(kind, body))
    return b"".join(parts)


def packed_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def rewritten_tag(tiff: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """Return a little-endian TIFF whose first directory has this entry in the place of its own, or of its last."""
    (start,) = struct.unpack("<I", tiff[4:8])
    (entries,) = struct.unpack("<H", tiff[start : start + 2])
    spots = [start + 2 + 12 * number for number in range(entries)]
    spot = next((one for one in spots if struct.unpack("<H", tiff[one : one + 2])[0] == tag), spots[-1])
    return tiff[:spot] + struct.pack("<HHII", tag, kind, count, value) + tiff[spot + 12 :]


chunks = st.tuples(
    st.sampled_from(
        [b"IHDR", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"tEXt", b"zTXt", b"eXIf", b"acTL", b"IDAT", b"xxxx"]
    ),
    bytes_edits(2),
)
tags = st.tuples(
    st.sampled_from(TAGS),
    st.integers(0, 16),
    st.one_of(st.integers(0, 8), st.sampled_from([2**16, 2**31, 2**32 - 1])),
    st.one_of(st.integers(0, 70), st.sampled_from([2**15, 2**16, 50000, 2**31, 2**32 - 1])),
)
kinds = dict(mode=st.sampled_from(MODES), suffix=st.sampled_from(SUFFIXES), frames=st.sampled_from([1, 1, 1, 3]))
damage = st.one_of(st.just(()), bytes_edits())
cases = st.one_of(
    st.builds(OddPicture, format=st.sampled_from(FORMATS), edits=damage, **kinds),
    st.builds(OddPicture, format=st.just("PNG"), chunk=chunks, **kinds),
    st.builds(OddPicture, format=st.just("TIFF"), tag=tags, **kinds),
)
