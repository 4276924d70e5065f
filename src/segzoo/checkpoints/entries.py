"""Entries that descriptions of stored networks consist of: their types, and their checks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segzoo import limits
from segzoo.checkpoints.facts import are_labels, require
from segzoo.checkpoints.names import CONFIG, WEIGHTS
from segzoo.errors import SegzooError
from segzoo.registry import NOT_ARCHITECTURE, package_of
from segzoo.tasks import Task

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from segzoo.network import SegmentationNetwork

    P = TypeVar("P", bound=DataclassInstance)

PACKAGE_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"  # nothing else: it ends up in advice for the shell


# ---- types


@dataclass(frozen=True)
class Architecture:
    """Model of a checkpoint: its name, what builds it, and the package that it comes from if it is not the zoo's own.

    Example:
        >>> Architecture("lv_unet", {"num_classes": 3}).task
        Task(num_classes=3, multilabel=False)
    """

    name: str
    arguments: dict[str, Any]
    package: str | None = None

    @property
    def task(self) -> Task:
        """Number and kind of the classes."""
        return Task(self.arguments.get("num_classes", 1), self.arguments.get("multilabel", False))


@dataclass(frozen=True)
class Licences:
    """Licences of a checkpoint's parts, such as "CC0-1.0 + MIT"; None where none is stated."""

    code: str | None = None
    weights: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Metrics:
    """Scores that ``segzoo test`` measured.

    Attributes:
        images: number of them.
        original: metric -> score at the images' own resolution; "dice_1" is that of class 1.
        resized: likewise at the network's.
        protocols: metric -> words that say how it is counted.
    """

    images: int | None = None
    original: dict[str, float] = field(default_factory=dict)
    resized: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Example:
    """Origin and licence of the image that comes with a checkpoint."""

    source: str | None = None
    licence: str | None = None


def typed(kind: "type[P]", entries: Mapping[str, Any]) -> "P":
    """Read a dataclass from a JSON object; what it has no field for stays in the object."""
    return kind(**{one.name: entries[one.name] for one in fields(kind) if one.name in entries})


def model_entry(model: "SegmentationNetwork") -> dict[str, Any]:
    """Return what builds a model."""
    origin = package_of(model.model_name or "")
    return {"name": model.model_name, "arguments": model.arguments, **({"package": origin} if origin else {})}


# ---- checks


def refuse_strange_model(where: str | Path, model: Any) -> None:
    """Refuse all but a name and plain values: nothing that a config says is imported, run or opened."""
    if (
        not isinstance(model, dict)
        or set(model) - {"package"} != {"name", "arguments"}
        or not isinstance(model["arguments"], dict)
        or not isinstance(model["name"], str)
    ):
        raise SegzooError(f"{where} must give the model as its name and arguments, not as {model!r}")
    if "package" in model and not (isinstance(model["package"], str) and re.fullmatch(PACKAGE_NAME, model["package"])):
        raise SegzooError(f"{where} names the package {model['package']!r}, which none is called; do not use it")
    numbers = [number for value in model["arguments"].values() for number in numbers_in(value)]
    limits.MODEL_NUMBERS.check(len(numbers), f"{where} gives its model")
    for name, value in model["arguments"].items():
        limits.MODEL_NUMBER.check(max(map(abs, numbers_in(value)), default=0), f"{where} gives {name} as")
        if name in NOT_ARCHITECTURE or not is_plain(value):
            raise SegzooError(
                f"{where} asks for {name}={value!r}, but a checkpoint may only say what its model is, in numbers, "
                "words and lists of them; do not use it"
            )
        if name in ("in_channels", "num_classes") and type(value) is not int:
            raise SegzooError(f"{where} must give {name} as a whole number, not as {value!r}; fetch it again")
        if name == "num_classes" and value < 1:
            raise SegzooError(f"{where} must give {name} as at least 1, not as {value!r}; fetch it again")
        if name == "num_classes":
            limits.CLASSES.check(value, f"{where} asks for")
        if name == "multilabel" and type(value) is not bool:
            raise SegzooError(f"{where} must give multilabel as true or false, not as {value!r}; fetch it again")


def is_plain(value: Any) -> bool:
    """Return whether a JSON value is a number, a word, null, or a list of them."""
    return all(map(is_plain, value)) if isinstance(value, list) else not isinstance(value, dict)


def numbers_in(value: Any) -> list[int | float]:
    """Return the numbers of a JSON value, lists gone through."""
    if isinstance(value, list):
        return [number for one in value for number in numbers_in(one)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def refuse_strange_classes(where: str | Path, names: Any, task: Task) -> None:
    """Refuse names that are not those of all values of a mask or, in multi-label, of all masks."""
    if not task.fits(names):
        raise SegzooError(
            f"{where} must name the model's {task.named_classes} classes as a list of words, not as {names!r}"
        )


def refuse_strange_regions(where: str | Path, entries: Mapping[str, Any], task: Task) -> None:
    """Refuse values of regions that are not one for each mask of a multi-label task."""
    require(where, entries, ("region_values",), are_labels, "a list of whole numbers above 0")
    values = entries.get("region_values")
    if values and not (task.multilabel and len(values) == task.num_classes):
        raise SegzooError(f"{where} must give region_values for each mask of a multi-label model, not {values!r}")


def refuse_strange_files(where: str | Path, hashes: Any, weights: Sequence[str] = (WEIGHTS,)) -> None:
    """Refuse files that do not lie directly beside the config, and weights that it does not vouch for."""
    for name in weights:
        if not isinstance(hashes, dict) or name not in hashes:
            raise SegzooError(f"{where} lists no sha256 for {name}, so the weights cannot be trusted")
    limits.FILES.check(len(hashes), f"{where} lists")
    for name, digest in hashes.items():
        if not isinstance(digest, str):
            raise SegzooError(f"{where} lists no sha256 for {name!r}, but {str(digest)[:100]}; fetch it again")
        if name in (CONFIG, "", ".", "..") or any(mark in name for mark in "/\\:"):
            raise SegzooError(
                f"{where} lists the file {name!r}, which is not one beside it; do not use this checkpoint"
            )
