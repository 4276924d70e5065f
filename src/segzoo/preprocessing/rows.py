"""Trilinear resampling of a volume that comes row by row, to the very bits of resampling it whole.

Along the first axis a resampled row lies between two rows of the volume, and PyTorch reckons where from the row's
number. So each is computed by PyTorch itself from its two neighbours alone, with the scale by which the first row
between two lies where this one lies between them. That scale is 1 + 2 x the distance from the lower neighbour, and no
digit of it is lost: where there are rows before, the distance is a multiple of 2**-23.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor


def resample_rows(parts: "Iterable[Tensor]", depth: int, size: Sequence[int]) -> "Iterator[Tensor]":
    """Yield a volume's rows at another size, as ``F.interpolate(..., mode="trilinear")`` has them, class by class.

    Args:
        parts: ``[1, K, rows, H, W]`` of the volume, in their order.
        depth: rows of the volume.
        size: three sides, to resample to.

    Yields:
        ``[1, K, rows, *size[1:]]``, each as soon as it can be told.

    Example:
        >>> import torch
        >>> from segzoo.preprocessing.rows import resample_rows
        >>> volume = torch.rand(1, 2, 7, 5, 5)
        >>> rows = torch.cat([*resample_rows(volume.split(2, dim=2), 7, (9, 4, 6))], dim=2)
        >>> whole = [torch.nn.functional.interpolate(volume[:, [k]], (9, 4, 6), mode="trilinear") for k in (0, 1)]
        >>> torch.equal(rows, torch.cat(whole, dim=1))
        True
    """
    import torch

    own = size[0]
    if depth == own:
        for part in parts:
            yield interpolated(part[0], part.shape[2], size)
        return
    first, done, held = 0, 0, torch.empty(0)
    for part in parts:
        kind = np.float64 if part.dtype == torch.float64 else np.float32  # in which PyTorch reckons
        scale = kind(depth) / kind(own)
        lower, distance = lower_neighbours(scale, depth, own)
        held = part[0] if not held.numel() else torch.cat([held, part[0]], dim=1)
        there = first + held.shape[1]  # rows of the volume that are
        while done < own and min(lower[done] + 1, depth - 1) < there:
            below = lower[done]
            planes = [below - first, min(below + 1, depth - 1) - first]
            count = 1
            if below == 0:  # with no row before, the distance has more digits: these rows are the first ones
                count = int((lower == 0).sum())
                planes += planes[1:] if count == 2 else []  # two of two PyTorch would take as they are
            ratio = float(scale) if below == 0 else 1 + 2 * float(distance[done])
            yield interpolated(held[:, planes], count, size, 1 / ratio)
            done += count
        dropped = min(lower[min(done, own - 1)], there) - first
        first, held = first + dropped, held[:, dropped:]


def lower_neighbours(scale: "np.floating[Any]", depth: int, own: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Return, for each resampled row, the row of the volume below it and how far above that it lies, as PyTorch does.

    Args:
        scale: rows of the volume to one of the resampled.
        depth: rows of the volume.
        own: rows of the resampled.
    """
    kind = type(scale)
    places = np.maximum(kind(0), scale * (np.arange(own, dtype=kind) + kind(0.5)) - kind(0.5))
    lower = np.minimum(places.astype(np.int64), depth - 1)
    return lower, np.clip(places - lower.astype(kind), 0, 1)


def interpolated(planes: "Tensor", rows: int, size: Sequence[int], factor: float | None = None) -> "Tensor":
    """Return planes ``[K, rows, H, W]`` as ``[1, K, rows, *size[1:]]``, by PyTorch.

    Args:
        planes: of the volume.
        rows: to make of them.
        size: three sides, of which the last two count.
        factor: rows that are made of one; None where they are as many.
    """
    import torch

    volume = planes[:, None].contiguous()  # one class each, as where they are resampled one by one
    found: Tensor = torch.ops.aten.upsample_trilinear3d(volume, [rows, *size[1:]], False, factor, None, None)
    return found.transpose(0, 1)
