"""Description of a checkpoint: its config.json."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segzoo import __version__
from segzoo.checkpoints.codes import refuse_strange_codes
from segzoo.checkpoints.description import contract_entries
from segzoo.checkpoints.entries import (
    Architecture,
    Example,
    Licences,
    model_entry,
    refuse_strange_classes,
    refuse_strange_files,
    refuse_strange_model,
    refuse_strange_regions,
    typed,
)
from segzoo.checkpoints.folder_config import (
    FORMAT,
    FORMAT_OF_ENSEMBLES,
    FORMAT_OF_POSTPROCESSING,
    FolderConfig,
    is_of_encoder,
    no_model,
    read_entries,
)
from segzoo.checkpoints.members import Member, members_entry, refuse_strange_members
from segzoo.checkpoints.names import WEIGHTS
from segzoo.postprocessing import Postprocessing
from segzoo.tasks import Task

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


class Config(FolderConfig):
    """Description of a checkpoint: its config.json."""

    newest = FORMAT_OF_POSTPROCESSING
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

    def with_postprocessing(self, described: Postprocessing, **entries: Any) -> Self:
        """Return a config with other post-processing, or with none, and other entries."""
        kept = {name: value for name, value in self.entries.items() if name != "postprocessing"}
        after = {"postprocessing": described.to_dict()} if described else {}
        return self.of_values(**{**kept, "format": format_of(bool(self.members), described), **after, **entries})

    def check(self, where: str | Path) -> None:
        """Refuse a config that this version cannot use, or that asks for more than a model and the files beside it."""
        super().check(where)
        refuse_strange_codes(where, self.entries.get("codes", {}))
        refuse_strange_model(where, self.entries["model"])
        refuse_strange_regions(where, self.entries, self.model.task)
        refuse_strange_classes(where, self.entries["class_names"], self.task)
        self.refuse_strange_postprocessing(where)
        if "members" in self.entries:
            refuse_strange_members(where, self.entries["members"])
        refuse_strange_files(where, self.entries["sha256"], self.weights)

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
    def started_from(self) -> dict[str, str]:
        """Weights that the training started from, by the option of the recipe that names them."""
        return dict(self.entries.get("started_from", {}))

    @property
    def example(self) -> Example | None:
        """Origin of the image that comes with it, if one does."""
        return typed(Example, self.entries["example"]) if "example" in self.entries else None


def format_of(ensemble: bool, described: Postprocessing) -> int:
    """Return the format of a config: the lowest that has all that a prediction depends on."""
    if described:
        return FORMAT_OF_POSTPROCESSING
    return FORMAT_OF_ENSEMBLES if ensemble else FORMAT


def read_config(folder: Path) -> Config:
    """Read a checkpoint's config.json.

    Raises:
        SegzooError: it is not JSON, lacks a part, is of a newer format or of an encoder alone, or asks for more than a
            model and the files of its folder.
    """
    path, content, entries = read_entries(folder)
    if is_of_encoder(entries):
        raise no_model(folder, folder.name)
    return Config(entries, path, content)
