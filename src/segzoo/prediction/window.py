"""Sliding window. Torch is imported when it slides, since an image in an exported file needs none.

Windows go along the first axis, row of windows by row of windows, so that what lies before the next one is finished: it
is given away at once, and no more than one window's length of the result is held. The windows, and the order in which
they are added up, are MONAI's, and so is every bit of the result.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor, device

BATCH_VOXELS = 128**3  # on a GPU, small windows run together until they hold as many; a CPU gains nothing by it
PART = 2**24  # values of the result that are given away together


def require_overlap(overlap: float) -> None:
    """Refuse what windows cannot share of their length.

    Raises:
        SegzooError: saying so.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")


def slide(run: "Callable[[Tensor], Any]", batch: "Tensor", patch: Sequence[int], **how: Any) -> "Tensor":
    """Return probabilities of a preprocessed batch, in one piece or by a sliding window.

    Args:
        run: as of `slide_along`.
        batch: ``[B, C, *S]`` on any device.
        patch: as of `slide_along`.
        how: its other options.

    Returns:
        ``[B, K, *S]`` on the CPU.

    Raises:
        SegzooError: ``overlap`` is out of range.
    """
    import torch

    size = tuple(batch.shape[2:])
    if window_of(patch, size) == size:
        return next(slide_along(run, batch, patch, **how))
    found = []
    for one in batch:
        whole, first = torch.empty(0), 0
        for rows in slide_along(run, one[None], patch, **how):
            whole = whole if first else rows.new_empty((1, rows.shape[1], *size))
            whole[:, :, first : first + rows.shape[2]] = rows
            first += rows.shape[2]
        found.append(whole)
    return torch.cat(found) if len(found) > 1 else found[0]


def slide_along(
    run: "Callable[[Tensor], Any]",
    batch: "Tensor",
    patch: Sequence[int],
    *,
    overlap: float = 0.5,
    device: "device | str" = "cpu",
    progress: bool = False,
) -> "Iterator[Tensor]":
    """Yield probabilities of a preprocessed batch, some rows of the first axis after the other.

    Windows have the patch's size, or the batch's own along axes where that is smaller. They weigh most at their centre
    (a Gaussian, its standard deviation an eighth of the window) and are averaged after the activation, as in nnU-Net.
    Each is added up on the CPU, where a window's length of rows is held, however many windows there are.

    Args:
        run: from windows ``[B, C, *S]`` to their probabilities ``[B, K, *S]``, tensors or arrays.
        batch: ``[B, C, *S]`` on any device; B is 1 where there are several windows.
        patch: the window's sides.
        overlap: part of its length that a window shares with the next one along each axis, at least 0 and below 1.
        device: where windows run.
        progress: show a bar on stderr that counts the batches of windows.

    Yields:
        ``[B, K, rows, *S[1:]]`` on the CPU, in their order; all together where there is one window.

    Raises:
        SegzooError: ``overlap`` is out of range.
    """
    import torch
    from tqdm import tqdm  # takes longer to import than an image to segment

    require_overlap(overlap)
    device, size = torch.device(device), tuple(batch.shape[2:])
    window = window_of(patch, size)
    if window == size:
        yield torch.as_tensor(run(batch)).cpu()
        return
    batch = batch.float()  # in which windows are added up
    weights = window_weights(window).to(device)
    corners = [*itertools.product(*map(starts, size, window, [overlap] * len(size)))]
    together = 1 if device.type == "cpu" else max(1, BATCH_VOXELS // math.prod(window))
    slab = Slab(window, size, weights.cpu())
    for first in tqdm(range(0, len(corners), together), disable=not progress):
        some = corners[first : first + together]
        boxes = [batch[:, :, *box(corner, window)] for corner in some]
        found = torch.as_tensor(run(torch.cat(boxes).to(device) if len(boxes) > 1 else boxes[0].to(device)))
        found *= weights
        for corner, one in zip(some, found.cpu(), strict=True):
            yield from slab.finished(corner[0])
            slab.add(corner, one)
        del found, one  # which the next window would wait beside
    yield from slab.finished(size[0])


class Slab:
    """Rows of the result that windows are still added to, and the weights that were.

    Args:
        window: the sides of windows.
        size: the sides of the result.
        weights: of a window's voxels.
    """

    def __init__(self, window: Sequence[int], size: Sequence[int], weights: "Tensor") -> None:
        self.window, self.weights = window, weights
        self.shape = (window[0], *size[1:])
        self.first = 0  # row of the result that is the first one here
        self.sums: list[Tensor] = []  # one a class, [rows, *S[1:]]
        self.total = weights.new_zeros(self.shape)

    def add(self, corner: Sequence[int], found: "Tensor") -> None:
        """Add a window's probabilities ``[K, *window]``, weighted, at its place."""
        self.sums = self.sums or [self.total.new_zeros(self.shape) for _ in found]
        place = box((corner[0] - self.first, *corner[1:]), self.window)
        for sums, one in zip(self.sums, found, strict=True):
            sums[place] += one
        self.total[place] += self.weights

    def finished(self, row: int) -> "Iterator[Tensor]":
        """Yield the rows before one at which all further windows begin, or after it; the others move up."""
        import torch

        count = row - self.first
        step = max(1, PART // (max(1, len(self.sums)) * math.prod(self.shape[1:])))
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            yield torch.stack([sums[rows] / self.total[rows] for sums in self.sums])[None]
        if count:
            for kept in (*self.sums, self.total):
                rest = kept[count:].clone()
                kept[: len(rest)] = rest
                kept[len(rest) :] = 0
            self.first = row


# ---- windows


def window_of(patch: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    """Return the sides of the windows of what has these sides."""
    return tuple(map(min, patch, size))


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Return where windows start along an axis; the last one ends with it.

    Example:
        >>> from segzoo.prediction.window import starts
        >>> starts(20, 8, 0.5)
        [0, 4, 8, 12]
        >>> starts(21, 8, 0.5)
        [0, 4, 8, 12, 13]
    """
    step = max(1, int(window * (1 - overlap)))
    return [*range(0, side - window, step), side - window]


def box(corner: Sequence[int], window: Sequence[int]) -> tuple[slice, ...]:
    """Return the place of a window."""
    return tuple(slice(first, first + side) for first, side in zip(corner, window, strict=True))


def window_weights(size: Sequence[int]) -> "Tensor":
    """Return a Gaussian over a window, 1 at its centre, its standard deviation an eighth of each side."""
    import torch

    weights = torch.ones(())
    for side in size:
        offset = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-((offset / (side / 8)) ** 2) / 2)
    return weights
