"""Doubt: scores from 0 to 1 that say which predictions to look at first. Needs no torch.

"entropy" is the mean entropy of the probabilities within some pixels of the mask's boundaries; where nothing has a
boundary, around the least certain pixel. "flips" and "members" are what the Dice of other masks of the same input lacks
of 1: those of its mirrored copies, or those of an ensemble's members. All are taken of masks before they are cleaned,
and of probabilities before the temperature, so that they are scores of what computes.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from segzoo.metrics.calibration import BAND, SLAB, bands
from segzoo.prediction.backend import Backend
from segzoo.tasks import Task

Array = npt.NDArray[Any]
DEFAULT = "entropy"  # where a checkpoint names none
CHOSEN = "chosen"  # the checkpoint's, or else the default one


def kinds_of(backend: Backend) -> list[str]:
    """Return the scores that a backend allows."""
    found = {"entropy": True, "flips": backend.contract.mirror_axes, "members": backend.members}
    return [kind for kind, possible in found.items() if possible]


def kind_of(backend: Backend) -> str:
    """Return the score that a checkpoint has chosen; the default one where it has not, or what computes has it not."""
    chosen = backend.postprocessing.doubt
    return chosen if chosen in kinds_of(backend) else DEFAULT


# ---- entropy


def entropies(probabilities: Array, task: Task) -> Array:
    """Return the entropy of every pixel, float16 [*S], 1 where all is equally likely.

    Args:
        probabilities: [K, *S]; of classes that are decided each on its own the most uncertain counts.
        task: number and kind of the classes.
    """
    found = np.empty(probabilities.shape[1:], np.float16)
    rows = max(1, SLAB // max(1, probabilities[:, :1].size))
    for start in range(0, len(found), rows):
        some = probabilities[:, start : start + rows].clip(1e-12, 1)
        if task.independent:
            rest = (1 - some).clip(1e-12, 1)
            found[start : start + rows] = -((some * np.log2(some) + rest * np.log2(rest)).min(axis=0))
        else:
            found[start : start + rows] = -(some * np.log2(some)).sum(axis=0) / math.log2(len(some))
    return found


def near_boundary(entropy: Array, mask: Array) -> float:
    """Return the mean entropy near the boundaries of a mask.

    Args:
        entropy: [*S].
        mask: integers [*S], in multi-label [K, *S].
    """
    total = count = 0.0
    for rows, band in bands(*(mask if mask.ndim > entropy.ndim else [mask])):
        total += entropy[rows].sum(where=band, dtype=np.float64)
        count += band.sum()
    if count:
        return float(total / count)
    place = np.unravel_index(entropy.argmax(), entropy.shape)
    around = tuple(slice(max(0, int(one) - BAND + 1), int(one) + BAND) for one in place)
    return float(entropy[around].mean(dtype=np.float64))


# ---- other masks


def disagreement(mask: Array, others: Sequence[Array], task: Task) -> float:
    """Return what the mean Dice of other masks with one lacks of 1.

    Args:
        mask: integers [*S], in multi-label [K, *S].
        others: likewise, at least one.
        task: number and kind of the classes.
    """
    return 1 - float(np.mean([agreement(mask, other, task) for other in others]))


def agreement(one: Array, other: Array, task: Task) -> float:
    """Return the Dice of two masks, the mean over the classes; what neither has agrees."""
    found = []
    for number in range(task.first_foreground, task.named_classes):
        marked = one[number] > 0 if task.multilabel else one == number
        as_well = other[number] > 0 if task.multilabel else other == number
        total = int(marked.sum()) + int(as_well.sum())
        found.append(2 * int((marked & as_well).sum()) / total if total else 1.0)
    return float(np.mean(found))


def others(backend: Backend, kind: str) -> list[Backend]:
    """Return what computes the other masks of a score; for "entropy" nothing does."""
    if kind == "members":
        return list(backend.members)
    if kind == "flips":
        return [cast(Backend, Mirrored(backend, (2 + axis,))) for axis in backend.contract.mirror_axes]
    return []


class Mirrored:
    """Backend that sees its inputs mirrored, and gives back what it finds as they were.

    Args:
        backend: what computes.
        axes: of [B, C, *S].
    """

    def __init__(self, backend: Backend, axes: tuple[int, ...]) -> None:
        self.backend, self.axes = backend, axes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def compute(self, batch: Any) -> Any:
        """Return probabilities [B, K, *S] of inputs."""
        return self.backend.flip(self.backend.compute(self.backend.flip(batch, self.axes)), self.axes)
