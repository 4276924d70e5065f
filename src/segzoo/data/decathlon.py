"""Volumes in the layouts of the Medical Segmentation Decathlon and of nnU-Net."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from segzoo.catalogue import DECATHLON, dataset_page
from segzoo.data.dataset_json import Labels, read_labels
from segzoo.data.samples import Sample, check_groups, folder_identity
from segzoo.data.volume_dataset import LabelValues
from segzoo.data.volumes import VolumeDataModule
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.names import is_hidden, spelled_out
from segzoo.imaging.pairing import channel_stem
from segzoo.imaging.tables import read_groups
from segzoo.imaging.volumes import VOLUME_SUFFIXES, is_volume, volume_stem

DESCRIPTION = "dataset.json"
_HIPPOCAMPUS = re.compile(r"hippocampus_(\d+)")


class Decathlon(VolumeDataModule):
    """Task of the Medical Segmentation Decathlon, or any dataset in nnU-Net's raw layout.

    Layout: ``dataset.json``, ``imagesTr/<case>.nii.gz`` (or one file a channel: ``<case>_0000.nii.gz`` ...) and
    ``labelsTr/<case>.nii.gz``; NIfTI, NRRD or MHA. ``dataset.json`` names the labels (``{"0": "background", ...}`` or
    ``{"background": 0, ...}``, values 0, 1, 2 ...; nnU-Net's further label ``ignore`` is left out of loss and scores)
    and the channels (``modality`` or ``channel_names``); where it lists no ``training`` cases, all of ``labelsTr`` are.
    A volume of several channels is one 4D file, as the Decathlon has it, or one file a channel, as nnU-Net has it.

    Labels may be regions, lists of values such as ``{"background": 0, "whole": [1, 2], "core": 2}``: each is a class of
    its own, which may overlap with others (multi-label), and predictions are written as one file of the values that
    ``regions_class_order`` gives to the regions, each over those before it.

    In the ``grouped`` split each case is a group of its own, but for the Decathlon's hippocampus, whose cases 2k - 1
    and 2k look like the two sides of one subject.

    Licence: each task's own; those of the Decathlon are CC-BY-SA 4.0. Citation: M. Antonelli et al. The Medical
    Segmentation Decathlon. Nature Communications 13 (2022) 4128.

    Args:
        root: The task's folder.
        groups: CSV file with the columns ``image`` (case or file name) and ``group`` (say, the patient): a ``grouped``
            split never parts a group.
        **kwargs: As of `VolumeDataModule`.

    Raises:
        SegzooError: If an argument is out of range.

    Example:
        >>> from segzoo.data import Decathlon
        >>> data = Decathlon(samples / "Task04_Hippocampus", split="all", patch_size=(32, 48, 32))
        >>> data.class_names, data.channel_names
        (('background', 'Anterior', 'Posterior'), ('MRI',))
        >>> volume = next(iter(data.test_dataloader()))
        >>> volume["id"], volume["image"].shape, volume["spacing"]
        (['hippocampus_148'], torch.Size([1, 1, 32, 48, 34]), [(1.0, 1.0, 1.0)])
    """

    name = "Decathlon"
    url = DECATHLON
    layout = ("imagesTr", "labelsTr")

    def __init__(self, root: str | Path, *, groups: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(root, **kwargs)
        self.groups = None if groups is None else Path(groups)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Content of ``dataset.json``.

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
    def _labels(self) -> Labels:
        return read_labels(self.description, self.root / DESCRIPTION)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the label values 0, 1, 2 ... or, where there are regions, of these."""
        return self._labels.names

    @property
    def multilabel(self) -> bool:  # type: ignore[override]
        """True where the labels are regions, which may overlap."""
        return bool(self._labels.regions)

    @property
    def region_values(self) -> tuple[int, ...]:  # type: ignore[override]
        """Values that predicted regions are written as, each over those before it; none where there are no regions."""
        return self._labels.region_values

    @cached_property
    def channel_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the images' channels."""
        found = self.description.get("channel_names") or self.description.get("modality") or {"0": "image"}
        if not isinstance(found, dict) or not all(str(key).isdigit() for key in found):
            raise SegzooError(
                f'{self.root / DESCRIPTION} must name its channels by their numbers, as in {{"0": "MRI"}}, not {found}.'
            )
        return tuple(str(found[key]) for key in sorted(found, key=int))

    @property
    def label_values(self) -> LabelValues:
        """Values that the label files may hold."""
        labels = self._labels
        return LabelValues(labels.values, labels.ignored, self.allow_empty, labels.regions)

    @cached_property
    def licence(self) -> str:  # type: ignore[override]
        """Licence that ``dataset.json`` states, in SPDX's spelling."""
        stated = self.description.get("licence") or self.description.get("license") or "unknown"
        return re.sub(r"\s+", "-", str(stated).strip())

    def samples(self) -> list[Sample]:
        """List every case that has a label."""
        root = self.find_root()
        groups = {} if self.groups is None else read_groups(self.groups, _case_of)
        cases = list_cases(root, self.description, len(self.channel_names))
        if self.groups is not None:
            check_groups(self.groups, groups, [case for case, _, _ in cases])
        return [
            Sample(case, images[0], (label,), groups.get(case, default_group(case)), channels=images[1:])
            for case, label, images in cases
        ]

    def describe(self) -> dict[str, Any]:
        """Add to the base: the folder's name and, unless it is that of a published task, the identity of its files."""
        facts = super().describe() | {"dataset": spelled_out(self.root.resolve().name)}
        return facts if dataset_page(facts) else facts | folder_identity(self.root, self.used_samples())


# ---- the layouts


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
    if ending and not is_volume(f"case{ending}"):
        raise SegzooError(
            f"{root / DESCRIPTION} says that its files end in {ending}, and volumes end in "
            f"{', '.join(VOLUME_SUFFIXES)}; images are read by --data Folder --data.images 'imagesTr/*_0000{ending}' "
            "--data.masks labelsTr."
        )
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
            labels = sorted(path for path in (root / "labelsTr").iterdir() if not is_hidden(path))
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
    """Find the file of a case or, where there is none, one a channel: ``<case>_0000.nii.gz``, ``<case>_0001...``."""
    if image.is_file():
        return (image,)
    case = _case_of(image.name)
    ending = image.name[len(case) :]
    return tuple(image.with_name(f"{channel_stem(case, channel)}{ending}") for channel in range(channels))


def default_group(case: str) -> str:
    """Group of a case: its own name, but that the Decathlon's hippocampi 2k - 1 and 2k are one subject's."""
    match = _HIPPOCAMPUS.fullmatch(case)
    return f"subject {(int(match[1]) + 1) // 2}" if match else case


def _case_of(name: str) -> str:
    return volume_stem(name) if is_volume(name) else name
