"""Files of pictures, decoded: one place that the pixels of all pass, whatever opened the file.

Pillow and tifffile, and a picture's own tags, differ in what a stored value means. Behind this file black is 0, colours
come last, the grid is the stored one, and there is one page, within the limit and the memory. What is then made of the
values is said in images.py for what a person sees, and in masks.py for what a mask stores.
"""

import struct
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.strips import array_of
from segzoo.limits import IMAGE_PIXELS, require_memory
from segzoo.paths import require_file

# What Pillow raises for truncated, garbled or absurdly large files, by format, of which it knows dozens.
DECODING_ERRORS = (
    *(OSError, SyntaxError, TypeError, ValueError, EOFError, LookupError, ArithmeticError, RuntimeError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
_PIXEL_BYTES = 16  # of the decoder, and of copies on the way to an array: 4 for grey, 14 for RGB, as measured
_LARGE = 2**20  # pixels below which nobody asks for the free memory
_LOCK = Lock()
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262  # tags of TIFF
_ORIENTATION, _PLANES, _SAMPLES = 274, 284, 339  # the first one also of EXIF
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = range(4)  # photometric interpretations
_SEPARATE, _SIGNED, _RAW = 2, 2, 1  # planes, samples, and their compression
_TURNED_BACK = {  # from the orientation by which Pillow turns a TIFF to what turns it back
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_STEPS = {"L;2": 85, "L;4": 17}  # by which Pillow spreads greys of two and four bits over 0..255


@dataclass(frozen=True)
class Picture:
    """Decoded picture on its stored grid.

    Attributes:
        pixels: PIL image where Pillow has a mode for it, else an array [H, W] or [H, W, C]; 0 is black.
        white: intensity of white in an array of whole numbers of up to 16 bits.
        step: between the greys of a file of less than 8 bits, which are spread over 0..255.
        deep: true for 16 bits a colour of which these are the high eight.
        turned: true where viewers turn or mirror it.
    """

    pixels: Image.Image | npt.NDArray[Any]
    white: int = 65535
    step: int = 1
    deep: bool = False
    turned: bool = False

    def intensities(self) -> npt.NDArray[Any]:
        """Return what a person sees, [H, W] or [H, W, C]: palette resolved."""
        return _values(self.pixels, stored=False) if isinstance(self.pixels, Image.Image) else self.pixels

    def stored(self) -> npt.NDArray[Any]:
        """Return what the file holds, [H, W] or [H, W, C]: palette indices, and 1-bit values as these."""
        return _values(self.pixels, stored=True) if isinstance(self.pixels, Image.Image) else self.pixels


# ---- files


def decode(path: Path, *, whole: bool = False) -> Picture:
    """Decode a picture's file.

    Args:
        path: of whatever format Pillow knows, or a TIFF that tifffile reads.
        whole: keep all 16 bits of colours, as an array; else their high eight.

    Raises:
        MissingFileError: there is no such file.
        SegzooError: it cannot be decoded, is larger than the limit or the memory, has several pages, or does not say
            what its values mean.
    """
    require_file(path)
    try:
        with path.open("rb") as file:  # of a file by name Pillow garbles turned grey TIFFs
            image = _opened(file, path)
            _require_memory(path, *stored_size(image))
            with _own_limit(stored_size(image)):
                picture = picture_of(image, own_grid=True)
                return with_low_bytes(picture, Image.open(file)) if picture.deep and whole else picture
    except SegzooError as error:
        raise error if str(path) in str(error) else SegzooError(f"{path}: {error}") from error
    except MemoryError as error:
        raise SegzooError(f"There is not enough memory for {path}.") from error
    except DECODING_ERRORS as error:
        with _tiff(path, error) as page:
            _require_memory(path, page.imagelength, page.imagewidth)
            return picture_of_page(page)


def header_size(path: Path) -> tuple[int, int]:
    """Return height and width of the stored grid as a file's header says, without decoding the pixels.

    Raises:
        MissingFileError: there is no such file.
        SegzooError: it is no readable picture.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            return stored_size(_opened(file, path))
    except DECODING_ERRORS as error:
        if isinstance(error, SegzooError):
            raise
        with _tiff(path, error) as page:
            return page.imagelength, page.imagewidth


def stored_palette(path: Path) -> bytes:
    """Return the colours of a picture's palette, three bytes each; none where it has no palette.

    Raises:
        MissingFileError: there is no such file.
        SegzooError: it is no readable picture.
    """
    require_file(path)
    with suppress(*DECODING_ERRORS), path.open("rb") as file:
        image = _opened(file, path)
        if image.mode != "P":
            return b""
        if image.format == "PNG" and image.palette is not None:  # of which the header has it
            return bytes(image.palette.palette)
    pixels = decode(path).pixels
    return bytes(pixels.getpalette() or ()) if isinstance(pixels, Image.Image) and pixels.mode == "P" else b""


def _opened(file: Any, path: Path) -> Image.Image:
    """Return a file that Pillow knows, its header read, of one page and within the limit."""
    with _pillows_limit(None):
        image = Image.open(file)
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a JPEG with others, for depth, behind
    _require_one_page(path, pages, *stored_size(image))
    return image


@contextmanager
def _pillows_limit(pixels: int | None) -> Iterator[None]:
    """Have Pillow take as many pixels, for no longer than needed: its limit is that of the whole process."""
    with _LOCK:
        kept = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = kept


@contextmanager
def _own_limit(size: tuple[int, int]) -> Iterator[None]:
    """Let Pillow decode what is within our limit; what is above Pillow's goes one by one."""
    height, width = size
    with _LOCK:
        limit = Image.MAX_IMAGE_PIXELS
    with _pillows_limit(height * width) if limit is not None and height * width > limit else nullcontext():
        yield


def _require_one_page(path: Path, pages: int, height: int, width: int) -> None:
    """Refuse several pages, and one above the limit."""
    if pages > 1:
        raise SegzooError(f"{path} has {pages} pages; save the one to use as a file of its own.")
    IMAGE_PIXELS.check(height * width, f"{path} has")


def _require_memory(path: Path, height: int, width: int) -> None:
    """Refuse to decode what the memory does not hold."""
    if height * width > _LARGE:
        require_memory(height * width * _PIXEL_BYTES, path)


# ---- Pillow


def stored_size(image: Any) -> tuple[int, int]:
    """Return height and width of the stored grid; Pillow turns the size of a TIFF, as it turns the pixels."""
    if image.format == "TIFF":
        return image.tag_v2[_LENGTH], image.tag_v2[_WIDTH]
    return image.height, image.width


def picture_of(image: Any, *, own_grid: bool = False) -> Picture:
    """Return a PIL image's pixels, set right where Pillow takes them otherwise than its file means them.

    Args:
        image: of a file, or made in memory.
        own_grid: turn a TIFF back, which Pillow turns by its orientation, and no other format.

    Raises:
        SegzooError: its tags contradict or do not say what its values mean.
    """
    tags: Mapping[int, Any] = image.tag_v2 if image.format == "TIFF" else {}
    bits = int(np.max(tags.get(_BITS, 16)))
    if tags:
        _require_meaning(tags, image.mode, bits)
        _mend_planes(image, bits)
    tiles = str(image.tile) if hasattr(image, "tile") else ""  # how it is stored, asked before it is loaded
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    if own_grid and tags and orientation in _TURNED_BACK:
        image = image.transpose(_TURNED_BACK[orientation])
    turned = orientation != 1
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # the latter of older Pillows
        values, white = np.asarray(image).astype(np.uint16), 2**bits - 1
        negative = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # which Pillow heeds up to 8 bits
        return Picture(white - values if negative else values, white=white, turned=turned)
    step = next((step for rawmode, step in _STEPS.items() if rawmode in tiles), 1)
    return Picture(image, step=step, deep=";16" in tiles and image.mode not in ("I", "F"), turned=turned)


def _require_meaning(tags: Mapping[int, Any], mode: str, bits: int) -> None:
    """Refuse a TIFF whose values Pillow would have to guess."""
    photometric = tags.get(_PHOTOMETRIC)
    if photometric is None:
        raise SegzooError(
            "The TIFF does not say whether 0 is black or white (photometric interpretation); save it anew."
        )
    if photometric == _WHITE_IS_ZERO and mode in ("I", "F"):
        raise SegzooError(f"The TIFF is a negative (WhiteIsZero) of {bits} bits, of which none is white; save it anew.")
    if bits == 8 and np.max(tags.get(_SAMPLES, 1)) == _SIGNED:
        raise SegzooError("The TIFF holds signed numbers of 8 bits; save them as 0..255.")


def _mend_planes(image: Any, bits: int) -> None:
    """Tell Pillow how planes are stored that are not compressed: it takes 16 bits for eight.

    Raises:
        ValueError: there is one plane, of which it would forget whether it is a negative.
        SegzooError: it has read them already.
    """
    if image.tag_v2.get(_PLANES) != _SEPARATE or image.tag_v2.get(_COMPRESSION, _RAW) != _RAW:
        return
    if len(image.getbands()) == 1:
        raise ValueError("one plane")
    if bits != 16:
        return
    if not image.tile:
        raise SegzooError("Pillow has read this TIFF's 16-bit planes, and does so wrongly; give its path instead.")
    order = "L" if image.tag_v2.prefix.startswith(b"II") else "B"
    if ";16" not in str(image.tile):
        image.tile = [_with_rawmode(tile, f"{tile[3][0]};16{order}") for tile in image.tile]


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    """Return one of Pillow's descriptions of stored pixels with another layout."""
    arguments = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)  # older Pillows


def with_low_bytes(high: Picture, image: Any) -> Picture:
    """Return colours of 16 bits, of which Pillow keeps a byte: the high one, or the other in the other byte order.

    Args:
        high: the same file's high bytes.
        image: the file, opened anew.
    """
    others = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}
    if tiff := image.format == "TIFF":
        _mend_planes(image, 16)
    modes = [tile[3][0] if isinstance(tile[3], tuple) else tile[3] for tile in image.tile]
    plain = all(mode[:-1] in ("RGB;16", "RGBA;16", "RGBX;16", *(f"{band};16" for band in "RGBAX")) for mode in modes)
    planes = tiff and image.tag_v2.get(_PLANES) == _SEPARATE
    if not plain or (planes and image.tile[0][0] == "libtiff"):
        raise SegzooError(
            "Its 16-bit colours cannot be read whole, as intensity_range needs them; save it as grey or RGB, without "
            "transparency and in one plane."
        )
    image.tile = [
        _with_rawmode(tile, mode[:-1] + others[mode[-1]]) for tile, mode in zip(image.tile, modes, strict=True)
    ]
    low = picture_of(image, own_grid=True)
    whole = (np.asarray(high.pixels).astype(np.uint16) << 8) | np.asarray(low.pixels)
    return Picture(whole, turned=high.turned)


def _values(image: Image.Image, *, stored: bool) -> npt.NDArray[Any]:
    """Return a PIL image's values [H, W] or [H, W, C]; ``stored`` keeps palette indices and 1-bit values."""
    mode = image.mode
    if mode in ("I", "F") or (mode in ("P", "1") and stored):
        return np.asarray(image)
    if mode in ("La", "RGBa"):  # premultiplied: Pillow converts these only by way of LA and RGBA
        image = image.convert(mode.upper())
    if mode == "RGBA" or (stored and image.mode in ("LA", "RGBA")):
        return array_of(image)
    if image.mode in ("1", "L", "LA"):
        return array_of(image, "L")
    return array_of(image, "RGB")


# ---- tifffile


@contextmanager
def _tiff(path: Path, error: BaseException) -> Iterator[Any]:
    """Open by tifffile what Pillow rejects, CVC-ClinicDB's originals among it; else say in a sentence why not.

    Args:
        path: of the file.
        error: by which Pillow rejected it.

    Raises:
        SegzooError: it is no TIFF of one page either, or tifffile is not installed.
    """
    if isinstance(error, OSError) and error.errno is not None:  # the system's: not allowed, no such share, ...
        raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
    hint = "it is damaged or not an image"
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            import tifffile
        except ImportError:
            hint = "it is damaged or of a kind that needs `pip install tifffile`"
        else:
            try:
                with tifffile.TiffFile(path) as file:
                    page: Any = file.pages[0]
                    _require_one_page(path, len(file.pages), page.imagelength, page.imagewidth)
                    yield page
                    return
            except SegzooError as refusal:
                raise refusal if str(path) in str(refusal) else SegzooError(f"{path}: {refusal}") from error
            except MemoryError:
                hint = "there is not enough memory"
            except Exception:  # tifffile raises many kinds; all mean the same here
                pass
    raise SegzooError(f"Cannot read {path} as an image: {hint}.") from error


def picture_of_page(page: Any) -> Picture:
    """Return the pixels of a page that tifffile opened, as `picture_of` does of what Pillow opened.

    Raises:
        SegzooError: it holds something else than greys, colours, or a palette of up to 256.
    """
    pixels, photometric, bits = page.asarray(), page.photometric, int(page.bitspersample)
    turned = getattr(page.tags.get(_ORIENTATION), "value", 1) != 1
    if page.axes == "SYX":
        pixels = np.moveaxis(pixels, 0, -1)
    elif page.axes not in ("YX", "YXS"):
        raise SegzooError(f"The TIFF's axes are {page.axes}, not those of a picture; save one as a file of its own.")
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE):
        raise SegzooError(f"The TIFF's colours are {getattr(photometric, 'name', photometric)}; save it as RGB.")
    if bits == 1:
        pixels = pixels.astype(bool)
    if photometric == _PALETTE:
        if bits > 8 or pixels.ndim != 2 or page.colormap is None:
            raise SegzooError("The TIFF has a palette of more than 256 colours; save it as RGB.")
        image = Image.fromarray(pixels.astype(np.uint8), mode="P")
        image.putpalette((page.colormap >> 8).astype(np.uint8).T.tobytes())
        return Picture(image, turned=turned)
    whole = pixels.dtype.kind in "bu" and pixels.dtype.itemsize <= 2
    if photometric == _WHITE_IS_ZERO:
        if not whole:
            raise SegzooError(
                f"The TIFF is a negative (WhiteIsZero) of {bits} bits, of which none is white; save it anew."
            )
        pixels = ~pixels if bits == 1 else pixels.dtype.type(2**bits - 1) - pixels
    step = 255 // (2**bits - 1) if whole and 1 < bits < 8 else 1
    white = 2**bits - 1 if whole and 8 < bits < 16 else 65535
    return Picture(pixels * pixels.dtype.type(step) if step > 1 else pixels, white=white, step=step, turned=turned)
