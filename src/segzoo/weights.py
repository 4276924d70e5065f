"""Weight files: read as plain tensors, and fetched from the Hub with their content checked."""

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.errors import MissingError, SegzooError

if TYPE_CHECKING:
    from torch import Tensor


def read_safetensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file as they are stored; nothing else is read.

    Raises:
        SegzooError: the file is damaged or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise SegzooError(
            f"{path} is not a safetensors file ({error}); nothing else is loaded, pickles least of all"
        ) from None


def write_safetensors(tensors: "dict[str, Tensor]", path: Path) -> None:
    """Write tensors to a file that everybody may read.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:  # its word for a full disk, too
        raise OSError(str(error)) from error
    path.chmod(0o644)  # safetensors' files are private


def fetch_weights(repository: str, name: str) -> Path:
    """A weight file of a Hub repository, from the Hub or its local cache.

    The Hub's client compares sizes alone. The sha256 that the Hub states for a large file is what the cache calls it,
    so every use compares the content with that name. What is cached is used without asking the Hub again.

    Raises:
        MissingError: it is not in the cache and cannot be fetched.
        SegzooError: its content is not what the Hub holds.
    """
    from segzoo.hub_client import ask, cached, discard, download

    try:
        path = cached(repository, name, "main")
        if path is None:
            ask(repository, name, "main", None)
            path = download(repository, name, "main")
    except MissingError as error:
        raise MissingError(
            f"the weights {name} could not be fetched from {repository}: {error}; connect to the Hub, or give "
            "encoder_weights a local copy of that file"
        ) from error
    stated = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", stated) and stated != sha256(path):
        discard(path)
        raise SegzooError(
            f"{name} is not the file that {repository} holds (its sha256 differs): it was changed or damaged and has "
            "been removed from the cache; call again to fetch it anew"
        )
    return path


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
