"""Input contracts of exported files, without torch for images: what is left to do outside of the graph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.imaging.strips import array_of
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing

FloatArray = npt.NDArray[np.float32]
GRAPH_PIXELS = 2**24  # of an image that the graph resizes itself, which takes it 40 bytes for each


@dataclass(frozen=True)
class ExportedImages(Preprocessing):
    """Contract of a file for images, whose graph normalises them, and resizes all but the largest.

    Args:
        size: sides that the file takes, where images are resized outside of it; None where they vary.
    """

    size: tuple[int, ...] | None = None

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """Return raw intensities [C, H, W] at the size that the file takes, in uint8 where that is the image's own."""
        planes, size = image.transpose(2, 0, 1), self.size
        if size is None and planes[0].size > GRAPH_PIXELS:
            size = self.image_size
        return planes if size in (None, planes.shape[1:]) else resized(planes, size)

    def restore(self, probabilities: FloatArray, size: Sequence[int]) -> FloatArray:
        """Bring probabilities [B, K, H, W] to the image's own size."""
        if probabilities.shape[2:] == tuple(size):
            return probabilities
        planes = probabilities.reshape(-1, *probabilities.shape[2:])
        return resized(planes, size).reshape(*probabilities.shape[:2], *size)


def exported_contract(
    contract: Preprocessing | VolumePreprocessing, size: tuple[int, ...] | None
) -> ExportedImages | VolumePreprocessing:
    """Return the contract of an exported file: volumes are preprocessed outside of its graph, images inside.

    Args:
        contract: of the checkpoint.
        size: sides that the file takes; None where they vary.
    """
    if isinstance(contract, VolumePreprocessing):
        return replace(contract, patch_size=size or contract.patch_size)
    return ExportedImages(**vars(contract), size=size)


def resized(planes: npt.NDArray[Any], size: Sequence[int]) -> FloatArray:
    """Return planes [C, H, W] at another height and width, as `Preprocessing` resizes: bilinear with antialiasing."""
    height, width = size
    found = np.empty((len(planes), height, width), np.float32)
    for plane, target in zip(planes, found, strict=True):
        picture = Image.fromarray(plane.astype(np.float32))
        target[:] = array_of(picture.resize((width, height), Image.Resampling.BILINEAR))
    return found
