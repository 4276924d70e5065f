"""Worth of a score that says which predictions to look at first: how it ranks them, beside their Dice. No torch."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FAILED = 0.5  # Dice below which a prediction is one to look at
FEWEST = 8  # such cases, for an AUROC of them; where there are fewer, those of the worst tenth are taken
TENTH = 0.1

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Worth:
    """Worth of doubts.

    Attributes:
        spearman: rank correlation with Dice, -1 where the order is the very one to look in; NaN where either is
            constant.
        auroc: how often a failed case has more doubt than another one, 0.5 by chance; NaN where all have failed.
        failed: what failed means, in words.
    """

    spearman: float
    auroc: float
    failed: str

    @property
    def scores(self) -> dict[str, float]:
        """Both numbers by their names, those that there are."""
        found = {"doubt_spearman": self.spearman, "doubt_auroc": self.auroc}
        return {name: value for name, value in found.items() if math.isfinite(value)}


def worth(doubts: Array, dice: Array) -> Worth:
    """Compare doubts with the Dice of the same cases.

    Args:
        doubts: one a case, more where it should rather be looked at.
        dice: of the cases, at least one.

    Example:
        >>> import numpy as np
        >>> from segzoo.metrics.doubt import worth
        >>> found = worth(np.array([0.9, 0.2, 0.1]), np.array([0.1, 0.8, 0.9]))
        >>> round(found.spearman, 2), found.auroc, found.failed
        (-1.0, 1.0, 'the worst tenth (1 of 3)')
    """
    from scipy.stats import mannwhitneyu  # takes half a second

    bad = dice < FAILED
    words = f"Dice below {FAILED}"
    if bad.sum() < FEWEST:
        bad = np.zeros(len(dice), bool)
        bad[np.argsort(dice, kind="stable")[: math.ceil(TENTH * len(dice))]] = True
        words = "the worst tenth"
    auroc = math.nan
    if 0 < (count := int(bad.sum())) < len(bad):
        above = mannwhitneyu(doubts[bad], doubts[~bad]).statistic  # pairs in which the failed one has more
        auroc = float(above / (count * (len(bad) - count)))
    return Worth(rank_correlation(doubts, dice), auroc, f"{words} ({count} of {len(bad)})")


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; NaN where either is constant."""
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(spearmanr(one, other).statistic)
