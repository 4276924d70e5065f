"""Checkpoint of an encoder alone: weights that a model starts from, with no classes and no input contract.

Its folder is like that of a model's checkpoint: config.json, model.safetensors, a card, and a probe.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.entries import Licences, refuse_strange_files, typed
from segzoo.checkpoints.facts import is_word
from segzoo.checkpoints.folder_config import FORMAT_OF_ENCODERS, FolderConfig, is_of_encoder, read_entries
from segzoo.checkpoints.names import WEIGHTS
from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Encoder:
    """Network whose weights they are.

    Attributes:
        name: of the architecture: "vrwkv".
        size: one of `segzoo.nn.vrwkv_sizes.ENCODERS`.
    """

    name: str
    size: str

    def __str__(self) -> str:
        return f"{self.name} {self.size}"


class EncoderConfig(FolderConfig):
    """Description of an encoder's checkpoint: its config.json."""

    newest = FORMAT_OF_ENCODERS
    needed = frozenset({"format", "encoder", "sha256"})

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        weights: "Mapping[str, Tensor]",
        *,
        name: str,
        version: str,
        data: Mapping[str, Any],
        metrics: Mapping[str, Any],
        licences: Licences,
        sha256: Mapping[str, str],
    ) -> "EncoderConfig":
        """Describe an encoder that is saved.

        Args:
            encoder: architecture and size.
            weights: its state dict.
            name: of the checkpoint.
            version: of the checkpoint.
            data: images that it has seen, as DataModules describe them.
            metrics: what was measured, as :class:`segzoo.checkpoints.entries.Metrics`.
            licences: of code, weights and data.
            sha256: of every file beside the config.
        """
        return cls.of_values(
            format=FORMAT_OF_ENCODERS,
            segzoo_version=__version__,
            name=name,
            version=version,
            encoder=asdict(encoder),
            parameters=sum(value.numel() for value in weights.values()),
            data=data,
            metrics=metrics,
            licences=asdict(licences),
            sha256=sha256,
        )

    def check(self, where: str | Path) -> None:
        """Refuse a config that does not say which encoder it is, or that names other files than those beside it."""
        super().check(where)
        encoder = self.entries["encoder"]
        if not isinstance(encoder, dict) or set(encoder) != {"name", "size"} or not all(map(is_word, encoder.values())):
            raise SegzooError(f"{where} must give the encoder as its name and size, not as {str(encoder)[:100]!r}")
        refuse_strange_files(where, self.entries["sha256"])

    @property
    def encoder(self) -> Encoder:
        """Architecture and size."""
        return typed(Encoder, self.entries["encoder"])

    @property
    def weights(self) -> list[str]:
        """Name of the file of weights."""
        return [WEIGHTS]


def read_stored(folder: Path) -> Config | EncoderConfig:
    """Read the config.json of a checkpoint of whichever kind.

    Raises:
        SegzooError: as of `segzoo.checkpoints.config.read_config`, but for encoders.
    """
    path, content, entries = read_entries(folder)
    return (EncoderConfig if is_of_encoder(entries) else Config)(entries, path, content)
