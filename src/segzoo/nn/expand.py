"""Linear layer to many channels, layer norms of groups of them, linear layer to few: on CPUs in one pass.

It is the end of a network that grows its last map by a linear layer and depth-to-space: what lies between the two
linear layers has the image's size and many channels, and as whole maps would be written and read half a dozen times.
Norm and the last layer work on each pixel by itself, so that only the few channels have to be put where they belong.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

TILE = 2**18  # values between the layers at a time: a megabyte


class NormedProjection(torch.autograd.Function):
    """last · norm(group of wide · x), for tokens x [N, C], wide [G · E, C] and last [K, E]: [N, G, K]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, wide: Tensor, last: Tensor, eps: float) -> Tensor:
        """Take some tokens at a time through all three."""
        classes, width = last.shape
        tile = max(1, TILE // len(wide))
        is_trained = any(ctx.needs_input_grad)
        between = x.new_empty(len(x) if is_trained else min(tile, len(x)), len(wide))
        output = x.new_empty(len(x), len(wide) // width, classes)
        for number, (some, result) in enumerate(zip(x.split(tile), output.split(tile), strict=True)):
            groups = between.narrow(0, number * tile if is_trained else 0, len(some))
            torch.mm(some, wide.t(), out=groups)
            normed = F.layer_norm(groups.view(-1, width), (width,), eps=eps)
            torch.mm(normed, last.t(), out=result.view(-1, classes))
        if is_trained:
            ctx.save_for_backward(x, wide, last, between)
            ctx.eps, ctx.tile = eps, tile
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, wide and last, from what the first layer gave."""
        x, wide, last, between = ctx.saved_tensors
        classes, width = last.shape
        dx, dwide, dlast = torch.empty_like(x), torch.zeros_like(wide), torch.zeros_like(last)
        parts = (whole.split(ctx.tile) for whole in (x, between, grad, dx))
        for some, groups, slope, result in zip(*parts, strict=True):
            groups, slope = groups.view(-1, width), slope.reshape(-1, classes)
            normed, mean, rstd = torch.native_layer_norm(groups, [width], None, None, ctx.eps)
            dlast.addmm_(slope.t(), normed)
            change, _, _ = torch.ops.aten.native_layer_norm_backward(
                slope @ last, groups, [width], mean, rstd, None, None, [True, False, False]
            )
            change = change.view(len(some), -1)
            dwide.addmm_(change.t(), some)
            torch.mm(change, wide, out=result)
        return dx, dwide, dlast, None
