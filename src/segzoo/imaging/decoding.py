"""Files of pictures, opened by Pillow or by tifffile: of one page, within the limit and the memory.

What is decoded passes pixels.py.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.pixels import Picture, picture_of, picture_of_page, stored_size, with_low_bytes
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
                    page = file.pages[0]
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
