"""Checkpoint on this machine."""

from dataclasses import dataclass
from pathlib import Path

from segzoo import __version__
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.names import CONFIG
from segzoo.checkpoints.pins import published
from segzoo.checkpoints.weights import sha256


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint on this machine, its files checked.

    Attributes:
        folder: where they lie.
        config: what config.json says.
        trust: what the files were compared with.
    """

    folder: Path
    config: Config
    trust: str

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.config.mask_names

    @property
    def identity(self) -> dict[str, str]:
        """Hash that tells its masks from those of any other model: of the config, which holds that of the weights."""
        return {"checkpoint": sha256(self.folder / CONFIG)}


def trust(folder: Path) -> str:
    """Return what a checkpoint's files agree with: the zoo's pin, or only each other."""
    found = sha256(folder / CONFIG)
    for name, pin in published().items():
        if found == pin["sha256"]:
            return f"as published ({name} {pin['tag']}, pinned by segzoo {__version__})"
    return f"its files agree with its own {CONFIG}, which nothing else vouches for"
