"""Descriptions of stored networks: JSON objects with a typed face.

A checkpoint's config.json, the entry in Lightning's files and the metadata of exported files are of this kind. The
object itself is kept: entries that this version does not know stay in it, and one that nobody changed is written byte
for byte as it was read. Reading needs no torch.
"""

import json
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from segzoo.checkpoints.facts import (
    are_labels,
    is_count,
    refuse_strange_data,
    refuse_strange_facts,
    require,
    require_object,
    require_words,
)
from segzoo.checkpoints.parse import require_plain
from segzoo.errors import SegzooError
from segzoo.postprocessing import Postprocessing
from segzoo.tasks import Task

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork
    from segzoo.preprocessing.image import Preprocessing
    from segzoo.preprocessing.volume import VolumePreprocessing


@dataclass(frozen=True)
class Description:
    """Entries that say what a stored network takes and gives, and where it comes from.

    Args:
        entries: the JSON object.
        where: subject of messages, such as the file's path.
        content: the file that they were read from, as it was then; nothing for those made here.

    Raises:
        SegzooError: it lacks an entry, or one is not what it must be.
    """

    subject: ClassVar[str]  # of sentences, where nothing else is given
    lacks: ClassVar[str] = "lacks"
    needed: ClassVar[frozenset[str]]

    entries: dict[str, Any]
    where: InitVar[str | Path] = ""
    content: bytes = field(default=b"", repr=False, compare=False)

    def __post_init__(self, where: str | Path) -> None:
        where = where or self.subject
        if not isinstance(self.entries, dict):
            raise SegzooError(f"{where} {self.lacks} everything")
        if missing := self.needed - set(self.entries):
            raise SegzooError(f"{where} {self.lacks} {', '.join(sorted(missing))}")
        require_plain(self.entries, where)
        self.check(where)

    def check(self, where: str | Path) -> None:
        """Refuse entries that cannot be used."""

    @classmethod
    def of_values(cls, **entries: Any) -> Self:
        """Describe by values of Python, NumPy or PyTorch, as JSON has them."""
        return cls(json.loads(json.dumps(entries, default=python_number)))

    # ---- what all of them say

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Input contract as it is stored."""
        stored: dict[str, Any] = self.entries["preprocessing"]
        return stored

    @property
    def spatial_dims(self) -> int:
        """Number of axes of the input: 2 of images, 3 of volumes."""
        return 3 if "patch_size" in self.preprocessing else 2

    @property
    def volume_channels(self) -> int:
        """Number of channels that it takes of a volume, whose slices are grey to a model of RGB images."""
        channels = self.preprocessing.get("channels")
        return channels if isinstance(channels, int) and (self.spatial_dims, channels) != (2, 3) else 1

    @cached_property
    def contract(self) -> "Preprocessing | VolumePreprocessing":
        """Input contract.

        Raises:
            SegzooError: a part of it is unknown or does not fit.
        """
        from segzoo.preprocessing.stored import preprocessing_from_dict

        return preprocessing_from_dict(self.preprocessing)

    @cached_property
    def postprocessing(self) -> Postprocessing:
        """Post-processing that belongs to its predictions.

        Raises:
            SegzooError: a part of it is unknown or does not fit.
        """
        if self.task is None or self.entries.get("postprocessing") is None:
            return Postprocessing()
        return Postprocessing.from_dict(self.entries["postprocessing"], self.task, self.class_names, self.spatial_dims)

    @property
    def task(self) -> Task | None:
        """Number and kind of the classes; None where nothing but the network says them."""
        return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of all values of a mask or, in multi-label, of all masks."""
        return tuple(self.entries["class_names"])

    @property
    def region_values(self) -> tuple[int, ...]:
        """Values that the classes of a multi-label mask are written as, into one file; none: a file each."""
        return tuple(self.entries.get("region_values") or ())

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.task.mask_names(self.class_names) if self.task else None

    @property
    def codes(self) -> dict[str, Any]:
        """Codes of classes that it states, as of `segzoo.checkpoints.codes.codes_of`."""
        return dict(self.entries.get("codes", {}))

    @property
    def data(self) -> dict[str, Any]:
        """Description of what it was trained on, by the DataModule."""
        return dict(self.entries.get("data", {}))

    @property
    def licence(self) -> str | None:
        """Licence of the weights."""
        return self.entries.get("licence")

    def refuse_strange_postprocessing(self, where: str | Path) -> None:
        """Refuse post-processing that is none, or that this version does not know."""
        try:
            tuned = self.postprocessing.tuned
        except SegzooError as error:
            raise SegzooError(f"{where} cannot be used: {error}") from error
        require_object(where, "post-processing's data", tuned.get("data", {}))
        refuse_strange_data(where, tuned.get("data", {}))
        require(where, tuned, ("images",), is_count, "a whole number", "post-processing's ")

    def give_to(self, model: "SegmentationNetwork") -> None:
        """Give a model the input contract, the classes and the provenance.

        Raises:
            SegzooError: the contract is not one.
        """
        contract = self.contract
        same = contract.channels == model.in_channels
        model.preprocessing = contract if same else contract.with_channels(model.in_channels)
        task = replace(model.task, region_values=())
        if self.task is None or replace(self.task, region_values=()) == task:  # a new head has other classes
            model.class_names, model.postprocessing = self.class_names, self.postprocessing
            model.task, model.codes = replace(task, region_values=self.region_values), self.codes
        model.data, model.licence = self.data, self.licence


class Learned(Description):
    """Entry in Lightning's own files: what a model has learned besides its weights."""

    subject = "the entry 'segzoo' of Lightning's file"
    needed = frozenset({"preprocessing", "class_names", "data"})

    def check(self, where: str | Path) -> None:
        """Refuse what no training has kept."""
        refuse_strange_facts(where, self.entries)
        require_words(where, "class_names", self.entries["class_names"])
        require(where, self.entries, ("region_values",), are_labels, "a list of whole numbers above 0")

    @classmethod
    def of(cls, model: "SegmentationNetwork") -> Self:
        """Describe a model in training."""
        return cls.of_values(**contract_entries(model), data=model.data, licence=model.licence)


def contract_entries(model: "SegmentationNetwork") -> dict[str, Any]:
    """Return what a model takes and gives."""
    stated = {"preprocessing": model.preprocessing.to_dict(), "class_names": model.class_names}
    return stated | optional_entries(model)


def optional_entries(model: "SegmentationNetwork") -> dict[str, Any]:
    """Return values of its regions, codes of its classes and post-processing of a model; of each that it has."""
    entries = {"region_values": model.task.region_values, "codes": model.codes}
    entries["postprocessing"] = model.postprocessing.to_dict() if model.postprocessing else {}
    return {name: value for name, value in entries.items() if value}


def python_number(value: Any) -> int | float:
    """Return a NumPy or PyTorch scalar as a number of Python's, which is what JSON takes."""
    number: int | float = value.item()
    return number
