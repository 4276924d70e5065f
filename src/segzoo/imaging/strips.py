"""Arrays of PIL images, strip by strip: of a whole image Pillow would make up to three copies on the way."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

STRIP_PIXELS = 2**22


def array_of(image: Image.Image, mode: str | None = None) -> npt.NDArray[Any]:
    """Return an image's values [H, W] or [H, W, C], as ``np.asarray`` of the converted image does.

    Args:
        image: loaded, of any mode.
        mode: to convert to; None keeps the image's own.

    Example:
        >>> from PIL import Image
        >>> from segzoo.imaging.strips import array_of
        >>> array_of(Image.new("L", (3, 2), 7), "RGB").shape
        (2, 3, 3)
    """
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        return np.asarray(image if mode in (None, image.mode) else image.convert(mode))

    def strip(top: int) -> npt.NDArray[Any]:
        bottom = min(top + rows, image.height)
        return array_of(image.crop((0, top, image.width, bottom)), mode)

    first = strip(0)
    found = np.empty((image.height, *first.shape[1:]), first.dtype)
    for top in range(0, image.height, rows):
        found[top : top + rows] = strip(top)
    return found
