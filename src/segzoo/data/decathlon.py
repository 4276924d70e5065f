"""Volumes in the layouts of the Medical Segmentation Decathlon and of nnU-Net."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from segzoo.catalogue import DECATHLON, dataset_page
from segzoo.data.samples import Sample, check_groups, folder_identity
from segzoo.data.volume_dataset import LabelValues
from segzoo.data.volumes import VolumeDataModule
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.names import is_hidden, spelled_out
from segzoo.imaging.tables import read_groups
from segzoo.imaging.volumes import is_volume, volume_stem

DESCRIPTION = "dataset.json"
IGNORE = "ignore"  # nnU-Net's name for a value that marks voxels without a label
_HIPPOCAMPUS = re.compile(r"hippocampus_(\d+)")


class Decathlon(VolumeDataModule):
    """Task of the Medical Segmentation Decathlon, or any dataset in nnU-Net's raw layout.

    Layout: ``dataset.json``, ``imagesTr/<case>.nii.gz`` (or one file a channel: ``<case>_0000.nii.gz`` ...) and
    ``labelsTr/<case>.nii.gz``; NIfTI, NRRD or MHA. ``dataset.json`` names the labels (``{"0": "background", ...}`` or
    ``{"background": 0, ...}``, values 0, 1, 2 ...; nnU-Net's further label ``ignore`` is left out of loss and scores)
    and the channels (``modality`` or ``channel_names``); where it lists no ``training`` cases, all of ``labelsTr`` are.
    A volume of several channels is one 4D file, as the Decathlon has it, or one file a channel, as nnU-Net has it.

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
    def _labels(self) -> dict[int, str]:
        return label_names(self.description["labels"], self.root / DESCRIPTION)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the label values 0, 1, 2 ..."""
        return tuple(name for _, name in sorted(self._labels.items()) if name != IGNORE)

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
        ignored = next((value for value, name in self._labels.items() if name == IGNORE), None)
        return LabelValues(len(self.class_names), ignored, self.allow_empty)

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


def label_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Map label values to names, from either direction that ``dataset.json`` may have.

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
    return tuple(image.with_name(f"{case}_{channel:04}{ending}") for channel in range(channels))


def default_group(case: str) -> str:
    """Group of a case: its own name, but that the Decathlon's hippocampi 2k - 1 and 2k are one subject's."""
    match = _HIPPOCAMPUS.fullmatch(case)
    return f"subject {(int(match[1]) + 1) // 2}" if match else case


def _case_of(name: str) -> str:
    return volume_stem(name) if is_volume(name) else name
