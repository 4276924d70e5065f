"""Ranges of a training part's inputs, and what of another input lies outside of them.

An input has features, lists of numbers: its size, its spacing where it is a volume, its channels (colours that are all
alike are one) and its intensities, the 1st, 50th and 99th percentile as the network's contract normalises them. A
checkpoint may keep the lowest and the highest of each that its training part has. Of one without, the contract alone
knows something.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Features: TypeAlias = dict[str, list[float]]
Ranges: TypeAlias = Mapping[str, Sequence[Sequence[float]]]  # name -> lowest and highest values

PERCENTILES = (1, 50, 99)
SEEN = 2**20  # values that percentiles are taken of
NAMES = ("channels", "size", "spacing", "intensity")
WORDS = {"intensity": "intensity (1st, 50th and 99th percentile)", "spacing": "spacing in mm"}


def percentiles(values: npt.NDArray[Any]) -> list[float]:
    """Return the percentiles of intensities, of every so many where they are many.

    Example:
        >>> import numpy as np
        >>> from segzoo.preprocessing.ranges import percentiles
        >>> percentiles(np.arange(101))
        [1.0, 50.0, 99.0]
    """
    some = values.reshape(-1)[:: max(1, values.size // SEEN)]
    return [float(f"{one:.4g}") for one in np.percentile(some, PERCENTILES)]


def ranges_of(inputs: Iterable[Features]) -> dict[str, list[list[float]]]:
    """Return the lowest and the highest of each feature that all inputs have.

    Example:
        >>> from segzoo.preprocessing.ranges import ranges_of
        >>> ranges_of([{"size": [20, 30]}, {"size": [25, 28]}])
        {'size': [[20, 28], [25, 30]]}
    """
    found: dict[str, list[list[float]]] = {}
    for number, features in enumerate(inputs):
        known = {name: found[name] for name in found if name in features} if number else {}
        for name, values in features.items():
            if not number or name in known:
                low, high = known.get(name, (values, values))
                known[name] = [[*map(min, low, values)], [*map(max, high, values)]]
        found = known
    return found


def unlike(features: Features, ranges: Ranges, where: str) -> tuple[str, ...]:
    """Return what of an input lies outside of ranges, in words.

    Args:
        features: of the input.
        ranges: that are known.
        where: ends the words: of what they are the ranges.

    Example:
        >>> from segzoo.preprocessing.ranges import unlike
        >>> unlike({"size": [20, 99], "channels": [1]}, {"size": [[20, 28], [25, 30]]}, "in training")
        ('size 20 x 99 (in training 20..25 x 28..30)',)
    """
    found = []
    for name, values in features.items():
        if name not in ranges or len(ranges[name][0]) != len(values):
            continue
        low, high = ranges[name]
        if not all(least <= value <= most for least, value, most in zip(low, values, high, strict=True)):
            between = ", " if name == "intensity" else " x "
            known = between.join(bounds(*pair) for pair in zip(low, high, strict=True))
            found.append(f"{WORDS.get(name, name)} {between.join(f'{one:g}' for one in values)} ({where} {known})")
    return tuple(found)


def bounds(low: float, high: float) -> str:
    """Return a range in words."""
    if low == high:
        return f"{low:g}"
    return "..".join(f"{one:g}" if math.isfinite(one) else "" for one in (low, high))
