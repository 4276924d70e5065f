"""The input contract of a model: channels, size and normalisation, stored in a checkpoint's config.json."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.errors import SegzooError
from segzoo.preprocessing.base import InputContract

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing(InputContract):
    """From a raw 8-bit image to a network's input.

    Args:
        channels: 1 is grey, 3 is RGB, any other number means exactly that many.
        image_size: Height and width the network sees, or one number for both; None keeps the image's own size.
        mean: Mean of each channel, on intensities scaled to 0..1.
        std: Standard deviation of each channel, on the same scale.

    Raises:
        SegzooError: If a length or a value does not fit.
    """

    spatial_dims: ClassVar[int] = 2
    patch_size: ClassVar[None] = None  # an image is segmented in one piece
    mirror_axes: ClassVar[tuple[int, ...]] = (0, 1)

    channels: int = 3
    image_size: tuple[int, ...] | None = (256, 256)  # an int becomes two
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        # JSON and YAML give lists; tuples keep the contract hashable and comparable.
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if self.image_size is not None:
            sides = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
            object.__setattr__(self, "image_size", tuple(int(v) for v in sides))
            if len(self.image_size) != 2 or min(self.image_size) < 1:
                raise SegzooError(f"image_size must be a height and a width, not {list(self.image_size)}.")
        if self.channels < 1:
            raise SegzooError(f"channels must be 1 or more, not {self.channels}.")
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found != self.channels:
                raise SegzooError(f"{name} must hold one value for each of the {self.channels} channels, not {found}.")
        if min(self.std) <= 0:
            raise SegzooError(f"std must be above 0 in every channel, not {list(self.std)}.")

    def resize(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Bring an image to the network's size, bilinear with antialiasing; nothing is rounded.

        Args:
            image: uint8 array ``[H, W, C]``.

        Returns:
            float32 tensor ``[C, *image_size]``, intensities 0..255.

        Raises:
            SegzooError: If the image is not of that form or has another number of channels.
        """
        if image.dtype != np.uint8 or image.ndim != 3:
            raise SegzooError(f"Expected a uint8 image [H, W, C], not {image.dtype} of shape {list(image.shape)}.")
        if image.shape[2] != self.channels:
            raise SegzooError(f"The image has {image.shape[2]} channels where the model expects {self.channels}.")
        tensor = torch.from_numpy(np.array(image.transpose(2, 0, 1), np.float32, order="C"))
        if self.image_size is None or tensor.shape[1:] == self.image_size:
            return tensor
        return F.interpolate(tensor[None], size=list(self.image_size), mode="bilinear", antialias=True)[0]

    def normalize(self, image: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation.

        Args:
            image: Intensities 0..255, ``[..., C, H, W]``, uint8 or floating point.

        Returns:
            float32 tensor of the same shape.
        """
        mean = torch.tensor(self.mean, device=image.device).mul_(255.0)[:, None, None]
        std = torch.tensor(self.std, device=image.device).mul_(255.0)[:, None, None]
        # One copy, then in place: this runs once for every training image.
        return image.to(torch.float32, copy=True).sub_(mean).div_(std)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """Resize and normalise a uint8 image ``[H, W, C]`` to float32 ``[C, *image_size]``."""
        return self.normalize(self.resize(image))

    def restore(self, probabilities: Tensor, size: Sequence[int]) -> Tensor:
        """Bring a network's output back to the image's own grid, bilinear.

        Args:
            probabilities: ``[B, K, *image_size]``.
            size: The image's own height and width.

        Returns:
            ``[B, K, *size]``.
        """
        if tuple(probabilities.shape[2:]) == tuple(size):
            return probabilities
        height, width = size
        if width == 1:  # to which PyTorch repeats the first row; on its side it does not
            return F.interpolate(probabilities.mT, size=(width, height), mode="bilinear", antialias=True).mT
        return F.interpolate(probabilities, size=(height, width), mode="bilinear", antialias=True)

    @classmethod
    def for_channels(
        cls, channels: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> "Preprocessing":
        """RGB statistics for images of ``channels``: their average for grey, repeated in turn for more channels."""
        if channels == len(mean):
            return cls(channels, mean=tuple(mean), std=tuple(std))
        if channels == 1:
            return cls(1, mean=(sum(mean) / len(mean),), std=(sum(std) / len(std),))
        turns = [channel % len(mean) for channel in range(channels)]
        return cls(channels, mean=tuple(mean[turn] for turn in turns), std=tuple(std[turn] for turn in turns))

    def with_channels(self, channels: int) -> "Preprocessing":
        """The same contract for images of another number of channels."""
        return replace(self.for_channels(channels, self.mean, self.std), image_size=self.image_size)
