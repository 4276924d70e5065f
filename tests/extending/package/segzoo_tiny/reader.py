"""A reader: which paths are its own, and the pixels of one; the rest is an image's."""

from pathlib import Path

import numpy as np

from segzoo.errors import SegzooError
from segzoo.imaging.images import ImageFile, as_image


class ArrayFile(ImageFile):
    """A NumPy file (``.npy``) of grey intensities [H, W] or colours [H, W, 3], 0..255."""

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a file's name is that of a NumPy file."""
        return path.suffix.lower() == ".npy"

    def for_images(self, channels: int, intensity_range: tuple[float, float] | None = None) -> np.ndarray:
        """Return the image [H, W, channels]."""
        try:
            pixels = np.load(self.path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise SegzooError(f"{self.path} is not a NumPy file of numbers ({error}); save it by numpy.save") from error
        return as_image(pixels, channels, intensity_range)
