"""Volumes of one part of a split: whole for evaluation, in patches for training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segzoo.data.samples import IGNORED, Sample
from segzoo.data.volume_augmentation import VolumeAugmentation, cut_patch
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.nifti import Form
from segzoo.imaging.volume_files import read_files
from segzoo.imaging.volumes import Volume, read_volume_mask
from segzoo.preprocessing.volume import VolumePreprocessing

PLACES = 10_000  # voxels of a class that a patch may be centred on, kept for each volume

Item = dict[str, Any]
PatchTransform = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LabelValues:
    """Meaning of the values of a dataset's label files.

    Args:
        classes: Number of values, the background included; a label holds 0..classes-1.
        ignored: A further value that marks voxels to leave out; None is none.
        allow_empty: Accept labels that hold the background only.
        regions: Values that make up each class where classes overlap (multi-label); none where each value is a class.
    """

    classes: int
    ignored: int | None = None
    allow_empty: bool = False
    regions: tuple[tuple[int, ...], ...] = ()

    def target(self, label: Tensor) -> Tensor:
        """Return what a network is to find in a label of stored values.

        Args:
            label: ``[*S]``, -1 where ignored.

        Returns:
            The same as long; of regions float ``[K, *S]``, 1 in a region, 0 outside, -1 where ignored.
        """
        if not self.regions:
            return label.long()
        found = torch.stack([torch.isin(label, label.new_tensor(values)) for values in self.regions]).float()
        return found.masked_fill_(label < 0, IGNORED)


@dataclass(frozen=True)
class Case:
    """Volume as it is kept in memory.

    Args:
        image: float32 ``[C, *S]``, preprocessed.
        label: int16 ``[*S]``, -1 where ignored.
        original_label: The label on the volume's own grid, int16.
        geometry: Of the volume's own grid.
    """

    image: Tensor
    label: Tensor
    original_label: Tensor
    geometry: Geometry

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return self.image.nbytes + self.label.nbytes + self.original_label.nbytes


def read_image_volume(sample: Sample, channels: int, geometry: Form | None = None) -> Volume:
    """Read all channels of a sample, from one file or from one file each.

    Raises:
        SegzooError: If a file cannot be read, or the files of one volume do not lie on one grid.
    """
    return read_files((sample.image, *sample.channels), channels, geometry)


def read_label_volume(sample: Sample, values: LabelValues, geometry: Form | None = None) -> np.ndarray:
    """Read the values of a sample's label on its own grid, int16 ``[D, H, W]``, -1 where ignored.

    Raises:
        SegzooError: If the file cannot be read, holds a value that is not a class, or holds no foreground.
    """
    path = sample.masks[0]
    mask, _ = read_volume_mask(path, geometry=geometry)
    ignored = mask == values.ignored if values.ignored is not None else np.zeros(mask.shape, bool)
    wrong = (mask >= values.classes) & ~ignored
    if wrong.any():
        raise SegzooError(
            f"Label {path} holds the value {int(mask[wrong][0])}, and dataset.json names the values "
            f"0..{values.classes - 1}; correct one of the two."
        )
    label = mask.astype(np.int16)
    label[ignored] = IGNORED
    if not values.allow_empty and not (label > 0).any():
        raise SegzooError(
            f"Label {path} holds no foreground; leave the case out, or set allow_empty=True if there is nothing to "
            "segment in it."
        )
    return label


def read_case(
    sample: Sample, preprocessing: VolumePreprocessing, values: LabelValues, geometry: Form | None = None
) -> Case:
    """Read, check and preprocess a volume and its label, which must be known to lie on one grid."""
    volume = read_image_volume(sample, preprocessing.channels, geometry)
    label = read_label_volume(sample, values, geometry)
    return Case(
        preprocessing(volume),
        preprocessing.label(label, volume.geometry).to(torch.int16),
        torch.from_numpy(label),
        volume.geometry,
    )


class VolumeDataset(Dataset[Item]):
    """Whole volumes, preprocessed, with their labels on both grids.

    An item holds ``image`` (float32 ``[C, *S]``), ``label`` (long ``[*S]``, of regions float ``[K, *S]``), ``id``,
    ``original_label`` (likewise, on the volume's own grid), ``geometry`` (that grid) and ``spacing`` (mm between the
    voxels of ``image``).

    Args:
        samples: Samples to read.
        preprocessing: Channels, orientation, spacing and intensities.
        values: Meaning of the labels' values.
        cache_bytes: Memory for what was read and preprocessed.
        geometry: As of `segzoo.volumes.read_volume`.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: VolumePreprocessing,
        values: LabelValues,
        *,
        cache_bytes: int,
        geometry: Form | None = None,
    ) -> None:
        self.samples = list(samples)
        self.preprocessing = preprocessing
        self.values = values
        self.cache_bytes = cache_bytes
        self.geometry = geometry
        self._cache: dict[int, Case] = {}
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        case = self.case(index)
        return {
            "image": case.image,
            "label": self.values.target(case.label),
            "id": self.samples[index].id,
            "original_label": self.values.target(case.original_label),
            "geometry": case.geometry,
            "spacing": self.preprocessing.network_spacing(case.geometry),
        }

    def case(self, index: int) -> Case:
        """Read a volume, or take it from memory where there was room for it."""
        if index in self._cache:
            return self._cache[index]
        case = read_case(self.samples[index], self.preprocessing, self.values, self.geometry)
        if self._cached_bytes + case.nbytes <= self.cache_bytes:
            self._cache[index] = case
            self._cached_bytes += case.nbytes
        return case


class PatchDataset(VolumeDataset):
    """Random patches of volumes: ``image`` float32 ``[C, *patch_size]``, ``label`` as of `VolumeDataset`, ``id``.

    Where a volume is smaller than the patch it lies in its middle; around it its border is repeated, which the label
    marks as ignored.

    Args:
        samples: As of `VolumeDataset`.
        preprocessing: As of `VolumeDataset`, and the size of the patches.
        values: As of `VolumeDataset`.
        cache_bytes: As of `VolumeDataset`.
        geometry: As of `VolumeDataset`.
        patches_per_volume: Patches of each volume in an epoch.
        foreground: Probability that a patch is centred on a voxel of a class that its volume holds, all of these as
            likely; else it lies anywhere.
        augmentation: Applied in order to image and label of a patch; of a `VolumeAugmentation` the rotation and scaling
            come first, while the patch is cut.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: VolumePreprocessing,
        values: LabelValues,
        *,
        cache_bytes: int,
        geometry: Form | None = None,
        patches_per_volume: int = 1,
        foreground: float = 0.0,
        augmentation: Sequence[PatchTransform] = (),
    ) -> None:
        super().__init__(samples, preprocessing, values, cache_bytes=cache_bytes, geometry=geometry)
        self.patches_per_volume = patches_per_volume
        self.foreground = foreground
        self.augmentation = list(augmentation)
        self._places: dict[int, list[Tensor]] = {}

    def __len__(self) -> int:
        return len(self.samples) * self.patches_per_volume

    def __getitem__(self, index: int) -> Item:
        index %= len(self.samples)
        case = self.case(index)
        start = self._draw_start(index, case.label)
        matrix = None
        for transform in self.augmentation:
            if isinstance(transform, VolumeAugmentation):
                matrix = transform.draw_matrix(self.preprocessing.network_spacing(case.geometry))
        image, label = cut_patch(case.image, case.label, start, self.preprocessing.patch_size, matrix)
        for transform in self.augmentation:
            image, label = transform(image, label)
        return {"image": image, "label": self.values.target(label), "id": self.samples[index].id}

    def _draw_start(self, index: int, label: Tensor) -> list[int]:
        """Draw the first voxel of a patch that leaves as little of it outside the volume as possible."""
        patch = self.preprocessing.patch_size
        rooms = [side - length for side, length in zip(label.shape, patch, strict=True)]
        starts = [int(torch.randint(room + 1, ())) if room > 0 else -(-room // 2) for room in rooms]
        if torch.rand(()) < self.foreground and (places := self._foreground_places(index, label)):
            voxels = places[int(torch.randint(len(places), ()))]
            voxel = voxels[int(torch.randint(len(voxels), ()))].tolist()
            wanted = [position - length // 2 for position, length in zip(voxel, patch, strict=True)]
            starts = [
                min(max(want, 0), room) if room > 0 else start
                for want, room, start in zip(wanted, rooms, starts, strict=True)
            ]
        return starts

    def _foreground_places(self, index: int, label: Tensor) -> list[Tensor]:
        """List the voxels ``[n, 3]`` of each class that the volume holds, evenly thinned to `PLACES`."""
        if index not in self._places:
            foreground = (label > 0).nonzero()
            classes = label[tuple(foreground.T)]
            of_class = [foreground[classes == value] for value in classes.unique()]
            self._places[index] = [
                voxels[:: -(-len(voxels) // PLACES)].to(torch.int16, copy=True) for voxels in of_class
            ]
        return self._places[index]
