"""Description that lies in a checkpoint's folder, config.json: what those of models and of encoders have in common."""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

from segzoo import limits
from segzoo.checkpoints.description import Description
from segzoo.checkpoints.entries import Licences, Metrics, typed
from segzoo.checkpoints.facts import refuse_strange_facts
from segzoo.checkpoints.names import CONFIG
from segzoo.checkpoints.parse import parse_json, read_bytes
from segzoo.errors import SegzooError

# a higher format is what an older segzoo could not read
FORMAT, FORMAT_OF_ENSEMBLES, FORMAT_OF_POSTPROCESSING, FORMAT_OF_ENCODERS = 1, 2, 3, 4
FIRST_VERSION = "1.0"


class FolderConfig(Description):
    """Description of a checkpoint, of whichever kind: its config.json."""

    subject = CONFIG
    lacks = "is no segzoo checkpoint's config: it lacks"
    newest: ClassVar[int]  # format that this version reads

    def check(self, where: str | Path) -> None:
        """Refuse a config of a newer format, and facts that are not of their kind."""
        if not isinstance(self.entries["format"], int) or self.entries["format"] > self.newest:
            raise SegzooError(
                f"{where} was written by a newer segzoo ({self.segzoo_version}); update segzoo to load it"
            )
        refuse_strange_facts(where, self.entries)

    def changed(self, **entries: Any) -> Self:
        """Return a config with other entries."""
        return self.of_values(**{**self.entries, **entries})

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.entries, indent=2, ensure_ascii=False) + "\n"

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
    def parameters(self) -> int | None:
        """Number of parameters."""
        return self.entries.get("parameters")

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
    def digest(self) -> str:
        """Hash of the file that it was read from, as it was then."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def sha256(self) -> dict[str, str]:
        """Hashes of the files beside it, the weights among them."""
        return dict(self.entries["sha256"])


def read_entries(folder: Path) -> tuple[Path, bytes, Any]:
    """Return a folder's config.json: its path, its content, and what that is as JSON.

    Raises:
        SegzooError: it cannot be read, or is not JSON.
    """
    path = folder / CONFIG
    content = read_bytes(path, limits.JSON_BYTES)
    return path, content, parse_json(content, path)


def no_model(what: object, name: object) -> SegzooError:
    """Return the error that an encoder was given where a model is wanted.

    Args:
        what: was given.
        name: by which a training may start from it.
    """
    return SegzooError(
        f"{what} is an encoder alone, which knows no classes: train a model that starts from it, as "
        f"`segzoo fit --model med_urwkv --model.encoder_weights {name}` does"
    )


def is_of_encoder(entries: Any) -> bool:
    """Return whether a config's entries are those of an encoder rather than of a model."""
    return isinstance(entries, dict) and "encoder" in entries and "model" not in entries
