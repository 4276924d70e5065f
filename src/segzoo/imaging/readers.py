"""Files as a model takes them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.images import read_image
from segzoo.imaging.volumes import VOLUME_SUFFIXES, Volume, is_volume, read_volume


def read_file(file: str | Path, channels: int, spatial_dims: int) -> npt.NDArray[np.uint8] | Volume:
    """An image [H, W, C] or a volume, as a model takes it.

    Args:
        file: to read.
        channels: of the model's input.
        spatial_dims: 2 for a model of images, which takes volumes slice by slice; 3 for one of volumes.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or it is an image where the model takes volumes.
    """
    if is_volume(file):
        # the slices of a volume are grey, also to a model that takes RGB
        return read_volume(file, 1 if spatial_dims == 2 and channels == 3 else channels)
    if spatial_dims == 3:
        raise no_volume(file)
    return read_image(file, channels)


def no_volume(what: object) -> SegzooError:
    """That this is an image where a model takes volumes."""
    return SegzooError(f"This model segments volumes ({', '.join(VOLUME_SUFFIXES)}), and {what} is none.")
