"""Weight files of encoders, fetched from the Hub with their content checked."""

import hashlib
import re
from pathlib import Path

from segzoo.checkpoints.weights import read_bytes
from segzoo.errors import MissingError, SegzooError
from segzoo.hub.client import ask, cached, discard, download


def fetch_weights(repository: str, name: str) -> tuple[Path, bytes]:
    """Return a weight file of a Hub repository, from the Hub or its local cache, and its content.

    The Hub's client compares sizes alone. The sha256 that the Hub states for a large file is what the cache calls it,
    so every use compares the content with that name. It is read once: what was compared is what is returned. What is
    cached is used without asking the Hub again.

    Raises:
        MissingError: it is not in the cache and cannot be fetched.
        SegzooError: its content is not what the Hub holds.
    """
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
    stated, content = path.resolve().name, read_bytes(path)
    if re.fullmatch("[0-9a-f]{64}", stated) and stated != hashlib.sha256(content).hexdigest():
        discard(path)
        raise SegzooError(
            f"{name} is not the file that {repository} holds (its sha256 differs): it was changed or damaged and has "
            "been removed from the cache; call again to fetch it anew"
        )
    return path, content
