"""Pixels of image files as Pillow (or tifffile) decodes them, with one clear error."""

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import MissingFileError, SegzooError

# What Pillow raises for truncated, garbled or absurdly large files, by format, of which it knows dozens.
DECODING_ERRORS = (
    *(OSError, SyntaxError, TypeError, ValueError, EOFError, LookupError, ArithmeticError, RuntimeError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
TWELVE_BITS = 4096  # of values: what scanners give, often saved in 16 bits as it is
WIDTH, LENGTH, _PHOTOMETRIC, _ORIENTATION = 256, 257, 262, 274  # tags of TIFF, the last one also of EXIF
_WHITE_IS_ZERO = 0  # the photometric interpretation of a negative
_TURNED_BACK = {  # from the orientation by which Pillow turns a TIFF to what turns it back
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_BLACK = (0, 0, 0)
_FEW = 4  # indices that may be classes or marks, which the reader of labels knows; more are shades, in any order


def require_file(path: Path) -> None:
    """Refuse a path where there is no file."""
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")


def decode(path: Path, *, for_mask: bool, binary: bool = False) -> npt.NDArray[Any]:
    """Pixels [H, W] or [H, W, C] of a file in its own dtype."""
    require_file(path)
    try:
        with path.open("rb") as file, Image.open(file) as image:  # of a file by name Pillow garbles turned grey TIFFs
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise SegzooError(f"{path} has {pages} pages; save the one to use as a file of its own.")
            if not for_mask:
                return _intensities(path, image)
            stored = _as_stored(image)
            if binary and stored.mode == "P":
                return pixels_of(stored.convert("LA"), for_mask=True) if _is_grey(stored) else _coloured(path, stored)
            return pixels_of(stored, for_mask=True)
    except SegzooError:
        raise
    except DECODING_ERRORS as error:
        return decode_tiff(path, error)


def _intensities(path: Path, image: Any) -> npt.NDArray[Any]:
    """Return an opened image's pixels [H, W] or [H, W, C]; of 16 bits a colour the high eight."""
    deep = ";16" in str(image.tile)  # what is stored, asked before it is loaded; the mode tells only of grey
    negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.getexif().get(_ORIENTATION, 1) != 1:
        warnings.warn(
            f"{path} is stored turned or mirrored, and viewers turn it back: its mask belongs to the stored pixels.",
            stacklevel=2,
        )
    pixels = pixels_of(_as_stored(image), for_mask=False)
    if pixels.dtype == np.uint16 and negative:  # which Pillow heeds in 8 bits alone
        return np.uint16(65535) - pixels
    if deep and pixels.dtype == np.uint8 and (brightest := int(pixels[..., :3].max())) < TWELVE_BITS // 256:
        raise SegzooError(f"{path}: {nearly_black(256 * brightest + 255)}")
    return pixels


def _as_stored(image: Image.Image) -> Image.Image:
    """Return the picture as its file has it: Pillow turns TIFFs, and no others, by their orientation."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    turned = image.format == "TIFF" and orientation in _TURNED_BACK
    return image.transpose(_TURNED_BACK[orientation]) if turned else image


def decode_tiff(path: Path, error: BaseException) -> npt.NDArray[Any]:
    """Second reader for TIFFs that Pillow rejects (CVC-ClinicDB's originals among them); else the clear error."""
    hint = "it is damaged or not an image"
    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS:  # of which Pillow reads two times
        hint = f"it has more pixels than the {2 * Image.MAX_IMAGE_PIXELS} that are read; reduce it, or cut it in parts"
    if isinstance(error, OSError) and error.errno is not None:  # the system's: not allowed, no such share, ...
        raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            import tifffile
        except ImportError:
            hint = "it is damaged or of a kind that needs `pip install tifffile`"
        else:
            try:
                pixels = tifffile.imread(path)
                if pixels.ndim in (2, 3):
                    return pixels
            except Exception:  # tifffile raises many kinds; all mean the same here
                pass
    raise SegzooError(f"Cannot read {path} as an image: {hint}.") from error


def _is_grey(image: Image.Image) -> bool:
    """Return whether this palette image looks like a grey one, and not the same all over."""
    used = np.unique(np.asarray(image)).tolist()
    colours = {_colour(image, index) for index in used}
    if "transparency" not in image.info and len(colours) == 1 < len(used):
        return False
    return bool(used) and all(len(colour) == 3 and len(set(colour)) == 1 for colour in colours)


def _colour(image: Image.Image, index: int) -> tuple[int, ...]:
    """Return the colour of a palette's index, RGB."""
    return tuple((image.getpalette() or [])[3 * index : 3 * index + 3])


def _coloured(path: Path, image: Image.Image) -> npt.NDArray[Any]:
    """Return a coloured palette image's indices where the first is black, else where it is not black."""
    indices = np.asarray(image)
    used = np.unique(indices).tolist()
    if _colour(image, 0) == _BLACK and len(used) <= _FEW:
        return indices
    black = [index for index in used if _colour(image, index) == _BLACK]
    if len(used) > 2 or len(black) != 1:
        raise SegzooError(
            f"Mask {path} has a palette of {len(used)} colour{'s' if len(used) > 1 else ''}, where a binary mask has "
            "one on black; save it as one channel of 0 and 255."
        )
    return indices != black[0]


def pixels_of(image: Image.Image, *, for_mask: bool) -> npt.NDArray[Any]:
    """Return a PIL image's pixels [H, W] or [H, W, C]; ``for_mask`` keeps palette indices and bits as stored."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if mode == "I" and image.format == "PNG":  # older Pillow's mode for 16-bit grey PNG
        return np.asarray(image).astype(np.uint16)
    if mode in ("I", "F") or (mode in ("P", "1") and for_mask):
        return np.asarray(image)
    if mode in ("La", "RGBa"):  # premultiplied: Pillow converts these only by way of LA and RGBA
        image = image.convert(mode.upper())
    if mode == "RGBA" or (for_mask and image.mode in ("LA", "RGBA")):
        return np.asarray(image)
    if image.mode in ("1", "L", "LA"):
        return np.asarray(image.convert("L"))
    return np.asarray(image.convert("RGB"))


def nearly_black(brightest: int) -> str:
    """Say that a 16-bit image uses but the lowest of its values."""
    return (
        f"The image's 16-bit values only reach {brightest} of 65535, which is nearly black; scale them to the full "
        "range first."
    )
