"""Files of a checkpoint, compared with the hashes that its config.json lists."""

from pathlib import Path

from segzoo.checkpoints.config import Config
from segzoo.checkpoints.names import CARD, CONFIG
from segzoo.checkpoints.weights import sha256
from segzoo.errors import MissingFileError, SegzooError


def file_names(config: Config) -> list[str]:
    """Return the names of all files of a checkpoint."""
    return [CARD, CONFIG, *config.sha256]


def is_complete(folder: Path, config: Config) -> bool:
    """Return whether every file that config.json lists is there, whatever is in it."""
    return all((folder / name).is_file() for name in config.sha256)


def damaged_files(folder: Path, config: Config) -> list[Path]:
    """Return the files whose sha256 is not the one that config.json lists.

    Raises:
        MissingFileError: a file is not there.
    """
    for name in config.sha256:
        if not (folder / name).is_file():
            raise MissingFileError(f"the checkpoint {folder} lacks its file {name}; fetch it again")
    return [folder / name for name, expected in config.sha256.items() if sha256(folder / name) != expected]


def verify_files(folder: Path, config: Config) -> None:
    """Compare every file that config.json lists with its sha256.

    Raises:
        MissingFileError: a file is not there.
        SegzooError: a file is another one than the checkpoint was saved with.
    """
    for file in damaged_files(folder, config):
        raise SegzooError(
            f"{file} is not the file this checkpoint was saved with (its sha256 differs from {CONFIG}): it was changed "
            "or damaged; fetch it again and do not use it"
        )
