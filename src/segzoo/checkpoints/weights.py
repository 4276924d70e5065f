"""Weight files: read and written as plain tensors."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.errors import SegzooError, first_line
from segzoo.paths import require_file

if TYPE_CHECKING:
    from torch import Tensor


def read_safetensors(path: Path) -> "dict[str, Tensor]":
    """Read the tensors of a safetensors file as they are stored, and nothing else.

    Raises:
        SegzooError: the file is damaged or of another kind.
    """
    return parse_safetensors(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file of weights, once: who compares it with a hash then loads what was compared.

    Raises:
        MissingFileError: there is none.
        SegzooError: it cannot be read.
    """
    require_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise SegzooError(f"{path} cannot be read ({error.strerror}); give another file") from None


def parse_safetensors(content: bytes, path: Path) -> "dict[str, Tensor]":
    """Return the tensors in the bytes of a safetensors file: those that were hashed, not those that lie there by now.

    Args:
        content: of the file.
        path: it was read from, for the sentence.

    Raises:
        SegzooError: the file is damaged or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last are of odd types
        raise SegzooError(
            f"{path} is not a safetensors file ({first_line(error)}); nothing else is loaded, pickles least of all"
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


def sha256(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
