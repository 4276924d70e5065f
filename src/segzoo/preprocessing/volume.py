"""Input contract of a model for volumes: orientation, spacing, intensities and patch size."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.arrays import as_volume
from segzoo.imaging.geometry import OPPOSITES, Geometry, axes_between
from segzoo.imaging.readers import Reader, reader_of
from segzoo.imaging.volumes import Volume, no_volume
from segzoo.preprocessing.base import Box, InputContract, Prepared, listed, numbers, sides
from segzoo.preprocessing.intensity import Intensity
from segzoo.preprocessing.ranges import Features, Ranges, percentiles
from segzoo.preprocessing.rows import resample_rows
from segzoo.tasks import require_count

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VolumePreprocessing(InputContract):
    """Way from a volume of raw intensities to a network's input, and back.

    Every tuple is in the order of the axes, ``(d, h, w)``.

    Args:
        channels: Of the volume.
        orientation: Where the network's axes lead to; "SAR" is superior, anterior and right, RAS in the order of files.
        spacing: Millimetres between the network's voxels; None keeps each volume's own.
        patch_size: Voxels of one window of the sliding window, and of a training patch.
        intensity: "zscore" subtracts each channel's mean and divides by its standard deviation, volume by volume;
            "window" clips to ``window`` (CT, in Hounsfield units), subtracts ``mean`` and divides by ``std``. A list of
            such words, one for each channel: then the three that follow are lists, too, with None for "zscore".
        window: Lowest and highest intensity, for "window" alone, as are:
        mean: Mean of the clipped intensities, in nnU-Net those of the training set's foreground.
        std: Their standard deviation.
        mirror_axes: Axes along which the network has seen mirrored volumes: test-time augmentation mirrors these.

    Raises:
        SegzooError: If a length or a value does not fit.

    Example:
        >>> import segzoo
        >>> from segzoo.imaging.geometry import Geometry
        >>> contract = segzoo.VolumePreprocessing(spacing=(2, 1, 1), patch_size=(16, 32, 32))
        >>> contract.grid(Geometry.along_axes((20, 50, 50), spacing=(1, 1, 2)))
        (10, 50, 100)
    """

    spatial_dims: ClassVar[int] = 3
    form: ClassVar[str] = "volumes [B, C, D, H, W]"

    channels: int = 1
    orientation: str = "SAR"
    spacing: tuple[float, ...] | None = None
    patch_size: tuple[int, ...] = (128, 128, 128)
    intensity: str | tuple[str, ...] = "zscore"
    window: tuple[float, ...] | tuple[tuple[float, ...] | None, ...] | None = None
    mean: float | tuple[float | None, ...] | None = None
    std: float | tuple[float | None, ...] | None = None
    mirror_axes: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        # JSON and YAML give lists; tuples keep the contract hashable and comparable.
        require_count("channels", self.channels)
        object.__setattr__(self, "patch_size", sides("patch_size", self.patch_size, 3))
        axes = listed("mirror_axes", self.mirror_axes)
        if not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):  # each doubles the work of a mirrored average
            raise SegzooError(f"mirror_axes must be among 0, 1 and 2, each once, not {axes}.")
        object.__setattr__(self, "mirror_axes", tuple(map(int, axes)))
        if self.spacing is not None:
            object.__setattr__(self, "spacing", numbers("spacing", self.spacing, positive=True))
        if not isinstance(self.orientation, str):
            raise SegzooError(f'orientation must be three letters, as "SAR", not {self.orientation!r}.')
        if len(self.orientation) != 3 or not all(set(pair) & set(self.orientation) for pair in OPPOSITES):
            raise SegzooError(
                f'orientation must name one of L/R, P/A and I/S each, as "SAR", not {self.orientation!r}.'
            )
        if self.spacing is not None and len(self.spacing) != 3:
            raise SegzooError(f"spacing must be three lengths above 0, not {list(self.spacing)}.")
        self._take_intensities()

    def _take_intensities(self) -> None:
        """Refuse intensities that do not fit; of those that do, take lists as tuples."""
        if self.alike:
            object.__setattr__(self, "window", self.intensities[0].window)
            return
        given = {name: getattr(self, name) for name in ("intensity", "window", "mean", "std")}
        for name, values in given.items():
            of_channels = (None,) * self.channels if values is None else values
            if not isinstance(of_channels, list | tuple) or len(of_channels) != self.channels:
                raise SegzooError(
                    f"intensity is given for each channel, so {name} must be a list of {self.channels}, one for each, "
                    f"not {values!r}."
                )
            object.__setattr__(self, name, tuple(of_channels))
        object.__setattr__(self, "window", tuple(one.window for one in self.intensities))

    @property
    def alike(self) -> bool:
        """True where the intensities of all channels are treated alike."""
        return not isinstance(self.intensity, list | tuple)

    @property
    def intensities(self) -> list[Intensity]:
        """Ways of the channels: one for each, or one for all of them."""
        if self.alike:
            return [Intensity(self.intensity, self.window, self.mean, self.std)]  # type: ignore[arg-type]
        values: Any = (self.intensity, self.window, self.mean, self.std)
        return [Intensity(*of_channel) for of_channel in zip(*values, strict=True)]

    # ---- read

    def read(self, source: Any) -> Volume:
        """Return a volume; an array [D, H, W] or [C, D, H, W] is taken to lie as the model wants it."""
        if isinstance(source, str | os.PathLike):
            source = reader_of(source)
        if isinstance(source, Reader):
            return source.for_volumes(self.channels)
        if isinstance(source, Image.Image):
            raise no_volume("a picture")
        return as_volume(source, self.spacing or (1.0, 1.0, 1.0), self.orientation)

    # ---- to the network

    def prepare(self, volume: Volume) -> Prepared:
        """Preprocess a volume."""
        return Prepared(volume.array, self(volume)[None], volume.geometry, volume.geometry)

    def __call__(self, volume: Volume) -> "Tensor":
        """Reorient, resample (trilinear) and normalise a volume.

        Returns:
            float32 tensor ``[C, *S]`` with S = ``grid(volume.geometry)``.

        Raises:
            SegzooError: If it has another number of channels.
        """
        import torch
        from torch.nn import functional as F

        if volume.array.shape[0] != self.channels:
            raise SegzooError(
                f"The volume has {volume.array.shape[0]} channels where the model expects {self.channels}."
            )
        image = reorient(torch.from_numpy(volume.array), volume.geometry.orientation, self.orientation)
        size = self.grid(volume.geometry)
        limits.require_memory(2 * 4 * self.channels * math.prod(size), "the volume on the network's grid")
        if image.shape[1:] != size:
            image = F.interpolate(image[None], size=size, mode="trilinear")[0]
        return self.normalize(image)

    def normalize(self, image: "Tensor") -> "Tensor":
        """Bring intensities ``[C, *S]`` to the network's range; a constant channel becomes 0."""
        if self.alike:
            return self.intensities[0].normalize(image)
        import torch

        return torch.cat([one.normalize(plane[None]) for one, plane in zip(self.intensities, image, strict=True)])

    def label(self, mask: npt.NDArray[np.integer], geometry: Geometry) -> "Tensor":
        """Bring class indices to the grid that the image is brought to, by nearest neighbour.

        Args:
            mask: Integers ``[D, H, W]``.
            geometry: Of the mask.

        Returns:
            int32 tensor ``[*S]``.
        """
        import torch
        from torch.nn import functional as F

        label = reorient(torch.from_numpy(mask.astype(np.int32)), geometry.orientation, self.orientation)
        size = self.grid(geometry)
        if label.shape != size:  # float32 holds all indices that files can
            label = F.interpolate(label[None, None].float(), size=size, mode="nearest-exact")[0, 0].int()
        return label

    # ---- and back

    def restore(self, probabilities: "Tensor", geometry: Geometry) -> "Tensor":
        """Bring a network's output back to a volume's own grid.

        Exact where only the orientation differs, else trilinear, one class at a time.

        Args:
            probabilities: ``[B, K, *S]``.
            geometry: Of the volume.

        Returns:
            ``[B, K, *geometry.shape]``.
        """
        from torch.nn import functional as F

        own = geometry.orientation
        own_size = tuple(geometry.shape[axis] for axis in self._own_axes(geometry))
        if probabilities.shape[2:] == own_size:
            return reorient(probabilities, self.orientation, own)
        restored = probabilities.new_empty(*probabilities.shape[:2], *geometry.shape)
        for index in range(probabilities.shape[1]):
            resampled = F.interpolate(probabilities[:, index : index + 1], size=own_size, mode="trilinear")
            restored[:, index] = reorient(resampled[:, 0], self.orientation, own)
        return restored

    def restore_along(self, parts: "Iterable[Tensor]", geometry: Geometry) -> "Iterator[tuple[Box, Tensor]]":
        """Bring rows of a network's output back to a volume's own grid, to the bit as `restore` brings all of it.

        Args:
            parts: float32 ``[1, K, rows, *S[1:]]``, in their order.
            geometry: Of the volume.

        Yields:
            A place in the volume, and what lies there, ``[1, K, d, h, w]``.
        """
        own = geometry.orientation
        axes, flips = axes_between(self.orientation, own)
        along = axes.index(0)  # the volume's axis that the rows go along
        size = [geometry.shape[axis] for axis in self._own_axes(geometry)]
        depth = self.grid(geometry)
        first = 0
        for part in parts if depth == tuple(size) else resample_rows(parts, depth[0], size):
            stop = first + part.shape[2]
            rows = slice(size[0] - stop, size[0] - first) if along in flips else slice(first, stop)
            place = tuple(rows if axis == along else slice(None) for axis in range(3))
            yield place, reorient(part, self.orientation, own)
            first = stop

    # ---- what inputs are like

    def features(self, given: Volume) -> Features:
        """Return the size, spacing and intensities of a volume, its axes in the network's order.

        Intensities are in standard deviations from the mean where the network sees them so.
        """
        axes, found = self._own_axes(given.geometry), list[float]()
        for channel, how in zip(given.array, self._by_channel(len(given.array)), strict=True):
            std, mean = (1, 0) if how.window else (float(channel.std()) or 1, float(channel.mean()))
            found += [float(f"{(one - mean) / std:.4g}") for one in percentiles(channel)]
        size, spacing = ([one[axis] for axis in axes] for one in (given.geometry.shape, given.geometry.spacing))
        return {"size": [*size], "spacing": [float(f"{one:.4g}") for one in spacing], "intensity": found}

    @property
    def expected(self) -> Ranges:
        """Spacings from half to twice the network's, and intensities that do not all lie on one side of a window."""
        found: dict[str, list[list[float]]] = {}
        if self.spacing is not None:
            found["spacing"] = [[side / 2 for side in self.spacing], [side * 2 for side in self.spacing]]
        windows = [how.window or (-math.inf, math.inf) for how in self._by_channel(self.channels)]
        least = [bound for low, _ in windows for bound in (-math.inf, -math.inf, low)]
        most = [bound for _, high in windows for bound in (high, math.inf, math.inf)]
        return found | {"intensity": [least, most]}

    def _by_channel(self, channels: int) -> list[Intensity]:
        """Return what is done to the intensities of each channel."""
        return self.intensities * (channels if len(self.intensities) == 1 else 1)

    # ---- grids

    def grid(self, geometry: Geometry) -> tuple[int, ...]:
        """Return the size of a volume on the network's grid: as many voxels as fit its extent, to the nearest.

        Raises:
            SegzooError: that would be more than any scan has, as where a header's spacing is wrong.
        """
        own = geometry.spacing
        size = tuple(
            max(1, round(geometry.shape[axis] * own[axis] / target))
            for axis, target in zip(self._own_axes(geometry), self.network_spacing(geometry), strict=True)
        )
        found = " x ".join(f"{side:g}" for side in own)
        limits.VOXELS.check(math.prod(size), f"the volume, of a spacing of {found} mm, has at the network's spacing")
        return size

    def network_spacing(self, geometry: Geometry) -> tuple[float, ...]:
        """Return millimetres between voxels on the network's grid of a volume."""
        return self.spacing or tuple(geometry.spacing[axis] for axis in self._own_axes(geometry))

    def _own_axes(self, geometry: Geometry) -> list[int]:
        """Return which axis of a volume each of the network's axes is."""
        return axes_between(geometry.orientation, self.orientation)[0]

    def with_channels(self, channels: int) -> "VolumePreprocessing":
        """Return the same contract for volumes of another number of channels, of which no window is known."""
        if self.alike or channels == self.channels:
            return replace(self, channels=channels)
        return replace(self, channels=channels, intensity="zscore", window=None, mean=None, std=None)

    # ---- for files and examples

    def require_size(self, given: Volume, size: tuple[int, ...], file: object, model: Path) -> None:
        """Refuse a volume with less on the network's grid than a window."""
        own = self.grid(given.geometry)
        if any(side < window for side, window in zip(own, size, strict=True)):
            raise SegzooError(
                f"{file} has {' x '.join(map(str, own))} voxels, fewer than the windows of "
                f"{' x '.join(map(str, size))} that {model} takes; segment it with the checkpoint"
            )

    def for_graph(self, given: Volume, size: Sequence[int] | None) -> "tuple[Tensor, Tensor]":
        """Return a preprocessed window, twice, its border repeated where the volume has less than the graph takes."""
        from torch.nn import functional as F

        depth, height, width = size or self.patch_size
        window = self(given)[None, :, :depth, :height, :width]
        if size is not None:
            depth, height, width = (side - own for side, own in zip(size, window.shape[2:], strict=True))
            window = F.pad(window, (0, width, 0, height, 0, depth), mode="replicate")
        return window, window

    def excerpt(self, image: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
        """Cut the middle out of a volume [C, D, H, W], as large as the model's patch."""
        box = []
        for side, wanted in zip(image.shape[1:], self.patch_size, strict=True):
            first = max(0, (side - wanted) // 2)
            box.append(slice(first, first + wanted))
        return image[:, *box]

    def noise(self) -> npt.NDArray[np.uint8]:
        """Return a volume of noise [C, D, H, W], as large as a patch."""
        noise = np.random.default_rng(0).integers(0, 256, (*self.patch_size, self.channels)).astype(np.uint8)
        return np.ascontiguousarray(np.moveaxis(noise, -1, 0))  # as files of tensors take it


def reorient(values: "Tensor", source: str, target: str) -> "Tensor":
    """Permute and flip the last three axes from one orientation to another; no value changes.

    Args:
        values: ``[..., D, H, W]``, its axes leading to ``source``.
        source: As "SAR".
        target: Where the result's axes lead to.
    """
    axes, flips = axes_between(source, target)
    lead = values.ndim - 3
    moved = values.permute(*range(lead), *(lead + axis for axis in axes))
    return moved.flip([lead + axis for axis in flips]) if flips else moved.contiguous()
