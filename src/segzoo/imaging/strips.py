"""Values of PIL images, strip by strip: of a whole image Pillow would make up to three copies on the way."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

STRIP_PIXELS = 2**20
BLOCK_BYTES = 2**26


class Strips:
    """Values of an image, some rows at a time, as ``np.asarray`` of the converted image has them; each time anew.

    Args:
        image: loaded, of any mode.
        mode: to convert to; None keeps the image's own.

    Attributes:
        rows: in each strip, but perhaps the last.
        shape: of the whole: (H, W) or (H, W, C).

    Example:
        >>> from PIL import Image
        >>> from segzoo.imaging.strips import Strips
        >>> strips = Strips(Image.new("L", (3, 2), 7), "RGB")
        >>> strips.shape, [strip.shape for strip in strips]
        ((2, 3, 3), [(2, 3, 3)])
    """

    def __init__(self, image: Image.Image, mode: str | None = None) -> None:
        self.image, self.mode = image, mode or image.mode
        bands = Image.getmodebands(self.mode)
        self.rows = max(1, STRIP_PIXELS // image.width)
        self.shape = (image.height, image.width, bands)[: 2 + (bands > 1)]

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        image = self.image
        for top in range(0, image.height, self.rows):
            whole = self.rows >= image.height
            strip = image if whole else image.crop((0, top, image.width, min(top + self.rows, image.height)))
            yield np.asarray(strip if self.mode == image.mode else strip.convert(self.mode))


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
    strips = Strips(image, mode)
    if strips.rows >= image.height:
        return next(iter(strips))
    found: npt.NDArray[Any] | None = None
    for number, strip in enumerate(strips):
        found = np.empty(strips.shape, strip.dtype) if found is None else found
        found[number * strips.rows :][: len(strip)] = strip
    assert found is not None
    return found


def let_go_of_memory() -> None:
    """Have Pillow keep images in blocks so large that the system takes each of them back with its image.

    The C library keeps blocks of Pillow's own 16 MiB for the thread that had them: the memory of a large picture would
    stay with every thread that has read or written one. From 32 MiB on it keeps none.
    """
    Image.core.set_block_size(BLOCK_BYTES)
