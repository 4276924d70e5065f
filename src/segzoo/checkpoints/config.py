"""Description of a checkpoint: its config.json."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segzoo import __version__, limits
from segzoo.checkpoints.codes import refuse_strange_codes
from segzoo.checkpoints.description import Description, contract_entries
from segzoo.checkpoints.entries import (
    Architecture,
    Example,
    Licences,
    Metrics,
    model_entry,
    refuse_strange_classes,
    refuse_strange_files,
    refuse_strange_model,
    refuse_strange_regions,
    typed,
)
from segzoo.checkpoints.facts import refuse_strange_facts
from segzoo.checkpoints.members import Member, members_entry, refuse_strange_members
from segzoo.checkpoints.names import CONFIG, WEIGHTS
from segzoo.checkpoints.parse import parse_json, read_bytes
from segzoo.errors import SegzooError
from segzoo.postprocessing import Postprocessing
from segzoo.tasks import Task

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

# of config.json; a higher one is what an older segzoo could not read
FORMAT, FORMAT_OF_ENSEMBLES, FORMAT_OF_POSTPROCESSING = 1, 2, 3
FIRST_VERSION = "1.0"


class Config(Description):
    """Description of a checkpoint: its config.json."""

    subject = CONFIG
    lacks = "is no segzoo checkpoint's config: it lacks"
    needed = frozenset({"format", "model", "preprocessing", "class_names", "sha256"})

    @classmethod
    def of(
        cls,
        model: "SegmentationNetwork",
        *,
        name: str,
        version: str,
        started_from: Mapping[str, str],
        metrics: Mapping[str, Any],
        licences: Licences,
        sha256: Mapping[str, str],
    ) -> Self:
        """Describe a model that is saved.

        Args:
            model: with a name.
            name: of the checkpoint.
            version: of the checkpoint.
            started_from: option of the recipe -> weights that the training started from.
            metrics: what ``segzoo test`` measured.
            licences: of code, weights and data.
            sha256: of every file beside the config, the weights among them.
        """
        members = members_entry(model)
        return cls.of_values(
            format=format_of(bool(members), model.postprocessing),
            segzoo_version=__version__,
            name=name,
            version=version,
            model=model_entry(model),
            **({"members": members} if members else {}),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            **contract_entries(model),
            data=model.data,
            **({"started_from": started_from} if started_from else {}),
            metrics=metrics,
            licences=asdict(licences),
            sha256=sha256,
        )

    def changed(self, **entries: Any) -> Self:
        """Return a config with other entries."""
        return self.of_values(**{**self.entries, **entries})

    def with_postprocessing(self, described: Postprocessing, **entries: Any) -> Self:
        """Return a config with other post-processing, or with none, and other entries."""
        kept = {name: value for name, value in self.entries.items() if name != "postprocessing"}
        after = {"postprocessing": described.to_dict()} if described else {}
        return self.of_values(**{**kept, "format": format_of(bool(self.members), described), **after, **entries})

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.entries, indent=2, ensure_ascii=False) + "\n"

    def check(self, where: str | Path) -> None:
        """Refuse a config that this version cannot use, or that asks for more than a model and the files beside it."""
        if not isinstance(self.entries["format"], int) or self.entries["format"] > FORMAT_OF_POSTPROCESSING:
            raise SegzooError(
                f"{where} was written by a newer segzoo ({self.segzoo_version}); update segzoo to load it"
            )
        refuse_strange_facts(where, self.entries)
        refuse_strange_codes(where, self.entries.get("codes", {}))
        refuse_strange_model(where, self.entries["model"])
        refuse_strange_regions(where, self.entries, self.model.task)
        refuse_strange_classes(where, self.entries["class_names"], self.task)
        self.refuse_strange_postprocessing(where)
        if "members" in self.entries:
            refuse_strange_members(where, self.entries["members"])
        refuse_strange_files(where, self.entries["sha256"], self.weights)

    @property
    def segzoo_version(self) -> str | None:
        """Version of segzoo that wrote it."""
        return self.entries.get("segzoo_version")

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return str(self.entries.get("name", "checkpoint"))

    @property
    def version(self) -> str:
        """Version of the checkpoint."""
        return str(self.entries.get("version", FIRST_VERSION))

    @property
    def tag(self) -> str:
        """Tag of the version on the Hub."""
        return f"v{self.version}"

    @property
    def model(self) -> Architecture:
        """Model, and what builds it."""
        return typed(Architecture, self.entries["model"])

    @property
    def members(self) -> list[Member]:
        """Networks whose mean it is; none but for an ensemble."""
        return [typed(Member, member) for member in self.entries.get("members", ())]

    @property
    def weights(self) -> list[str]:
        """Names of the files of weights: one, or one a member."""
        return [member.weights for member in self.members] or [WEIGHTS]

    @property
    def task(self) -> Task:
        """Number and kind of the classes."""
        return replace(self.model.task, region_values=self.region_values)

    @property
    def parameters(self) -> int | None:
        """Number of parameters."""
        return self.entries.get("parameters")

    @property
    def started_from(self) -> dict[str, str]:
        """Weights that the training started from, by the option of the recipe that names them."""
        return dict(self.entries.get("started_from", {}))

    @property
    def metrics(self) -> Metrics | None:
        """Scores; None where nothing was measured."""
        return typed(Metrics, self.entries["metrics"]) if self.entries.get("metrics") else None

    @property
    def licences(self) -> Licences:
        """Licences of code, weights and data."""
        return typed(Licences, self.entries.get("licences", {}))

    @property
    def licence(self) -> str | None:
        """Licence of the weights."""
        return self.licences.weights

    @property
    def example(self) -> Example | None:
        """Origin of the image that comes with it, if one does."""
        return typed(Example, self.entries["example"]) if "example" in self.entries else None

    @property
    def digest(self) -> str:
        """Hash of the file that it was read from, as it was then."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes of the files beside it, the weights among them."""
        return dict(self.entries["sha256"])


def format_of(ensemble: bool, described: Postprocessing) -> int:
    """Return the format of a config: the lowest that has all that a prediction depends on."""
    if described:
        return FORMAT_OF_POSTPROCESSING
    return FORMAT_OF_ENSEMBLES if ensemble else FORMAT


def read_config(folder: Path) -> Config:
    """Read a checkpoint's config.json.

    Raises:
        SegzooError: it is not JSON, lacks a part, is of a newer format, or asks for more than a model and the files of
            its folder.
    """
    path = folder / CONFIG
    content = read_bytes(path, limits.JSON_BYTES)
    return Config(parse_json(content, path), path, content)
