"""Description of an exported file: its metadata."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segzoo import __version__, limits
from segzoo.checkpoints.codes import refuse_strange_codes
from segzoo.checkpoints.description import Description, optional_entries
from segzoo.checkpoints.entries import model_entry, refuse_strange_classes, refuse_strange_regions
from segzoo.checkpoints.facts import is_word, refuse_strange_data, require, require_object
from segzoo.checkpoints.parse import parse_json
from segzoo.errors import SegzooError, first_line
from segzoo.tasks import Task

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


DATA = ("dataset", "channels", "ranges")  # that a file says of what the model was trained on


class Metadata(Description):
    """Description of an exported file, enough to use it without the checkpoint."""

    subject = "its metadata"
    lacks = "lack"
    needed = frozenset({"model", "preprocessing", "num_classes", "multilabel", "class_names", "precision"})

    @classmethod
    def of(cls, model: "SegmentationNetwork", *, state_sha256: str, precision: str, details: Mapping[str, Any]) -> Self:
        """Describe a model that is exported.

        Args:
            model: trained.
            state_sha256: of its weights.
            precision: of the file.
            details: plain values to add, such as those of the checkpoint.
        """
        return cls.of_values(
            segzoo_version=__version__,
            model=model_entry(model),
            state_sha256=state_sha256,
            preprocessing=model.preprocessing.to_dict(),
            num_classes=model.num_classes,
            multilabel=model.multilabel,
            class_names=model.class_names,
            **optional_entries(model),
            **({"data": data} if (data := {name: model.data[name] for name in DATA if name in model.data}) else {}),
            **{**details, "precision": precision},
        )

    @classmethod
    def read(cls, path: Path, text: str | None) -> Self:
        """Read what an exported file says of itself.

        Raises:
            SegzooError: it says nothing, or not what `segzoo export` writes.
        """
        if text is None:
            raise SegzooError(f"{path} was not written by segzoo export, so nothing says what it takes and gives")
        try:
            return cls(parse_json(text, cls.subject))
        except ValueError as error:  # a SegzooError is one, too
            raise SegzooError(
                f"{path} was not written by segzoo export, or by another version of it; export it again "
                f"({first_line(error)})"
            ) from error

    def check(self, where: str | Path) -> None:
        """Refuse metadata that do not say what the file takes and gives."""
        for part in ("model", "checkpoint"):
            if not isinstance(self.entries.get(part, {}), dict):
                raise SegzooError(f"{where} give its {part} as {self.entries[part]!r}")
        number, multilabel = self.entries["num_classes"], self.entries["multilabel"]
        if type(number) is not int or type(multilabel) is not bool:
            raise SegzooError(f"num_classes is {number!r} and multilabel {multilabel!r}")
        require_object(where, "checkpoint's licences", self.licences)
        require(where, self.licences, self.licences, is_word, "a text", "licences' ")
        limits.CLASSES.check(number, f"{where} give")
        refuse_strange_regions(where, self.entries, Task(number, multilabel))
        refuse_strange_classes(where, self.entries["class_names"], self.task)
        refuse_strange_codes(where, self.entries.get("codes", {}))
        stored = self.entries["preprocessing"]
        known = isinstance(stored, dict) and type(stored.get("channels")) is int
        if known and self.spatial_dims == 2:
            size = stored.get("image_size", ())
            known = size is None or (isinstance(size, list) and [type(side) for side in size] == [int, int])
        if not known:
            raise SegzooError(f"{where} give its preprocessing as {stored!r}")
        assert self.contract
        require_object(where, "data", self.entries.get("data", {}))
        refuse_strange_data(where, self.data)
        self.refuse_strange_postprocessing(where)

    @property
    def name(self) -> str | None:
        """Name of the exported checkpoint or, without one, of the model."""
        return self.entries.get("checkpoint", {}).get("name") or self.entries["model"].get("name")

    @property
    def licences(self) -> dict[str, str | None]:
        """Licences of code, weights and data, as the checkpoint has them."""
        licences: dict[str, str | None] = self.entries.get("checkpoint", {}).get("licences", {})
        return licences

    @property
    def task(self) -> Task:
        """Number and kind of the classes."""
        return Task(self.entries["num_classes"], self.entries["multilabel"], self.region_values)

    @property
    def precision(self) -> str:
        """Type of the weights: float32, float16 or int8."""
        return str(self.entries["precision"])
