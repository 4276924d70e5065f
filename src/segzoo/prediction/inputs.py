"""An image or a volume, read and preprocessed for a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import as_image
from segzoo.imaging.readers import reader_of
from segzoo.imaging.volumes import Volume, no_volume
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing


@dataclass
class Prepared:
    """An input and what the network sees of it.

    Attributes:
        given: the image, uint8 [H, W, C], or the volume.
        batch: float32 [1, C, *S]; None for a volume that a network for images goes through slice by slice.
    """

    given: npt.NDArray[np.uint8] | Volume
    batch: Tensor | None


def prepare(
    preprocessing: Preprocessing | VolumePreprocessing, image: "str | Path | Image.Image | np.ndarray | Tensor | Volume"
) -> Prepared:
    """Read an input and preprocess it.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or does not fit the model.
    """
    given = read_input(preprocessing, image)
    if isinstance(given, Volume):
        if not isinstance(preprocessing, VolumePreprocessing):
            return Prepared(given, None)
        try:
            return Prepared(given, preprocessing(given)[None])
        except SegzooError as error:
            raise SegzooError(f"{image}: {error}" if isinstance(image, str | Path) else str(error)) from error
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    return Prepared(given, preprocessing(given)[None])


def read_input(
    preprocessing: Preprocessing | VolumePreprocessing, image: "str | Path | Image.Image | np.ndarray | Tensor | Volume"
) -> npt.NDArray[np.uint8] | Volume:
    """An image [H, W, C] or a volume, whatever ``predict`` was given.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or it is an image where the model takes volumes.
    """
    channels = preprocessing.channels
    if isinstance(image, Volume):
        return Volume(volume_array(image.array, image.geometry.shape), image.geometry)
    if isinstance(image, str | Path):
        reader = reader_of(image)
        return (reader.for_volumes if preprocessing.spatial_dims == 3 else reader.for_images)(channels)
    if isinstance(image, Image.Image):
        if preprocessing.spatial_dims == 3:
            raise no_volume("a picture")
        return as_image(image, channels)
    if preprocessing.spatial_dims == 2 and np.ndim(image) == 4 and channels in np.shape(image)[1::2]:
        raise SegzooError(
            f"An array of shape {list(np.shape(image))} is a batch of images, or a volume of {channels} slices; give "
            "images one by one, and such a volume as segzoo.volumes.Volume."
        )
    if preprocessing.spatial_dims == 3 or np.ndim(image) == 4:
        return as_volume(preprocessing, image)
    return as_image(image, channels)


def as_volume(preprocessing: Preprocessing | VolumePreprocessing, values: np.ndarray | Tensor) -> Volume:
    """A volume [D, H, W] or [C, D, H, W] in memory, taken to lie as the model wants it."""
    array = volume_array(values)
    if isinstance(preprocessing, VolumePreprocessing):
        spacing = preprocessing.spacing or (1.0, 1.0, 1.0)
        return Volume(array, Geometry.along_axes(array.shape[1:], spacing, preprocessing.orientation))
    return Volume(array, Geometry.along_axes(array.shape[1:]))


def volume_array(values: np.ndarray | Tensor, shape: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
    """Voxels in memory as float32 [C, D, H, W].

    Args:
        values: [D, H, W] or [C, D, H, W].
        shape: of the grid that they lie on, where that is known.

    Raises:
        SegzooError: they are of another shape, no numbers, or not finite.
    """
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise SegzooError(
            f"A volume must be numbers of shape [D, H, W] or [C, D, H, W], not {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    if shape is not None and array.shape[1:] != tuple(shape):
        raise SegzooError(f"The volume's array is {list(array.shape[1:])} voxels, its geometry {list(shape)}.")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise SegzooError("The volume holds NaN or infinite voxels.")
    return array
