"""Seals: a note holds a digest of the values beside it, which tells whether a file is still what was written."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.imaging.strips import Strips

DIGITS = 31  # hexadecimal ones of a digest, so that a note of 47 characters has room in NIfTI's 79
Values = npt.NDArray[Any] | Strips
SEALED = re.compile(rf"(.*)-([0-9a-f]{{{DIGITS}}})", re.DOTALL)


def sealed(note: str, values: Values) -> str:
    """Return what to store as a note beside values; no note is no seal, either.

    Example:
        >>> import numpy as np
        >>> from segzoo.imaging.seals import note_of_sealed, sealed
        >>> stored = sealed("made by me", np.zeros((2, 3), np.uint8))
        >>> note_of_sealed(stored, lambda: np.zeros((2, 3), np.uint8))
        'made by me'
        >>> note_of_sealed(stored, lambda: np.ones((2, 3), np.uint8))
        ''
    """
    return f"{note}-{digest(values)}" if note else ""


def note_of_sealed(stored: str, values: Callable[[], Values]) -> str:
    """Return the note that was sealed; "" where the values are others, which somebody must have changed.

    Args:
        stored: of a file; without a seal (of somebody else, or of an older segzoo) it is returned as it is.
        values: reads those of the file, where there is a seal to compare them with.
    """
    match = SEALED.fullmatch(stored)
    if match is None:
        return stored
    return match[1] if digest(values()) == match[2] else ""


def digest(values: Values) -> str:
    """Return a digest of integers 0..65535, or of fractions, and of their shape, whatever type a reader gives them."""
    parts = values if isinstance(values, Strips) else (values,)
    kind: np.dtype[Any] = np.dtype("u1" if all(part.max(initial=0) <= 255 for part in parts) else "<u2")
    if any(part.dtype.kind == "f" and (part != np.rint(part)).any() for part in parts):
        kind = np.dtype("<f4")
    found = hashlib.sha256(str(values.shape).encode())
    for part in parts:
        found.update(np.ascontiguousarray(part, kind).data)
    return found.hexdigest()[:DIGITS]
