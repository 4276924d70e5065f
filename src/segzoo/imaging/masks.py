"""Mask files -> class indices, which are never rescaled."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.decoding import DECODING_ERRORS, Picture, decode, stored_palette

LOSSY_SUFFIXES = (".jpg", ".jpeg")
_MANY = 64  # colours that nobody means as classes
_BLACK = (0, 0, 0)
_FEW = 4  # indices that may be classes or marks, which the reader of labels knows; more are shades, in any order


def read_mask(
    path: str | os.PathLike[str], *, binary: bool = False, several: bool = False
) -> npt.NDArray[np.integer[Any]]:
    """Read a mask file's stored values: palette indices, not colours; 1-bit as 0/1; grey saved as RGB(A) as grey.

    Alpha may follow the grey values or be the same everywhere. A binary mask may also be drawn in one colour, on black
    or on nothing.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        binary: Read a palette by its colours, since the background may have any index: greys as these, else black as
            background; and one colour as 255, or its opacity where all that is opaque is of one colour.
        several: Of a binary mask, let a palette have any number of colours on black.

    Returns:
        Integer array ``[H, W]``.

    Raises:
        MissingError: If there is no such file.
        SegzooError: If it cannot be decoded, is coloured, holds fractions or has its shape in the transparency, or if
            a palette's colours do not tell the background of a binary one.
    """
    path = Path(path)
    values = _stored_values(path, decode(path), binary=binary, several=several)
    if values.ndim == 3:
        values = _one_channel(path, values, binary=binary)
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):  # also refuses NaN
            raise SegzooError(f"Mask {path} holds fractions; save it as one channel of class indices.")
        values = values.astype(np.int32)
    return values.astype(np.uint8) if values.dtype == bool else values


def palette(path: Path) -> list[bytes]:
    """Return the colours of a mask's palette, RGB each, of whatever format; none where it has no palette.

    Raises:
        SegzooError: If it cannot be decoded.
    """
    table = stored_palette(path)
    return [table[start : start + 3] for start in range(0, len(table), 3)]


def colours_of(path: Path) -> npt.NDArray[np.int32]:
    """Read a mask's colours as numbers 0xRRGGBB, [H, W]; what is more transparent than not is black.

    Raises:
        MissingError: There is no such file.
        SegzooError: It cannot be decoded, or holds more than 8 bits.
    """
    values = decode(path).intensities()
    if values.ndim == 2:
        values = values[..., None]
    if values.dtype not in (np.uint8, bool):
        raise SegzooError(
            f"Mask {path} holds {values.dtype}, and colours are of 8 bits; say by values what each means."
        )
    values = values.astype(np.int32) * (255 if values.dtype == bool else 1)
    channels, alpha = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
    red, green, blue = np.moveaxis(np.broadcast_to(channels, (*channels.shape[:2], 3)), -1, 0)
    colours: npt.NDArray[np.int32] = (red << 16) | (green << 8) | blue
    return colours if alpha is None else np.where(alpha > 127, colours, 0)


def drawn_in(path: Path) -> str | None:
    """Return the colour that a mask of one colour on black is drawn in, as #rrggbb; None where that is grey, or many.

    Raises:
        MissingError: There is no such file.
        SegzooError: It cannot be decoded.
    """
    if path.suffix.lower() in LOSSY_SUFFIXES:
        return None
    with suppress(*DECODING_ERRORS), Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):  # most are grey, and need no decoding
            return None
    values = decode(path).intensities()
    if values.ndim != 3 or values.shape[2] < 3 or values.dtype != np.uint8:
        return None
    brightness = values[..., :3].astype(np.int32).sum(-1)
    red, green, blue = values[np.unravel_index(int(brightness.argmax()), brightness.shape)][:3].tolist()
    return None if red == green == blue else f"#{red:02x}{green:02x}{blue:02x}"


def hexadecimal(colour: int) -> str:
    """Return a colour 0xRRGGBB as people write it: #rrggbb."""
    return f"#{colour:06x}"


# ---- one channel of several


def _one_channel(path: Path, values: npt.NDArray[Any], *, binary: bool) -> npt.NDArray[Any]:
    """Return the values [H, W] of a mask that is stored as grey, RGB or either with alpha."""
    colours, alpha = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
    if binary and alpha is not None and _is_drawn_on_nothing(colours, alpha):
        return alpha
    if alpha is not None and _says_more(alpha, colours):
        raise SegzooError(f"Mask {path} has its shape in the transparency; save it as one channel of class indices.")
    if not (colours != colours[..., :1]).any():
        return colours[..., 0]
    shades = _shades_of_one_colour(colours, lossy=path.suffix.lower() in LOSSY_SUFFIXES) if binary else None
    if shades is None:
        raise SegzooError(f"Mask {path} is coloured{_advice(colours)}")
    return shades


def _is_drawn_on_nothing(colours: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> bool:
    """Tell whether all that is opaque, but not all there is, has one colour; or nothing is, and that has one."""
    opaque = alpha > (127 if alpha.dtype == np.uint8 else 32767)
    if opaque.all() or (not opaque.any() and alpha.any()):
        return False
    shown = colours[opaque] if opaque.any() else colours.reshape(-1, colours.shape[-1])
    return bool((shown == shown[0]).all())


def _says_more(alpha: npt.NDArray[Any], colours: npt.NDArray[Any]) -> bool:
    """Tell whether pixels of one colour differ in their opacity."""
    if not alpha.size or (alpha == alpha.flat[0]).all():
        return False
    found, numbers = np.unique(_codes(colours), return_inverse=True)
    return len(np.unique(numbers.ravel() * 65536 + alpha.ravel())) > len(found)


def _shades_of_one_colour(colours: npt.NDArray[Any], *, lossy: bool) -> npt.NDArray[np.uint8] | None:
    """Return how bright each pixel is, 0..255, where all are shades between black and one colour; else None."""
    values = colours.astype(np.float32)
    bright = values.max(-1)
    top = bright.max()
    full = np.median(values[bright > 0.9 * top], axis=0)
    off = np.abs(values - bright[..., None] * (full / full.max())).max(-1)
    if lossy:  # edges bleed
        shown = bright > 0.25 * top
        one = (off[shown] > 0.25 * top).sum() < 0.05 * shown.sum()
    else:
        one = bool((off <= (max(1, top / 255) if top > 50 else 0)).all())  # shades are rounded
    if not one:
        return None
    return np.round(bright * (255 / top)).astype(np.uint8)


def _codes(colours: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return colours of 8 or 16 bits as one number each."""
    numbers = np.zeros(colours.shape[:2], np.int64)
    for channel in np.moveaxis(colours, -1, 0):
        numbers = (numbers << 16) | channel.astype(np.int64)
    return numbers


def _advice(colours: npt.NDArray[Any]) -> str:
    """Name the most frequent colours but black, and the option that says what they mean."""
    flat = colours.reshape(-1, 3) if colours.dtype == np.uint8 else colours.reshape(-1, 3) // 257
    numbers, counts = np.unique(_codes(flat[None].astype(np.uint8)), return_counts=True)
    frequent = sorted([int(numbers[place]) for place in np.argsort(-counts, kind="stable") if numbers[place]][:3])
    named = [hexadecimal((one >> 32 & 255) << 16 | (one >> 16 & 255) << 8 | one & 255) for one in frequent]
    if len(numbers) > _MANY:
        return f" in {len(numbers)} colours; save it as one channel of class indices."
    more = ", ..." if len(frequent) < np.count_nonzero(numbers) else ""
    entries = ", ".join(f'"{colour}": NAME' for colour in named)
    return (
        f" ({', '.join(named)}{more}); say which class each colour is by colours (--data.colours '{{{entries}{more}}}')"
        ", or save it as one channel of class indices."
    )


def _stored_values(path: Path, picture: Picture, *, binary: bool, several: bool) -> npt.NDArray[Any]:
    """Return a decoded mask's values [H, W] or [H, W, C]."""
    image = picture.pixels
    if not binary:
        return picture.stored() // picture.step if picture.step > 1 else picture.stored()
    if not isinstance(image, Image.Image) or image.mode != "P":
        return picture.stored()
    if _is_grey(image):
        return Picture(image.convert("LA")).stored()
    return _coloured(path, image, several)


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


def _coloured(path: Path, image: Image.Image, several: bool) -> npt.NDArray[Any]:
    """Return a coloured palette's indices where the first is black, as drawing tools have it, else where it is not."""
    indices = np.asarray(image)
    used = np.unique(indices).tolist()
    if _colour(image, 0) == _BLACK and (several or len(used) <= _FEW):
        return indices
    black = [index for index in used if _colour(image, index) == _BLACK]
    if (len(used) > 2 and not several) or len(black) != 1:
        raise SegzooError(
            f"Mask {path} has a palette of {len(used)} colour{'s' if len(used) > 1 else ''}, where a binary mask has "
            f"one on black{_advice(np.asarray(image.convert('RGB')))}"
        )
    return indices != black[0]
