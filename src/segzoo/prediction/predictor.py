"""The interface of what turns files into segmentations."""

import re
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from segzoo.errors import SegzooError
from segzoo.imaging.segmentation import Segmentation

NO_MEMORY = "(out of|allocate|not enough) memory|bad_alloc"  # in errors of torch and of SimpleITK


class OutputError(SegzooError):
    """Nothing more can be written; to go on would be lost work."""


class Predictor(Protocol):
    """What turns files into segmentations.

    Attributes:
        batch_size: how many inputs of one key are segmented together.
        description: what computes, and how, in one line for people.
    """

    batch_size: int
    description: str

    def read(self, file: Path) -> Any:
        """An input, ready to be segmented; called by several threads.

        Raises:
            SegzooError: the file cannot be read, or is nothing that this model takes.
        """

    def key(self, given: Any) -> Hashable | None:
        """What inputs have in common that can be segmented together; None: this one is segmented alone."""

    def segment(self, given: Sequence[Any]) -> list[Segmentation]:
        """The segmentations of up to ``batch_size`` inputs of one key, in their order; called by one thread.

        Raises:
            SegzooError: they cannot be segmented.
        """


# ---- plan


def require_overlap(overlap: float) -> None:
    """Refuse what windows cannot share of their length.

    Raises:
        SegzooError: saying so.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")


# ---- read


@contextmanager
def enough_memory(what: object) -> Iterator[None]:
    """That there is not, in one sentence.

    Args:
        what: does not fit.

    Raises:
        SegzooError: saying so.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # they have no kind of their own for a CPU's memory
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            raise SegzooError(f"there is not enough memory for {what}") from error
        raise
