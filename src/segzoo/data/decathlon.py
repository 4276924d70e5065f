"""Volumes in the layouts of the Medical Segmentation Decathlon and of nnU-Net."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import DataLoader

from segzoo.data.base import SegmentationDataModule
from segzoo.data.samples import Sample, check_groups, folder_identity, read_groups
from segzoo.data.volume_augmentation import VolumeAugmentation
from segzoo.data.volume_dataset import (
    LabelValues,
    PatchDataset,
    VolumeDataset,
    read_image_volume,
    read_label_volume,
)
from segzoo.errors import MissingError, SegzooError
from segzoo.geometry import same_grid
from segzoo.provenance import dataset_page
from segzoo.volume_preprocessing import VolumePreprocessing
from segzoo.volumes import is_volume, read_geometry, volume_stem

DESCRIPTION = "dataset.json"
IGNORE = "ignore"  # nnU-Net's name for a value that marks voxels without a label
STATISTICS_VOXELS = 10_000  # of each volume's foreground, as nnU-Net samples them
_HIPPOCAMPUS = re.compile(r"hippocampus_(\d+)")


class Decathlon(SegmentationDataModule):
    """A task of the Medical Segmentation Decathlon, or any dataset in nnU-Net's raw layout.

    Layout: ``dataset.json``, ``imagesTr/<case>.nii.gz`` (or one file a channel: ``<case>_0000.nii.gz`` ...) and
    ``labelsTr/<case>.nii.gz``; NIfTI, NRRD or MHA. ``dataset.json`` names the labels (``{"0": "background", ...}`` or
    ``{"background": 0, ...}``, values 0, 1, 2 ...; nnU-Net's further label ``ignore`` is left out of loss and scores)
    and the channels (``modality`` or ``channel_names``); where it lists no ``training`` cases, all of ``labelsTr`` are.
    A volume of several channels is one 4D file, as the Decathlon has it, or one file a channel, as nnU-Net has it.

    Training sees random patches, validation and test whole volumes, one at a time. Labels that hold no foreground are
    refused, for they are mostly mistakes; ``allow_empty`` takes them. In the ``grouped`` split each case is a group of
    its own, but for the Decathlon's hippocampus, whose cases 2k - 1 and 2k look like the two sides of one subject.

    Licence: each task's own; those of the Decathlon are CC-BY-SA 4.0. Citation: M. Antonelli et al. The Medical
    Segmentation Decathlon. Nature Communications 13 (2022) 4128.

    Args:
        root: The task's folder.
        split: As of `SegmentationDataModule`.
        fold: As of `SegmentationDataModule`.
        groups: CSV file with the columns ``image`` (case or file name) and ``group`` (say, the patient): a ``grouped``
            split never parts a group.
        patch_size: Voxels ``(d, h, w)`` of a training patch and of the sliding window; None is that of the model in the
            trainer, as for the four that follow.
        spacing: mm ``(d, h, w)`` to resample to; a new model keeps each volume's own.
        intensity: ``zscore`` (each volume by its own mean and standard deviation) or ``window`` (CT: clipped, then by
            the dataset's mean and standard deviation).
        window: Lowest and highest intensity of ``window``; where neither it nor the model says, the 0.5 and 99.5
            percentiles of the training part's foreground, whose mean and standard deviation are taken too. They become
            part of the checkpoint.
        mean: Mean of ``window``.
        std: Standard deviation of ``window``.
        batch_size: Patches in a training batch.
        patches_per_volume: Patches of each training volume in an epoch.
        foreground: Share of patches that are centred on a voxel of a class, all classes as likely.
        allow_empty: Accept cases whose label holds no foreground.
        cache_gigabytes: Memory for preprocessed volumes, for each of train, val and test, shared out among the workers.
        num_workers: Processes that load volumes; 0 loads in the main process.
        seed: Seed of the split; the order of training, the patches and their augmentation follow torch's own.
        augmentation: None is nnU-Net's as published; a `VolumeAugmentation` the same with other parameters; a list is
            callables from (image ``[C, *patch_size]``, label ``[*patch_size]``) to the same, [] none.

    Raises:
        SegzooError: If an argument is out of range.
    """

    name = "Decathlon"
    url = "http://medicaldecathlon.com"
    layout = ("imagesTr", "labelsTr")
    formats = "nii.gz, nii, nrrd, mha"

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "grouped",
        fold: int = 0,
        groups: str | Path | None = None,
        patch_size: tuple[int, int, int] | None = None,
        spacing: tuple[float, float, float] | None = None,
        intensity: Literal["zscore", "window"] | None = None,
        window: tuple[float, float] | None = None,
        mean: float | None = None,
        std: float | None = None,
        batch_size: int = 2,
        patches_per_volume: int = 1,
        foreground: float = 0.33,
        allow_empty: bool = False,
        cache_gigabytes: float = 2.0,
        num_workers: int = 0,
        seed: int = 42,
        augmentation: VolumeAugmentation | list[Callable] | None = None,
    ) -> None:
        super().__init__(root, split=split, fold=fold, batch_size=batch_size, num_workers=num_workers, seed=seed)
        if patches_per_volume < 1 or not 0 <= foreground <= 1 or cache_gigabytes < 0:
            raise SegzooError(
                "patches_per_volume must be at least 1, foreground between 0 and 1 and cache_gigabytes at least 0, not "
                f"{patches_per_volume}, {foreground} and {cache_gigabytes}."
            )
        self.groups = None if groups is None else Path(groups)
        # what of the input contract is asked for here; the rest is the model's
        self._asked: dict[str, Any] = {"patch_size": patch_size, "spacing": spacing, "intensity": intensity}
        self._asked |= {"window": window, "mean": mean, "std": std}
        self.patches_per_volume = patches_per_volume
        self.foreground = foreground
        self.allow_empty = allow_empty
        self.cache_bytes = int(cache_gigabytes * 2**30)
        if augmentation is None:
            self.augmentation = [VolumeAugmentation()]
        else:
            self.augmentation = [augmentation] if isinstance(augmentation, VolumeAugmentation) else list(augmentation)
        self._statistics: dict[str, Any] | None = None

    # -- what the folder holds -----------------------------------------------------------------------------------

    @cached_property
    def description(self) -> dict[str, Any]:
        """The content of ``dataset.json``.

        Raises:
            MissingError: If it is not there.
            SegzooError: If it cannot be read or lacks the labels.
        """
        path = self.find_root() / DESCRIPTION
        if not path.is_file():
            raise MissingError(f"{self.root} holds no {DESCRIPTION}, which names its labels and channels.")
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise SegzooError(f"{path} is not JSON ({error}).") from error
        if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
            raise SegzooError(
                f"{path} must be an object with the entry 'labels', as the Decathlon and nnU-Net have it."
            )
        return content

    @cached_property
    def _labels(self) -> dict[int, str]:
        return label_names(self.description["labels"], self.root / DESCRIPTION)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the label values 0, 1, 2 ..."""
        return tuple(name for _, name in sorted(self._labels.items()) if name != IGNORE)

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the images' channels."""
        found = self.description.get("channel_names") or self.description.get("modality") or {"0": "image"}
        if not isinstance(found, dict) or not all(str(key).isdigit() for key in found):
            raise SegzooError(
                f'{self.root / DESCRIPTION} must name its channels by their numbers, as in {{"0": "MRI"}}, not {found}.'
            )
        return tuple(str(found[key]) for key in sorted(found, key=int))

    @property
    def label_values(self) -> LabelValues:
        """What the label files may hold."""
        ignored = next((value for value, name in self._labels.items() if name == IGNORE), None)
        return LabelValues(len(self.class_names), ignored, self.allow_empty)

    @cached_property
    def licence(self) -> str:  # type: ignore[override]
        """The licence that ``dataset.json`` states, in SPDX's spelling."""
        stated = self.description.get("licence") or self.description.get("license") or "unknown"
        return re.sub(r"\s+", "-", str(stated).strip())

    def samples(self) -> list[Sample]:
        """Every case that has a label."""
        root = self.find_root()
        groups = {} if self.groups is None else read_groups(self.groups, _case_of)
        cases = list_cases(root, self.description, len(self.channel_names))
        if self.groups is not None:
            check_groups(self.groups, groups, [case for case, _, _ in cases])
        return [
            Sample(case, images[0], (label,), groups.get(case, default_group(case)), channels=images[1:])
            for case, label, images in cases
        ]

    # -- how volumes become input --------------------------------------------------------------------------------

    @property
    def preprocessing(self) -> VolumePreprocessing:  # type: ignore[override]
        """How volumes become input: what was asked for here, and for the rest that of the model in the trainer.

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
        if asked.get("intensity") == "zscore":
            asked |= {"window": None, "mean": None, "std": None}
        elif asked.get("intensity") == "window" and model.window is None and "window" not in asked:
            asked = self.statistics | asked
        return replace(model, **asked)

    @property
    def statistics(self) -> dict[str, Any]:
        """``window``, ``mean`` and ``std`` of the training part's foreground, as nnU-Net takes them of CT.

        The window is the 0.5 and 99.5 percentiles; mean and standard deviation are those before clipping.

        Raises:
            SegzooError: If the volumes have several channels.
        """
        if len(self.channel_names) > 1:
            raise SegzooError(
                f"intensity='window' is for CT, and the volumes of {self.root} have {len(self.channel_names)} channels."
            )
        if self._statistics is None:
            found = np.concatenate([self._foreground(sample) for sample in self._part_samples("train")])
            low, high = np.percentile(found, (0.5, 99.5)).tolist()
            mean, std = float(found.mean()), float(found.std())
            self._statistics = {"window": (round(low, 4), round(high, 4)), "mean": round(mean, 4), "std": round(std, 4)}
        return self._statistics

    def _foreground(self, sample: Sample) -> np.ndarray:
        """Some intensities of a volume's foreground, evenly taken."""
        intensities = read_image_volume(sample, 1).array[0][read_label_volume(sample, self.label_values) > 0]
        return intensities[:: max(1, len(intensities) // STATISTICS_VOXELS)].astype(np.float64)

    def describe(self) -> dict[str, Any]:
        """As the base, by the name of the folder, with the channels, and what one that is not published is known by."""
        facts = super().describe() | {"dataset": self.root.resolve().name, "channels": list(self.channel_names)}
        return facts if dataset_page(facts) else facts | folder_identity(self.root, self.used_samples())

    def check(self, sample: Sample) -> None:
        """Refuse a label that does not lie on its image, as far as their headers tell."""
        image, label = read_geometry(sample.image), read_geometry(sample.masks[0])
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
        """Depth, height and width of a sample's volume, as its header states them."""
        return read_geometry(sample.image).shape

    def check_pixels(self, part: str, channels: int) -> None:
        """Nothing: to read all volumes would take as long as a training of images does."""

    # -- loaders -------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        """Random patches of the training volumes, augmented; a volume comes ``patches_per_volume`` times an epoch."""
        patches = PatchDataset(
            *self._part("train"),
            cache_bytes=self._share_of_worker(self.cache_bytes),
            patches_per_volume=self.patches_per_volume,
            foreground=self.foreground,
            augmentation=self.augmentation,
        )
        return self._loader(patches, shuffle=True)

    def _evaluation_loader(self, part: str) -> DataLoader[Any]:
        """Whole volumes of any size, one at a time, each once."""
        dataset = VolumeDataset(*self._part(part), cache_bytes=self._share_of_worker(self.cache_bytes))
        return self._loader(dataset, batch_size=1, sampler=self._evaluation_sampler(dataset))

    def _part(self, part: str) -> tuple[list[Sample], VolumePreprocessing, LabelValues]:
        return self._part_samples(part), self.preprocessing, self.label_values

    def _part_samples(self, part: str) -> list[Sample]:
        ids = self.split_ids[part]
        assert self._samples is not None
        return [self._samples[case] for case in ids]


# ---- the layouts


def label_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Label value -> name, from either direction that ``dataset.json`` may have.

    Args:
        labels: ``{"0": "background", ...}`` (the Decathlon, nnU-Net v1) or ``{"background": 0, ...}`` (nnU-Net v2).
        path: Of the file, for messages.

    Raises:
        SegzooError: If the values are not 0, 1, 2 ..., names repeat, or a label is a region (several values).
    """
    if any(isinstance(value, list) for value in labels.values()):
        raise SegzooError(f"{path} defines regions (labels of several values), which segzoo does not train yet.")
    by_value = all(str(key).isdigit() for key in labels)
    if not by_value and not all(str(value).isdigit() for value in labels.values()):
        raise SegzooError(
            f'{path} must give every label a number, as in {{"background": 0, "tumour": 1}}, not {labels}.'
        )
    pairs = [(int(key), str(name)) if by_value else (int(name), str(key)) for key, name in labels.items()]
    if sorted(value for value, _ in pairs) != list(range(len(pairs))) or len({name for _, name in pairs}) < len(pairs):
        raise SegzooError(
            f"{path} names the label values {sorted(value for value, _ in pairs)}; they must be 0 (background), 1, 2 "
            "... without gaps, each with a name of its own: renumber the labels."
        )
    found = dict(sorted(pairs))
    if len(found) < 2 or IGNORE in list(found.values())[:-1]:
        raise SegzooError(f"{path} must name a background and a class, and {IGNORE!r}, if any, as the highest value.")
    return found


def list_cases(root: Path, description: Mapping[str, Any], channels: int) -> list[tuple[str, Path, tuple[Path, ...]]]:
    """Name, label and image files of every case that ``dataset.json`` lists or, if it lists none, of every label.

    Args:
        root: The task's folder.
        description: The content of its ``dataset.json``.
        channels: Of the images.

    Raises:
        MissingError: If a file is not there.
        SegzooError: If ``dataset.json`` lists a case twice or in another form.
    """
    ending = description.get("file_ending")
    try:
        if isinstance(description.get("dataset"), dict):  # nnU-Net v2, where the files lie anywhere
            cases = [
                (case, root / files["label"], tuple(root / image for image in files["images"]))
                for case, files in description["dataset"].items()
            ]
        elif description.get("training"):  # the Decathlon and nnU-Net v1
            pairs = [(root / entry["label"], root / entry["image"]) for entry in description["training"]]
            cases = [(_case_of(label.name), label, channel_files(image, channels)) for label, image in pairs]
        else:
            labels = sorted(path for path in (root / "labelsTr").iterdir() if not path.name.startswith("."))
            labels = [path for path in labels if (path.name.endswith(ending) if ending else is_volume(path))]
            cases = [
                (_case_of(path.name), path, channel_files(root / "imagesTr" / path.name, channels)) for path in labels
            ]
    except (KeyError, TypeError) as error:
        raise SegzooError(
            f"{root / DESCRIPTION} lists its cases in a form that is neither the Decathlon's nor nnU-Net's ({error!r})."
        ) from error
    repeated = [case for case, count in Counter(case for case, _, _ in cases).items() if count > 1]
    if repeated:
        raise SegzooError(f"{root} has the case {repeated[0]} twice; keep one of them.")
    for case, label, images in cases:
        for path in (label, *images):
            if not path.is_file():
                raise MissingError(f"Case {case} of {root} lacks its file {path}.")
    return cases


def channel_files(image: Path, channels: int) -> tuple[Path, ...]:
    """The file of a case where there is one, else one file a channel: ``<case>_0000.nii.gz``, ``<case>_0001...``."""
    if image.is_file():
        return (image,)
    case = _case_of(image.name)
    ending = image.name[len(case) :]
    return tuple(image.with_name(f"{case}_{channel:04}{ending}") for channel in range(channels))


def default_group(case: str) -> str:
    """A case is a group of its own, but that the Decathlon's hippocampi 2k - 1 and 2k are one subject's."""
    match = _HIPPOCAMPUS.fullmatch(case)
    return f"subject {(int(match[1]) + 1) // 2}" if match else case


def _case_of(name: str) -> str:
    return volume_stem(name) if is_volume(name) else name
