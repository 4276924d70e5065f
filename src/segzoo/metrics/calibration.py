"""Calibration: whether a probability of 0.8 is right in 80 of 100 pixels. Needs no torch.

Probabilities are sorted into bins, and each bin's mean is compared with the share that is right: the expected
calibration error (ECE) is the mean of the differences, each bin weighing as much as it holds. Of classes that exclude
each other the most likely one counts, with its probability; of one class, or of masks that may overlap, each class by
itself, with the probability that it is there. Most pixels lie far from any boundary and are right for sure, so there is
a second ECE of a band around the boundaries of truth and prediction.

An image is gone through slab by slab, so that a volume takes no more memory than it has.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

BINS = 15
BAND = 10  # pixels on each side of a boundary
SLAB = 2**23  # pixels that are looked at together

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Reliability:
    """Contents of the bins of an image, or of several.

    Attributes:
        weights: float64 [..., bin], how many pixels or, of several images, which share of them.
        confidences: likewise, the sum of their probabilities.
        hits: likewise, how many of them are right.
    """

    weights: Array
    confidences: Array
    hits: Array

    @classmethod
    def of(cls, confidences: Array, hits: Array) -> Self:
        """Count pixels.

        Args:
            confidences: probabilities [N], 0..1.
            hits: which of them are right, bool [N].
        """
        bins = np.clip((confidences * np.float64(BINS)).astype(np.intp), 0, BINS - 1)  # 1 is in the last one
        sums = [np.bincount(bins, values, BINS) for values in (np.ones(len(bins)), confidences, hits)]
        return cls(*sums)

    def __add__(self, other: "Reliability") -> "Reliability":
        return Reliability(self.weights + other.weights, self.confidences + other.confidences, self.hits + other.hits)

    def scaled(self) -> "Reliability":
        """Return shares, so that images count alike whatever their size; nothing stays nothing."""
        total = self.weights.sum() or 1
        return Reliability(self.weights / total, self.confidences / total, self.hits / total)

    @property
    def error(self) -> float:
        """Expected calibration error; NaN where there is no pixel."""
        total = self.weights.sum()
        return float(np.abs(self.hits - self.confidences).sum() / total) if total else math.nan


NOTHING = Reliability(*np.zeros((3, BINS)))


@dataclass(frozen=True)
class Calibration:
    """Calibration of an image.

    Attributes:
        everywhere: the bins of all pixels, of every class that is looked at by itself.
        near: those of the band around the boundaries.
    """

    everywhere: Sequence[Reliability]
    near: Sequence[Reliability]

    @property
    def scores(self) -> dict[str, float]:
        """Both errors, "ece" and "ece_boundary", as means over the classes; NaN where there is no boundary."""
        parts = {"ece": self.everywhere, "ece_boundary": self.near}
        found = {name: [one.error for one in part if one.weights.any()] for name, part in parts.items()}
        return {name: float(np.mean(errors)) if errors else math.nan for name, errors in found.items()}


def calibration(
    probabilities: Array, mask: Array, target: Array, given_out: Callable[[Array], Array] | None = None
) -> Calibration:
    """Compare the probabilities of an image or a volume with the truth.

    Args:
        probabilities: float [K, *S]; of one class, or of masks that may overlap, each class's own, else they add to 1.
        mask: the prediction, integers [*S] or, of masks that may overlap, [K, *S].
        target: the truth, likewise; what is negative is not looked at.
        given_out: makes other probabilities of each slab of them, [K, rows, ...] or of one class, before all else.

    Example:
        >>> import numpy as np
        >>> from segzoo.metrics.calibration import calibration
        >>> probabilities = np.array([[[0.9, 0.9, 0.9, 0.9, 0.1]]])
        >>> found = calibration(probabilities, np.array([[1, 1, 1, 1, 0]]), np.array([[1, 1, 1, 0, 0]]))
        >>> round(found.scores["ece"], 3)  # right in 3 of 4, and wrong in none
        0.14
    """
    if mask.ndim == probabilities.ndim or len(probabilities) == 1:  # each class by itself
        masks = mask if mask.ndim == probabilities.ndim else mask[None]
        targets = target if target.ndim == probabilities.ndim else target[None]
        classes = (probabilities[number : number + 1] for number in range(len(probabilities)))
        pairs = [of_classes(*one, given_out) for one in zip(classes, masks, targets, strict=True)]
    else:
        pairs = [of_classes(probabilities, mask, target, given_out)]
    everywhere, near = zip(*pairs, strict=True)
    return Calibration(everywhere, near)


def of_classes(
    probabilities: Array, mask: Array, target: Array, given_out: Callable[[Array], Array] | None
) -> tuple[Reliability, Reliability]:
    """Return the bins of all pixels, and of those near boundaries.

    Args:
        probabilities: [1, *S] of one class, [K, *S] of several that exclude each other.
        mask: integers [*S].
        target: likewise; negative where it is not looked at.
        given_out: as of `calibration`.
    """
    everywhere = near = NOTHING
    for rows, band in bands(mask, target):
        truth, known = target[rows], target[rows] >= 0
        some = probabilities[:, rows] if given_out is None else given_out(probabilities[:, rows])
        if len(some) == 1:
            confidences, hits = some[0], truth > 0
        else:
            confidences, hits = some.max(axis=0), some.argmax(axis=0) == truth
        everywhere += Reliability.of(confidences[known], hits[known])
        near += Reliability.of(confidences[known & band], hits[known & band])
    return everywhere, near


# ---- the band around boundaries


def bands(*labels: Array) -> Iterator[tuple[slice, Array]]:
    """Yield slabs of rows, and which of their pixels lie within `BAND` pixels of a boundary of any of the labels.

    Args:
        labels: integers [*S]; between what is negative and the rest there is no boundary.

    Yields:
        Rows of the first axis, and bool [rows, ...].
    """
    shape = labels[0].shape
    step = max(1, SLAB // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        first = max(0, start - BAND)
        around = slice(first, min(shape[0], stop + BAND))
        edge = np.logical_or.reduce([edges(label[around]) for label in labels])
        yield slice(start, stop), within(edge)[start - first : stop - first]


def edges(label: Array) -> Array:
    """Return which pixels [*S] have a neighbour of another value at one of their sides."""
    found = np.zeros(label.shape, bool)
    for axis in range(label.ndim):
        one, other = np.moveaxis(label, axis, 0)[:-1], np.moveaxis(label, axis, 0)[1:]
        differ = (one != other) & (one >= 0) & (other >= 0)
        marked = np.moveaxis(found, axis, 0)
        marked[:-1] |= differ
        marked[1:] |= differ
    return found


def within(edge: Array) -> Array:
    """Return which pixels [*S] are less than `BAND` pixels away from a marked one."""
    from scipy.ndimage import distance_transform_edt  # takes a tenth of a second

    found = np.zeros(edge.shape, bool)
    if edge.any():
        places = np.nonzero(edge)
        box = tuple(slice(max(0, int(one.min()) - BAND), int(one.max()) + BAND + 1) for one in places)
        found[box] = distance_transform_edt(~edge[box]) < BAND
    return found


# ---- several images


class Curves:
    """Reliability of several images, each counting alike.

    Attributes:
        everywhere: sum of what all pixels of an image are, as shares.
        near: likewise of the band around boundaries.
    """

    def __init__(self) -> None:
        self.everywhere = self.near = NOTHING

    def __add__(self, other: "Curves") -> "Curves":
        found = Curves()
        found.everywhere, found.near = self.everywhere + other.everywhere, self.near + other.near
        return found

    def add(self, one: Calibration) -> None:
        """Add an image."""
        self.everywhere += sum(one.everywhere, NOTHING).scaled()
        self.near += sum(one.near, NOTHING).scaled()

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a bin: its edges and, of both, the share of pixels, their mean probability and hit rate."""
        found = []
        for number in range(BINS):
            row: dict[str, Any] = {"from": round(number / BINS, 4), "to": round((number + 1) / BINS, 4)}
            for words, curve in (("all", self.everywhere), ("boundary", self.near)):
                weight = curve.weights[number]
                row[f"share_{words}"] = round(weight / (curve.weights.sum() or 1), 6)
                row[f"probability_{words}"] = round(curve.confidences[number] / weight, 6) if weight else ""
                row[f"right_{words}"] = round(curve.hits[number] / weight, 6) if weight else ""
            found.append(row)
        return found
