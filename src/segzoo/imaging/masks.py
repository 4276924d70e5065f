"""Mask files <-> class indices, which are never rescaled."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.notes import write_png
from segzoo.imaging.pillow import decode


def read_mask(path: str | Path, *, binary: bool = False) -> npt.NDArray[np.integer[Any]]:
    """Read a mask file's stored values: palette indices, not colours; 1-bit as 0/1; grey saved as RGB(A) as grey.

    Alpha may follow the grey values or be the same everywhere; where it says more than they do, it is the mask.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        binary: Read a palette by its colours, since the background may have any index: greys as these, else black as
            background.

    Returns:
        Integer array ``[H, W]``.

    Raises:
        MissingError: If there is no such file.
        SegzooError: If it cannot be decoded, is coloured, holds fractions or has its shape in the transparency, or if
            a palette's colours do not tell the background of a binary one.
    """
    path = Path(path)
    values = decode(path, for_mask=True, binary=binary)
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


def write_mask(path: str | Path, mask: npt.ArrayLike, note: str = "") -> None:
    """Write class indices as a grey PNG of 8 bits, or of 16 where a value exceeds 255.

    Args:
        path: The file; its folder is made where missing.
        mask: Integer (or boolean) array ``[H, W]`` of values 0..65535.
        note: For `read_note`.

    Raises:
        SegzooError: If the mask is of another shape or holds other values.
    """
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise SegzooError(f"A mask must be integers of shape [H, W], not {values.dtype} of shape {list(values.shape)}.")
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise SegzooError(f"A mask file holds values 0..65535, not {values.min()}..{values.max()}.")
    wide = values.size > 0 and values.max() > 255
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, Image.fromarray(values.astype(np.uint16 if wide else np.uint8)), note)


def palette(path: Path) -> list[bytes]:
    """Return the colours of a readable PNG's palette, RGB each, as its header gives them; none of any other file."""
    if path.suffix.lower() != ".png":
        return []
    with Image.open(path) as image:
        table = image.palette.palette if image.palette else b""
        return [bytes(table[start : start + 3]) for start in range(0, len(table), 3)]
