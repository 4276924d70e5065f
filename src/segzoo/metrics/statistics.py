"""Statistics of scores image by image: intervals of means, and a paired test of two models. Needs no torch."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES, SEED = 10_000, 0


def interval(values: np.ndarray, groups: np.ndarray | None = None) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean: its 2.5 and 97.5 percentiles over resamples of the images.

    Images of one group (frames of a sequence) are drawn together, since each says little that the others do not.

    Args:
        values: one an image.
        groups: a number from 0 for each image, the same for images that belong together; None where each is alone.

    Example:
        >>> import numpy as np
        >>> from segzoo.metrics.statistics import interval
        >>> [round(bound, 2) for bound in interval(np.array([0.7, 0.8, 0.9, 0.8]))]
        [0.72, 0.88]
    """
    sums, sizes = group_sums(values, groups)
    drawn = resampled(len(sums))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def group_sums(values: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of the values of each group, and how many they are; without groups each image is its own."""
    if groups is None:
        return values, np.ones(len(values))
    return np.bincount(groups, values), np.bincount(groups).astype(float)


@functools.lru_cache(maxsize=2)  # tens of megabytes each
def resampled(count: int) -> np.ndarray:
    """Draw indices with replacement, a row for each resample; the same for every model and metric."""
    return generator().randint(count, size=(RESAMPLES, count))


def paired_p(differences: np.ndarray, groups: np.ndarray | None = None) -> float:
    """Return how likely a mean difference this far from 0 is where the two models are alike, by a permutation test.

    Where they are, the differences of a group might as well have the other sign; so signs are drawn at random. Unlike
    Wilcoxon's signed ranks this tests the very mean that the table shows, takes equal scores as they come, and supposes
    nothing of how differences are distributed (missed lesions give them a long tail).

    Example:
        >>> import numpy as np
        >>> from segzoo.metrics.statistics import paired_p
        >>> paired_p(np.array([0.1, -0.1, 0.2, -0.2]))
        1.0
    """
    sums, _ = group_sums(differences, groups)
    signs = generator().randint(2, size=(RESAMPLES, len(sums))) * 2 - 1
    drawn = np.abs((signs * sums).sum(axis=1)) / len(differences)
    as_far = int((drawn >= abs(differences.mean()) - 1e-12).sum())  # equal means may be rounded apart
    return (1 + as_far) / (1 + RESAMPLES)  # the differences as they are count as one draw


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrected by Holm's step-down: the smallest times their number, the next times one less, never falling."""
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def generator() -> np.random.RandomState:
    """Random numbers that no version of numpy changes."""
    return np.random.RandomState(SEED)


@dataclass(frozen=True)
class Difference:
    """Difference of two models on the same images: its mean, its 95 % interval, and p of the paired test."""

    mean: float
    low: float
    high: float
    p: float


def paired_differences(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], groups: Sequence[np.ndarray | None]
) -> list[Difference]:
    """Return the first minus the second of each pair of models, p corrected for all of them.

    Args:
        pairs: of scores, one an image, the same images in the same order.
        groups: of the images of each pair, as in `interval`.

    Example:
        >>> import numpy as np
        >>> from segzoo.metrics.statistics import paired_differences
        >>> (found,) = paired_differences([(np.array([0.9, 0.8]), np.array([0.8, 0.9]))], [None])
        >>> round(found.mean, 3), found.p
        (0.0, 1.0)
    """
    differences = [first - second for first, second in pairs]
    corrected = holm([paired_p(*each) for each in zip(differences, groups, strict=True)])
    return [
        Difference(float(values.mean()), *interval(values, together), p)
        for values, together, p in zip(differences, groups, corrected, strict=True)
    ]
