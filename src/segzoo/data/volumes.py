"""Volumes: base of their datasets, patches for training and whole volumes for evaluation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from segzoo.data.base import Item, SegmentationDataModule, evaluation_sampler, share_of_worker
from segzoo.data.samples import Sample
from segzoo.data.volume_augmentation import VolumeAugmentation
from segzoo.data.volume_dataset import (
    LabelValues,
    PatchDataset,
    VolumeDataset,
    read_image_volume,
    read_label_volume,
)
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import same_grid
from segzoo.imaging.nifti import require_form
from segzoo.imaging.volumes import read_geometry
from segzoo.preprocessing.volume import VolumePreprocessing

STATISTICS_VOXELS = 10_000  # of each volume's foreground, as nnU-Net samples them


class VolumeDataModule(SegmentationDataModule):
    """Base of all datasets of volumes; a subclass lists its samples and names its channels.

    Training sees random patches, validation and test whole volumes, one at a time. Labels that hold no foreground are
    refused, for they are mostly mistakes; ``allow_empty`` takes them.

    Args:
        root: As of `SegmentationDataModule`.
        patch_size: Voxels ``(d, h, w)`` of a training patch and of the sliding window; None is that of the model in the
            trainer, as for the four that follow.
        spacing: mm ``(d, h, w)`` to resample to; a new model keeps each volume's own.
        intensity: ``zscore`` (each volume by its own mean and standard deviation) or ``window`` (CT: clipped, then by
            the dataset's mean and standard deviation); a list of such words has one for each channel.
        window: Lowest and highest intensity of ``window``; where neither it nor the model says, the 0.5 and 99.5
            percentiles of the training part's foreground, whose mean and standard deviation are taken too. They become
            part of the checkpoint. Where ``intensity`` is a list, so are this and the two that follow, None for
            ``zscore``.
        mean: Mean of ``window``.
        std: Standard deviation of ``window``.
        batch_size: Patches in a training batch.
        patches_per_volume: Patches of each training volume in an epoch.
        foreground: Share of patches that are centred on a voxel of a class, all classes as likely.
        allow_empty: Accept cases whose label holds no foreground.
        geometry: Form that says where a NIfTI file's voxels lie, ``sform`` or ``qform``, where its header has both and
            they disagree, which else is refused.
        cache_gigabytes: Memory for preprocessed volumes, for each of train, val and test, shared out among the workers.
        augmentation: None is nnU-Net's as published; a `VolumeAugmentation` the same with other parameters; a list is
            callables from (image ``[C, *patch_size]``, label ``[*patch_size]``) to the same, [] none.
        **kwargs: As of `SegmentationDataModule`.

    Raises:
        SegzooError: If an argument is out of range.

    Example:
        >>> from segzoo.data import VolumeDataModule
        >>> from segzoo.data.samples import Sample
        >>> class Hippocampi(VolumeDataModule):
        ...     name, licence, url = "Hippocampi", "CC-BY-SA-4.0", ""
        ...     class_names, channel_names = ("background", "anterior", "posterior"), ("MRI",)
        ...     layout = ("imagesTr", "labelsTr")
        ...
        ...     def samples(self):
        ...         labels = sorted(self.find_root().glob("labelsTr/*.nii.gz"))
        ...         return [Sample(f.name, f.parents[1] / "imagesTr" / f.name, (f,), f.name) for f in labels]
        >>> data = Hippocampi(samples / "Task04_Hippocampus", patch_size=(16, 24, 16), augmentation=[])
        >>> batch = next(iter(data.train_dataloader()))
        >>> batch["image"].shape, batch["label"].shape
        (torch.Size([2, 1, 16, 24, 16]), torch.Size([2, 16, 24, 16]))
    """

    formats = "nii.gz, nii, nrrd, mha"
    channel_names: tuple[str, ...]
    region_values: tuple[int, ...] = ()  # as of a Task

    def __init__(
        self,
        root: str | Path,
        *,
        patch_size: tuple[int, int, int] | None = None,
        spacing: tuple[float, float, float] | None = None,
        intensity: Literal["zscore", "window"] | list[Literal["zscore", "window"]] | None = None,
        window: tuple[float, float] | list[tuple[float, float] | None] | None = None,
        mean: float | list[float | None] | None = None,
        std: float | list[float | None] | None = None,
        batch_size: int = 2,
        patches_per_volume: int = 1,
        foreground: float = 0.33,
        allow_empty: bool = False,
        geometry: Literal["sform", "qform"] | None = None,
        cache_gigabytes: float = 2.0,
        augmentation: VolumeAugmentation | list[Callable] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, batch_size=batch_size, **kwargs)
        if patches_per_volume < 1 or not 0 <= foreground <= 1 or cache_gigabytes < 0:
            raise SegzooError(
                "patches_per_volume must be at least 1, foreground between 0 and 1 and cache_gigabytes at least 0, not "
                f"{patches_per_volume}, {foreground} and {cache_gigabytes}."
            )
        # what of the input contract is asked for here; the rest is the model's
        self._asked: dict[str, Any] = {"patch_size": patch_size, "spacing": spacing, "intensity": intensity}
        self._asked |= {"window": window, "mean": mean, "std": std}
        self.patches_per_volume = patches_per_volume
        self.foreground = foreground
        self.allow_empty = allow_empty
        require_form(geometry)
        self.geometry = geometry
        self.cache_bytes = int(cache_gigabytes * 2**30)
        if augmentation is None:
            self.augmentation: list[Callable] = [VolumeAugmentation()]
        else:
            self.augmentation = [augmentation] if isinstance(augmentation, VolumeAugmentation) else list(augmentation)
        self._statistics: list[dict[str, Any]] | None = None

    @property
    def label_values(self) -> LabelValues:
        """Values that the label files may hold: one for each class."""
        return LabelValues(len(self.class_names), allow_empty=self.allow_empty)

    def describe(self) -> dict[str, Any]:
        """Add the channels to what the base says."""
        return super().describe() | {"channels": list(self.channel_names)}

    def check(self, sample: Sample) -> None:
        """Refuse a label that does not lie on its image, as far as their headers tell."""
        image, label = (read_geometry(path, geometry=self.geometry) for path in (sample.image, sample.masks[0]))
        if same_grid(image, label):
            return
        if image.shape != label.shape:
            differ = f"the shapes {label.shape} and {image.shape}"
        else:
            differ = f"other affines (they differ by up to {np.abs(label.affine - image.affine).max():.3g})"
        raise SegzooError(
            f"Label {sample.masks[0]} and its image {sample.image} have {differ}; resample the label onto the image's "
            "grid."
        )

    def size_of(self, sample: Sample) -> tuple[int, ...]:
        """Return depth, height and width of a sample's volume, as its header states them."""
        return read_geometry(sample.image, geometry=self.geometry).shape

    def label_of(self, sample: Sample) -> npt.NDArray[np.int16]:
        """Read a sample's label on its volume's own grid."""
        values = self.label_values
        stored = read_label_volume(sample, values, self.geometry)
        return values.target(torch.from_numpy(stored)).numpy().astype(np.int16) if values.regions else stored

    @property
    def preprocessing(self) -> VolumePreprocessing:
        """Input contract: what was asked for here, and for the rest that of the model in the trainer.

        Raises:
            SegzooError: If the model is of 2D images or of another number of channels.
        """
        channels = len(self.channel_names)
        module = getattr(self.trainer, "lightning_module", None)
        model = getattr(module, "preprocessing", None) or VolumePreprocessing(channels)
        if not isinstance(model, VolumePreprocessing):
            raise SegzooError(
                f"{self.root} holds volumes, and the model is one of 2D images; build it with spatial_dims=3, or train "
                "on slices saved as images (segzoo.data.Folder)."
            )
        if model.channels != channels:
            raise SegzooError(
                f"The volumes of {self.root} have {channels} channels ({', '.join(self.channel_names)}), and the model "
                f"takes {model.channels}; build it with in_channels={channels}."
            )
        asked = {key: value for key, value in self._asked.items() if value is not None}
        mirrors = [one.mirror_axes for one in self.augmentation if isinstance(one, VolumeAugmentation)]
        asked["mirror_axes"] = mirrors[-1] if mirrors else ()  # what a function of somebody's own does is not known
        return replace(model, **self._with_windows(asked, model))

    def _with_windows(self, asked: dict[str, Any], model: VolumePreprocessing) -> dict[str, Any]:
        """Add the windows that the intensities asked for need: the model's own, else those of this data."""
        kinds, channels = asked.get("intensity"), len(self.channel_names)
        several = kinds if isinstance(kinds, list) else [kinds] * channels
        if len(several) != channels:
            raise SegzooError(
                f"The volumes of {self.root} have {channels} channels ({', '.join(self.channel_names)}), and intensity "
                f"is given for {len(several)}: give one word, or one for each."
            )
        if set(several) == {"zscore"}:
            return asked | {"intensity": "zscore", "window": None, "mean": None, "std": None}
        if "window" not in several or "window" in asked:
            return asked
        if [one.kind for one in model.intensities] * (channels if model.alike else 1) == several:
            return {name: value for name, value in asked.items() if name != "intensity"}
        if several == [kinds]:
            return self.statistics[0] | asked
        found = [one if kind == "window" else {} for one, kind in zip(self.statistics, several, strict=True)]
        lists = {name: [one.get(name) for one in found] for name in ("window", "mean", "std")}
        return lists | asked | {"intensity": several}

    @property
    def statistics(self) -> list[dict[str, Any]]:
        """Window, mean and standard deviation of each channel, as nnU-Net takes them of CT.

        They are of the training part's foreground. The window is the 0.5 and 99.5 percentiles; mean and standard
        deviation are those before clipping.
        """
        if self._statistics is None:
            found = np.concatenate([self._foreground(sample) for sample in self.part_samples("train")], axis=1)
            self._statistics = [statistics_of(channel) for channel in found]
        return self._statistics

    def _foreground(self, sample: Sample) -> npt.NDArray[np.float64]:
        """Take some intensities [C, N] of a volume's foreground, evenly."""
        label = read_label_volume(sample, self.label_values, self.geometry)
        intensities = read_image_volume(sample, len(self.channel_names), self.geometry).array[:, label > 0]
        return intensities[:, :: max(1, intensities.shape[1] // STATISTICS_VOXELS)].astype(np.float64)

    def train_dataloader(self) -> DataLoader[Item]:
        """Load random patches of the training part, augmented; a volume comes ``patches_per_volume`` times an epoch."""
        patches = PatchDataset(
            *self._part("train"),
            cache_bytes=share_of_worker(self.cache_bytes, self.num_workers),
            geometry=self.geometry,
            patches_per_volume=self.patches_per_volume,
            foreground=self.foreground,
            augmentation=self.augmentation,
        )
        return self._loader(patches, shuffle=True)

    def _evaluation_loader(self, part: str) -> DataLoader[Item]:
        cache_bytes = share_of_worker(self.cache_bytes, self.num_workers)
        dataset = VolumeDataset(*self._part(part), cache_bytes=cache_bytes, geometry=self.geometry)
        return self._loader(dataset, batch_size=1, sampler=evaluation_sampler(self, dataset))

    def _part(self, part: str) -> tuple[list[Sample], VolumePreprocessing, LabelValues]:
        return self.part_samples(part), self.preprocessing, self.label_values


def source_of(sample: Sample, data: SegmentationDataModule) -> Any:
    """Return what ``predict`` takes for a sample: its image's path, or the volume that its files make."""
    if isinstance(data, VolumeDataModule) and (sample.channels or data.geometry is not None):
        return read_image_volume(sample, len(data.channel_names), data.geometry)
    return sample.image


def statistics_of(intensities: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return window, mean and standard deviation of some intensities."""
    low, high = np.percentile(intensities, (0.5, 99.5)).tolist()
    mean, std = float(intensities.mean()), float(intensities.std())
    return {"window": (round(low, 4), round(high, 4)), "mean": round(mean, 4), "std": round(std, 4)}
