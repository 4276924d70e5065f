"""Input contracts of exported files, without torch for images: what is left to do outside of the graph."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ExportedImages(Preprocessing):
    """Contract of a file for images, whose graph resizes and normalises them itself.

    Args:
        size: sides that the file takes, where images are resized outside of it; None where they vary.
    """

    size: tuple[int, ...] | None = None

    def __call__(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        """Return raw intensities [C, H, W] at the size that the file takes."""
        planes = image.transpose(2, 0, 1).astype(np.float32)
        return resized(planes, self.size or planes.shape[1:])

    def restore(self, probabilities: FloatArray, size: Sequence[int]) -> FloatArray:
        """Bring probabilities [B, K, H, W] to the image's own size."""
        return np.stack([resized(planes, size) for planes in probabilities])


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


def resized(planes: FloatArray, size: Sequence[int]) -> FloatArray:
    """Return planes [C, H, W] at another height and width, as `Preprocessing` resizes: bilinear with antialiasing."""
    height, width = size
    if planes.shape[1:] == (height, width):
        return planes
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(plane).resize((width, height), bilinear)) for plane in planes])
