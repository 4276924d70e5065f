"""Batch norm and a 1x1 convolution after it, in training on a CPU: the normalised map never exists.

A head of few channels takes less time than writing and reading what it is applied to. Both are linear in the map but
for the statistics, so that the head's weights take up the norm's scale; backwards the map's gradient is the product
with those weights, less its share of the statistics, and all sums that are needed are one product of small matrices.
Statistics and that product are taken slab by slab and put together in float64: a sum of all voxels, one after another,
loses digits.
"""

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.nn.tiles import SLAB, Moments, eager_on_cpu, voxels

FEW = 8  # channels of a head


def normed_product(x: Tensor, norm: nn.Module, head: nn.Module) -> Tensor:
    """Return ``head(norm(x))`` of x [B, C, H, W]."""
    if not (in_full_precision(x) and is_learning(norm) and is_small(head)):
        return cast(Tensor, head(norm(x)))
    found: Tensor = NormedProduct.apply(
        voxels(x), norm.weight, norm.bias, head.weight.flatten(1), head.bias, norm.eps, track(norm)
    )
    return found.view(len(x), *x.shape[2:], -1).movedim(-1, 1)


def in_full_precision(x: Tensor) -> bool:
    """Tell whether x is trained on here, and not in half precision."""
    computed = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return computed and eager_on_cpu(x) and torch.is_grad_enabled()


def is_learning(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Tell whether this is PyTorch's own batch norm, of the batch at hand."""
    return type(norm) is nn.BatchNorm2d and norm.training and norm.affine and norm.momentum is not None


def is_small(head: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether this is a 1x1 convolution to few channels; somebody may have put another layer in its place."""
    return (
        isinstance(head, nn.Conv2d)
        and (head.kernel_size, head.stride, head.padding) == ((1, 1), (1, 1), (0, 0))
        and head.groups == 1
        and head.out_channels <= FEW
        and head.bias is not None
    )


def track(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, float] | None:
    """Return the running statistics and their momentum, if there are any, and count the batch."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return None
    norm.num_batches_tracked.add_(1)
    assert norm.momentum is not None
    return norm.running_mean, norm.running_var, norm.momentum


class NormedProduct(torch.autograd.Function):
    """y = head(norm(x)) of voxels x [V, C]: y [V, K] = x̂ (weight · scale)ᵀ + shifts, x̂ the standardised x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, running: Any
    ) -> Tensor:
        """Return the product, and move the running statistics."""
        (variance,), (mean,) = Moments.apply(x.T[None, :, :, None])  # all voxels as one image, in channels-last layout
        if running is not None:
            running_mean, running_var, momentum = running
            running_mean.lerp_(mean, momentum)  # as PyTorch's batch norm does
            running_var.lerp_(variance * (len(x) / max(1, len(x) - 1)), momentum)
        inverse = (variance + eps).rsqrt()
        folded = weight * (scale * inverse)
        ctx.save_for_backward(x, mean, inverse, scale, shift, weight)
        return F.linear(x, folded, bias + weight @ shift - folded @ mean)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, scale, shift, weight and bias."""
        x, mean, inverse, scale, shift, weight = ctx.saved_tensors
        gradient, voxel_count = gradients[0], len(x)
        total = gradient.sum(0)  # [K]
        products = [of_slab.T @ slab for of_slab, slab in zip(gradient.split(SLAB), x.split(SLAB), strict=True)]
        centred = torch.stack(products).double().sum(0) - total.double()[:, None] * mean
        standardised = centred.to(x.dtype) * inverse  # [K, C]: products with x̂, summed up
        of_scale, of_shift = (weight * standardised).sum(0), total @ weight
        factor = scale * inverse
        slope = factor * inverse * of_scale / voxel_count
        of_x = torch.addcmul(slope * mean - factor * of_shift / voxel_count, x, slope, value=-1)
        of_x.addmm_(gradient, weight * factor)
        of_weight = scale * standardised + total[:, None] * shift
        return of_x, of_scale, of_shift, of_weight, total, None, None
