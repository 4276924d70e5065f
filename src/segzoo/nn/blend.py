"""Pointwise steps of Vision-RWKV's mixes: the shift and its blends, the squared ReLU, the gate.

Each is a formula of a few operations. What is more here is their gradient by hand, for eager CPUs: it keeps less, and
passes over the memory less often.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.nn.depthwise import needs_gradient
from segzoo.nn.tiles import eager_on_cpu

Grid = tuple[int, int]
VALUES = 2**20  # of so many at a time that what is between the passes stays in a cache


def q_shift(x: Tensor, grid: Grid, pixels: int = 1, gamma: float = 0.25) -> Tensor:
    """Let four groups of channels take the value of the left, right, upper and lower neighbour.

    Args:
        x: tokens [B, T, C].
        grid: (h, w) with h·w = T.
        pixels: how far the neighbour is; beyond the border is zero.
        gamma: share of the channels in each group; the channels after the fourth group stay as they are.

    Returns:
        Shifted tokens [B, T, C].
    """
    (height, width), channels = grid, x.shape[2]
    ends = [int(channels * gamma * number) for number in range(1, 5)]
    left, right, upper, lower, rest = x.unflatten(1, grid).tensor_split(ends, dim=3)
    moved = [
        F.pad(left, (0, 0, pixels, 0))[:, :, :width],
        F.pad(right, (0, 0, 0, pixels))[:, :, pixels:],
        F.pad(upper, (0, 0, 0, 0, pixels, 0))[:, :height],
        F.pad(lower, (0, 0, 0, 0, 0, pixels))[:, pixels:],
    ]
    return torch.cat([*moved, rest], dim=3).flatten(1, 2)


class Blend(torch.autograd.Function):
    """``torch.lerp(q_shift(x), x, mix)`` of tokens x [B, T, C], for each mix [1, 1, C]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, pixels: int, gamma: float, *mixes: Tensor) -> tuple[Tensor, ...]:
        """Shift some images at a time, and blend them for all uses."""
        blends = tuple(torch.empty(x.shape, dtype=x.dtype) for _ in mixes)
        for some, *results in zip(*map(parts, (x, *blends)), strict=True):
            shifted = shift(some, grid, pixels, gamma)
            for mix, result in zip(mixes, results, strict=True):
                torch.lerp(shifted, some, mix, out=result)
        ctx.save_for_backward(x, *mixes)
        ctx.how = (grid, pixels, gamma)
        return blends

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x and of the mixes; the shift is done again."""
        x, *mixes = ctx.saved_tensors
        dx = torch.empty(x.shape, dtype=x.dtype)
        dmixes = [torch.zeros_like(mix) for mix in mixes]
        for some, result, *slopes in zip(*map(parts, (x, dx, *grads)), strict=True):
            difference = some - shift(some, *ctx.how)
            torch.mul(slopes[0], mixes[0], out=result)
            to_shifted = slopes[0] - result
            for mix, slope in zip(mixes[1:], slopes[1:], strict=True):
                result.addcmul_(slope, mix)
                to_shifted.addcmul_(slope, 1 - mix)
            for dmix, slope in zip(dmixes, slopes, strict=True):
                dmix += (slope * difference).sum((0, 1), keepdim=True)
            for target, source in moves(result, to_shifted, *ctx.how, back=True):
                target += source
        return dx, None, None, None, *dmixes


def parts(x: Tensor) -> Sequence[Tensor]:
    """Cut the batch of x [B, T, C]."""
    return x.split(max(1, VALUES // x[0].numel()))


def shift(x: Tensor, grid: Grid, pixels: int, gamma: float) -> Tensor:
    """Do what :func:`q_shift` does, in one pass."""
    shifted = torch.zeros_like(x, memory_format=torch.contiguous_format)
    for target, source in moves(shifted, x, grid, pixels, gamma):
        target.copy_(source)
    return shifted


def moves(
    target: Tensor, source: Tensor, grid: Grid, pixels: int, gamma: float, *, back: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, group by group, the part of target that takes a part of source, both tokens [B, T, C].

    Args:
        target: where the tokens go.
        source: where they come from.
        grid: see :func:`q_shift`, as for the two that follow.
        pixels: see there.
        gamma: see there.
        back: from where they were shifted to, to where they were.
    """
    target, source = target.unflatten(1, grid), source.unflatten(1, grid)
    ends = [int(source.shape[3] * gamma * number) for number in range(1, 5)]
    groups = zip(target.tensor_split(ends, dim=3), source.tensor_split(ends, dim=3), strict=True)
    for (to, of), (axis, forwards) in zip(groups, ((2, True), (2, False), (1, True), (1, False)), strict=False):
        kept = max(to.shape[axis] - pixels, 0)
        start = to.shape[axis] - kept
        first, second = (start, 0) if forwards is not back else (0, start)
        yield to.narrow(axis, first, kept), of.narrow(axis, second, kept)
    yield target[..., ends[3] :], source[..., ends[3] :]


def squared_relu(x: Tensor) -> Tensor:
    """Return relu(x)². It may overwrite x where no gradient is wanted."""
    if not eager_on_cpu(x):
        return F.relu(x).square()
    if needs_gradient(x):
        return cast(Tensor, SquaredReLU.apply(x))
    return x.relu_().square_()


class SquaredReLU(torch.autograd.Function):
    """Squared ReLU, which keeps its input alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return relu(x)²."""
        ctx.save_for_backward(x)
        return x.relu().square_()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return 2 relu(x) · grad."""
        (x,) = ctx.saved_tensors
        return x.relu().mul_(grad).mul_(2)


def gated(gate: Tensor, x: Tensor) -> Tensor:
    """Return sigmoid(gate) · x. It may overwrite the gate where no gradient is wanted."""
    if eager_on_cpu(x) and gate.dtype is x.dtype and not needs_gradient(gate, x):
        return gate.sigmoid_().mul_(x)
    return gate.sigmoid() * x
