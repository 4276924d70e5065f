"""Data that is split into folds, of which one is the test part."""

import copy
from collections.abc import Sequence
from typing import Self

from segzoo.data.samples import Sample
from segzoo.data.splits import FOLDS, Split, make_split


class Foldable:
    """Base of such data.

    Attributes:
        split: what its split is called.
        fold: the one that is tested.
        seed: of the split.
    """

    split: str
    fold: int
    seed: int
    _split: Split | None
    _tested: list[str] | None = None  # in place of the split's own test part

    def setup(self, stage: str | None = None) -> None:
        """Find all samples and split them."""
        raise NotImplementedError

    @property
    def _by_id(self) -> dict[str, Sample]:
        raise NotImplementedError

    def folds(self) -> list[Self]:
        """Return this data split by each of its folds in turn; nothing where its split has none."""
        self.setup()
        found = []
        for fold in range(FOLDS if self.split == "grouped" else 0):
            other = copy.copy(self)
            other.fold, other._tested = fold, None
            other._split = make_split(list(self._by_id.values()), self.split, fold, self.seed)
            found.append(other)
        return found

    def test_on(self, ids: Sequence[str] | None) -> None:
        """Let these samples be the test part, as those that each fold tests are of several; None: that of the split."""
        self._tested = None if ids is None else sorted(ids)
