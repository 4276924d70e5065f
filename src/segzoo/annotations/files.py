"""Files that annotations name, and files of annotations themselves: what may be read of them."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.cases import PART_WORDS
from segzoo.limits import ANNOTATION_BYTES, require_memory
from segzoo.paths import require_file

_MEMORY = 10  # bytes that a byte of JSON becomes


def read_json(path: Path) -> Any:
    """Read a file of annotations.

    Raises:
        MissingFileError: It is not there.
        SegzooError: It is no JSON, or larger than the limit or the memory.
    """
    require_file(path)
    size = path.stat().st_size
    ANNOTATION_BYTES.check(size, f"{path} has")
    require_memory(_MEMORY * size, path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SegzooError(f"{path} is no whole JSON ({error}); export it again") from error


def part_of(path: Path) -> str:
    """Return the part that a file's name says, such as ``instances_train2017.json``, or that of its folder, else ""."""
    words = [*re.findall("[a-z]+", path.stem.lower()), path.parent.name.lower().rstrip("0123456789")]
    return next((PART_WORDS[word] for word in words if word in PART_WORDS), "")


def find_image(name: str, roots: Iterable[Path], allowed: Iterable[Path], source: Path) -> Path:
    """Return the file of an image that annotations name.

    Args:
        name: As they have it, perhaps with folders, perhaps as Windows writes them.
        roots: Folders that it may be relative to, in the order in which they are tried.
        allowed: Folders that it must lie in.
        source: Of the annotations, for sentences.

    Raises:
        MissingFileError: It is in none of them.
        SegzooError: It lies elsewhere.
    """
    tried = [root / way for root in roots for way in dict.fromkeys((name, name.replace("\\", "/")))]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise MissingFileError(f"{source} names the image {name}, which is not there; say by --images where images are")
    real = Path(os.path.realpath(found))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in allowed):
        raise SegzooError(f"{source} names the image {name} in another folder; allow that one by --images")
    return found
