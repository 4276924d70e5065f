"""Input contract of a model for images: channels, size and normalisation."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.arrays import as_volume
from segzoo.imaging.images import as_image, scaled
from segzoo.imaging.overlay import to_uint8
from segzoo.imaging.readers import Reader, reader_of
from segzoo.imaging.volumes import Volume
from segzoo.preprocessing.base import InputContract, Prepared, numbers, sides
from segzoo.preprocessing.ranges import Features, Ranges, percentiles
from segzoo.tasks import require_count

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = 2**23  # values of an image that are resized at once; a larger one channel by channel, for its memory
BATCH_SLICES = 8  # of a volume, that are segmented together
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing(InputContract):
    """Way from a raw 8-bit image to a network's input, and back.

    Args:
        channels: 1 is grey, 3 is RGB, any other number means exactly that many.
        image_size: Height and width the network sees, or one number for both; None keeps the image's own size.
        mean: Mean of each channel, on intensities scaled to 0..1.
        std: Standard deviation of each channel, on the same scale.
        intensity_range: Of images of more than 8 bits and of volumes, the stored values that become 0 and 255, for a
            scanner that uses 12 or 14 of 16 bits; None is the full range of 16 bits, and of a volume's values.

    Raises:
        SegzooError: If a length or a value does not fit.

    Example:
        >>> import numpy as np
        >>> import segzoo
        >>> contract = segzoo.Preprocessing(channels=1, image_size=(32, 48), mean=(0.5,), std=(0.25,))
        >>> contract(np.full((10, 20, 1), 255, np.uint8)).shape
        torch.Size([1, 32, 48])
    """

    spatial_dims: ClassVar[int] = 2
    form: ClassVar[str] = "images [B, C, H, W]"
    patch_size: ClassVar[None] = None  # an image is segmented in one piece
    mirror_axes: ClassVar[tuple[int, ...]] = (0, 1)

    channels: int = 3
    image_size: tuple[int, ...] | None = (256, 256)  # an int becomes two
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    intensity_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # JSON and YAML give lists; tuples keep the contract hashable and comparable.
        require_count("channels", self.channels)
        object.__setattr__(self, "mean", numbers("mean", self.mean))
        object.__setattr__(self, "std", numbers("std", self.std, positive=True))
        if self.image_size is not None:
            both = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
            object.__setattr__(self, "image_size", sides("image_size", both, 2))
        for name in ("mean", "std"):
            found = len(getattr(self, name))
            if found != self.channels:
                raise SegzooError(f"{name} must hold one value for each of the {self.channels} channels, not {found}.")
        if self.intensity_range is not None:
            object.__setattr__(self, "intensity_range", as_range(self.intensity_range))

    # ---- read

    def read(self, source: Any) -> npt.NDArray[np.uint8] | Volume:
        """Return an image [H, W, C], or a volume, which is gone through slice by slice."""
        if isinstance(source, str | os.PathLike):
            source = reader_of(source)
        asked = (self.channels,) if self.intensity_range is None else (self.channels, self.intensity_range)
        if isinstance(source, Reader):
            return source.for_images(*asked)
        if isinstance(source, Volume):
            return as_volume(source)
        if isinstance(source, Image.Image) or np.ndim(source) != 4:
            return as_image(source, *asked)
        if self.channels in np.shape(source)[1::2]:
            raise SegzooError(
                f"An array of shape {list(np.shape(source))} is a batch of images, or a volume of {self.channels} "
                "slices; give images one by one, and such a volume as segzoo.volumes.Volume."
            )
        return as_volume(source)

    # ---- to the network

    def prepare(self, given: npt.NDArray[np.uint8] | Volume) -> Prepared:
        """Preprocess an image; the slices of a volume follow when they are asked for."""
        if isinstance(given, Volume):
            return Prepared(given.array, None, given.geometry.shape[1:], given.geometry, Slices(self, given.array))
        batch = self(given)[None]
        return Prepared(given, batch, given.shape[:2], key=tuple(batch.shape))

    def resize(self, image: npt.NDArray[np.uint8]) -> "Tensor":
        """Bring an image to the network's size, bilinear with antialiasing; nothing is rounded.

        Args:
            image: uint8 array ``[H, W, C]``.

        Returns:
            float32 tensor ``[C, *image_size]``, intensities 0..255.

        Raises:
            SegzooError: If the image is not of that form or has another number of channels.
        """
        import torch
        from torch.nn import functional as F

        if image.dtype != np.uint8 or image.ndim != 3:
            raise SegzooError(f"Expected a uint8 image [H, W, C], not {image.dtype} of shape {list(image.shape)}.")
        if image.shape[2] != self.channels:
            raise SegzooError(f"The image has {image.shape[2]} channels where the model expects {self.channels}.")
        if self.image_size is None or self.image_size == image.shape[:2]:
            return torch.from_numpy(np.array(image.transpose(2, 0, 1), np.float32, order="C"))
        if image.size <= TOGETHER:
            planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
            return F.interpolate(planes, size=list(self.image_size), mode="bilinear", antialias=True)[0]
        found = torch.empty(self.channels, *self.image_size)
        for i, channel in enumerate(found):  # one at a time: in float32 a picture takes four times its memory
            plane = torch.from_numpy(image[None, None, ..., i].astype(np.float32))
            channel.copy_(F.interpolate(plane, size=list(self.image_size), mode="bilinear", antialias=True)[0, 0])
            del plane  # before the next one is made
        return found

    def normalize(self, image: "Tensor") -> "Tensor":
        """Subtract the mean and divide by the standard deviation.

        Args:
            image: Intensities 0..255, ``[..., C, H, W]``, uint8 or floating point.

        Returns:
            float32 tensor of the same shape.
        """
        import torch

        mean = torch.tensor(self.mean, device=image.device).mul_(255.0)[:, None, None]
        std = torch.tensor(self.std, device=image.device).mul_(255.0)[:, None, None]
        # One copy, then in place: this runs once for every training image.
        return image.to(torch.float32, copy=True).sub_(mean).div_(std)

    def __call__(self, image: npt.NDArray[np.uint8]) -> Any:
        """Resize and normalise a uint8 image ``[H, W, C]`` to float32 ``[C, *image_size]``."""
        return self.normalize(self.resize(image))

    # ---- and back

    def restore(self, probabilities: Any, size: Sequence[int]) -> Any:
        """Bring a network's output back to the image's own grid, bilinear.

        Args:
            probabilities: ``[B, K, *image_size]``.
            size: The image's own height and width.

        Returns:
            ``[B, K, *size]``.
        """
        if tuple(probabilities.shape[2:]) == tuple(size):
            return probabilities
        from torch.nn import functional as F

        height, width = size
        if width == 1:  # to which PyTorch repeats the first row; on its side it does not
            return F.interpolate(probabilities.mT, size=(width, height), mode="bilinear", antialias=True).mT
        return F.interpolate(probabilities, size=(height, width), mode="bilinear", antialias=True)

    # ---- what inputs are like

    def features(self, given: npt.NDArray[np.uint8] | Volume) -> Features:
        """Return the channels, height, width and intensities (0..255) of an image; of a volume its slices' size."""
        if isinstance(given, Volume):
            return {"size": [*given.geometry.shape[1:]]}
        alike = (given[..., 1:] == given[..., :1]).all()
        channels = 1 if alike else given.shape[2]
        return {"channels": [channels], "size": [*given.shape[:2]], "intensity": percentiles(given)}

    @property
    def expected(self) -> Ranges:
        """Sides at least half as long as those that the network sees, and any brightness but none."""
        least, most = -math.inf, math.inf
        found: dict[str, list[list[float]]] = {"intensity": [[least, least, 1], [254, most, most]]}
        return found | ({"size": [[side / 2 for side in self.image_size], [most, most]]} if self.image_size else {})

    # ---- other contracts

    @classmethod
    def for_channels(
        cls, channels: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> "Preprocessing":
        """Return RGB statistics for images of ``channels``: their average for grey, in turn for more channels."""
        if channels == len(mean):
            return cls(channels, mean=tuple(mean), std=tuple(std))
        if channels == 1:
            return cls(1, mean=(sum(mean) / len(mean),), std=(sum(std) / len(std),))
        turns = [channel % len(mean) for channel in range(channels)]
        return cls(channels, mean=tuple(mean[turn] for turn in turns), std=tuple(std[turn] for turn in turns))

    def with_channels(self, channels: int) -> "Preprocessing":
        """Return the same contract for images of another number of channels."""
        other = self.for_channels(channels, self.mean, self.std)
        return replace(self, channels=channels, mean=other.mean, std=other.std)

    def with_intensity_range(self, values: tuple[float, float]) -> Self:
        """Return the same contract for images whose stored values of this range become 0..255."""
        return replace(self, intensity_range=values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.json, without a range that nobody stated."""
        found = super().to_dict()
        if self.intensity_range is None:
            del found["intensity_range"]
        return found

    # ---- for files and examples

    def require_size(
        self, given: npt.NDArray[np.uint8] | Volume, size: tuple[int, ...], file: object, model: Path
    ) -> None:
        """Refuse an image of neither the file's size nor, as the network resizes it itself, the network's own."""
        own = given.geometry.shape[1:] if isinstance(given, Volume) else given.shape[:2]
        if size not in (own, self.image_size):
            raise SegzooError(
                f"{file} is {' x '.join(map(str, own))} and {model} takes only {' x '.join(map(str, size))}; export "
                "it again without --size"
            )

    def for_graph(self, given: Any, size: Sequence[int] | None) -> "tuple[Tensor, Tensor]":
        """Return raw intensities, which the graph preprocesses itself, and the network's input."""
        import torch
        from torch.nn import functional as F

        x = torch.from_numpy(given.transpose(2, 0, 1).astype(np.float32))[None]
        if size is None:
            return x, self(given)[None]
        x = F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True).round()
        return x, self(x[0].permute(1, 2, 0).numpy().astype(np.uint8))[None]

    def excerpt(self, image: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
        """Reduce an image [H, W, C] so that no side is longer than ``most``."""
        scale = most / max(image.shape[:2])
        if scale >= 1:
            return image
        size = tuple(max(1, round(side * scale)) for side in reversed(image.shape[:2]))
        channels = [np.asarray(Image.fromarray(channel).resize(size)) for channel in np.moveaxis(image, -1, 0)]
        return np.stack(channels, axis=-1)

    def noise(self) -> npt.NDArray[np.uint8]:
        """Return an image of noise [H, W, C]."""
        return np.random.default_rng(0).integers(0, 256, (256, 256, self.channels)).astype(np.uint8)


def as_range(values: Any) -> tuple[float, float]:
    """Return an intensity range as two numbers.

    Raises:
        SegzooError: it is no pair of finite numbers that rises.
    """
    wrong = SegzooError(f"intensity_range must be a lowest and a higher value, such as 0 and 4095, not {values!r}.")
    try:
        low, high = numbers("intensity_range", values)
    except (TypeError, ValueError) as error:
        raise wrong from error
    if low >= high:
        raise wrong
    return low, high


class Slices:
    """Slices of a volume along its first axis as a model for images sees them, in batches made when their turn comes.

    Args:
        contract: of the model.
        volume: intensities [C, D, H, W]; of uint8 what is seen, as it is.
    """

    def __init__(self, contract: Preprocessing, volume: npt.NDArray[Any]) -> None:
        self.contract, self.volume = contract, volume

    def __len__(self) -> int:
        return -(-self.volume.shape[1] // BATCH_SLICES)

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        stated = self.contract.intensity_range
        seen = self.volume.dtype == np.uint8  # as of a film, whose frames are pictures
        intensities = self.volume if seen else to_uint8(self.volume) if stated is None else scaled(self.volume, *stated)
        for start in range(0, self.volume.shape[1], BATCH_SLICES):
            some = intensities[:, start : start + BATCH_SLICES].transpose(1, 2, 3, 0)
            yield np.stack([self.contract(as_image(one, self.contract.channels)) for one in some])
