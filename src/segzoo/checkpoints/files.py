"""Files of a checkpoint, compared with the hashes that its config.json lists."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from segzoo.checkpoints.folder_config import FolderConfig
from segzoo.checkpoints.names import CARD, CONFIG
from segzoo.checkpoints.weights import sha256
from segzoo.errors import MissingFileError, SegzooError


def file_names(config: FolderConfig) -> list[str]:
    """Return the names of all files of a checkpoint."""
    return [CARD, CONFIG, *config.sha256]


def is_complete(folder: Path, config: FolderConfig) -> bool:
    """Return whether every file that config.json lists is there, whatever is in it."""
    return all(os.path.isfile(folder / name) for name in config.sha256)


def damaged_files(folder: Path, config: FolderConfig) -> list[Path]:
    """Return the files whose sha256 is not the one that config.json lists.

    Raises:
        MissingFileError: a file is not there.
    """
    for name in config.sha256:
        if not (folder / name).is_file():
            raise missing(folder, name)
    try:
        return [folder / name for name, expected in config.sha256.items() if sha256(folder / name) != expected]
    except OSError as error:
        raise SegzooError(f"the checkpoint {folder} cannot be read ({error.strerror}: {error.filename})") from error


def verify_files(folder: Path, config: FolderConfig) -> None:
    """Compare every file that config.json lists with its sha256.

    Raises:
        MissingFileError: a file is not there.
        SegzooError: a file is another one than the checkpoint was saved with.
    """
    for file in damaged_files(folder, config):
        raise damaged(file)


def read_listed(folder: Path, config: FolderConfig, name: str) -> bytes:
    """Read a file that config.json lists, once: what is returned is what was compared with its hash.

    Raises:
        MissingFileError: it is not there.
        SegzooError: it cannot be read, or is another one than the checkpoint was saved with.
    """
    file = folder / name
    if not file.is_file():
        raise missing(folder, name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SegzooError(f"{file} cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != config.sha256[name]:
        raise damaged(file)
    return content


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that are links: who passes on a folder would pass on what they lead to, wherever that lies.

    In the cache of the Hub's client every file is a link, to its content beside the folder.

    Raises:
        SegzooError: naming the link.
    """
    blobs = folder.resolve().parent.parent / "blobs"
    for file in (folder / name for name in names):
        if file.is_symlink() and Path(os.path.realpath(file)).parent != blobs:
            raise SegzooError(
                f"{file} is a link to {os.path.realpath(file)}, and what it leads to would be passed on with the "
                "checkpoint; put the file itself there, or take it away"
            )


def missing(folder: Path, name: str) -> MissingFileError:
    """Return the error that a checkpoint lacks a file."""
    return MissingFileError(f"the checkpoint {folder} lacks its file {name}; fetch it again")


def damaged(file: Path) -> SegzooError:
    """Return the error that a file is not the one that was saved."""
    return SegzooError(
        f"{file} is not the file this checkpoint was saved with (its sha256 differs from {CONFIG}): it was changed "
        "or damaged; fetch it again and do not use it"
    )
