"""Checkpoint on this machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from segzoo import __version__
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.encoder import EncoderConfig
from segzoo.checkpoints.folder_config import FolderConfig
from segzoo.checkpoints.members import require_alike
from segzoo.checkpoints.names import CONFIG
from segzoo.checkpoints.pins import published
from segzoo.checkpoints.weights import sha256

C = TypeVar("C", bound=FolderConfig, covariant=True)


@dataclass(frozen=True)
class Stored(Generic[C]):
    """Checkpoint of whichever kind on this machine, its files checked.

    Attributes:
        folder: where they lie.
        config: what config.json says.
        trust: what the files were compared with.
    """

    folder: Path
    config: C
    trust: str


class StoredEncoder(Stored[EncoderConfig]):
    """Checkpoint of an encoder."""


class Checkpoint(Stored[Config]):
    """Checkpoint of a model."""

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.config.mask_names

    @property
    def volume_channels(self) -> int:
        """Number of channels that it takes of a volume."""
        return self.config.volume_channels

    @property
    def identity(self) -> dict[str, str]:
        """Hash that tells its masks from those of any other model: of the config, which holds that of the weights."""
        return {"checkpoint": self.config.digest}


def opened(folder: Path, config: Config | EncoderConfig) -> Checkpoint | StoredEncoder:
    """Return what lies in a folder whose files were checked."""
    if isinstance(config, EncoderConfig):
        return StoredEncoder(folder, config, trust(config))
    return Checkpoint(folder, config, trust(config))


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints whose probabilities are averaged.

    Attributes:
        members: the checkpoints, at least two.

    Raises:
        SegzooError: they know other classes than each other, or want other input.
    """

    members: tuple[Checkpoint, ...]

    def __post_init__(self) -> None:
        described = [(str(one.folder), one.config) for one in self.members]
        require_alike(
            [(name, config.task, config.class_names, config.contract.to_dict()) for name, config in described]
        )

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.members[0].mask_names

    @property
    def volume_channels(self) -> int:
        """Number of channels that they take of a volume."""
        return self.members[0].volume_channels

    @property
    def identity(self) -> dict[str, str]:
        """Hashes that tell its masks from those of any other model, in any order."""
        return {"mean_of": " ".join(sorted(one.config.digest for one in self.members))}


def pin_of(config: FolderConfig) -> str | None:
    """Return the name of the zoo's own checkpoint that has this very config, or None."""
    return next((name for name, pin in published().items() if config.digest == pin["sha256"]), None)


def is_another_card(config: FolderConfig, card: Path) -> bool:
    """Return whether a card that is there belongs to one of the zoo's own, and is not the one that the zoo pins."""
    pinned = published().get(pin_of(config) or "", {}).get("card_sha256")
    return pinned is not None and card.is_file() and sha256(card) != pinned


def trust(config: FolderConfig) -> str:
    """Return what a checkpoint's files agree with: the zoo's pin, or only each other."""
    name = pin_of(config)
    if name is not None:
        return f"as published ({name} {published()[name]['tag']}, pinned by segzoo {__version__})"
    return f"its files agree with its own {CONFIG}, which nothing else vouches for"
