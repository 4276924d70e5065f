"""Mask files -> class indices, which are never rescaled."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.decoding import decode, stored_palette
from segzoo.imaging.pixels import Picture

_BLACK = (0, 0, 0)
_FEW = 4  # indices that may be classes or marks, which the reader of labels knows; more are shades, in any order


def read_mask(
    path: str | os.PathLike[str], *, binary: bool = False, several: bool = False
) -> npt.NDArray[np.integer[Any]]:
    """Read a mask file's stored values: palette indices, not colours; 1-bit as 0/1; grey saved as RGB(A) as grey.

    Alpha may follow the grey values or be the same everywhere; where it says more than they do, it is the mask.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        binary: Read a palette by its colours, since the background may have any index: greys as these, else black as
            background.
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
        colours, alpha = (values[..., :-1], values[..., -1]) if values.shape[2] in (2, 4) else (values, None)
        if (colours != colours[..., :1]).any():
            raise SegzooError(f"Mask {path} is coloured; save it as one channel of class indices.")
        values = colours[..., 0]
        if alpha is not None and len(np.unique(values * 65536.0 + alpha)) > len(np.unique(values)):
            raise SegzooError(
                f"Mask {path} has its shape in the transparency; save it as one channel of class indices."
            )
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
            "one on black; save it as one channel of 0 and 255."
        )
    return indices != black[0]
