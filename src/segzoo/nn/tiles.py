"""Pointwise layers on a CPU, for as many voxels at a time as its caches hold.

Two pointwise layers with many channels between them spend more time on memory than on arithmetic when all voxels go
through one layer and then through the other. In tiles, what is between them never leaves the caches, and never exists
as a whole; the norm before them needs no pass of its own, but for its statistics.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TILE = 2**20  # values between the layers at a time
SLAB = 2**12  # voxels that are added up one after another

Layers = Callable[[Tensor], Tensor]  # voxels [V, C] to voxels [V, C']


def eager_on_cpu(x: Tensor) -> bool:
    """Tell whether x is on a CPU and no compiler or exporter is looking on: these have ways of their own."""
    return x.is_cpu and not torch.compiler.is_compiling()


def in_program_of_volumes(x: Tensor) -> bool:
    """Tell whether what is computed of x becomes a program of torch.export, and is of volumes.

    It runs PyTorch's own layers, of which those for volumes are slow in the usual layout.
    """
    return x.ndim == 5 and torch.compiler.is_exporting() and not torch.onnx.is_in_onnx_export()


def voxels(x: Tensor) -> Tensor:
    """List the voxels [V, C] of x [B, C, *S]; a view where x is in channels-last layout."""
    return x.movedim(1, -1).flatten(0, -2)


class Pointwise:
    """Mixin that makes a 1x1 convolution one matrix product on CPUs.

    It takes images and volumes [B, C, *S] and voxels [V, C] alike. The layout that it gives is channels-last, whatever
    that of its input.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """Compute what the convolution would."""
        return self.with_bias(input, self.bias)

    def with_bias(self, input: Tensor, bias: Tensor | None) -> Tensor:
        """Compute it with another bias."""
        if not eager_on_cpu(input) and not in_program_of_volumes(input):
            return self._conv_forward(input, self.weight, bias)  # type: ignore[attr-defined]
        if max(self.stride) > 1:
            steps: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.stride))
            input = input[steps]
        return F.linear(input.movedim(1, -1), self.weight.flatten(1), bias).movedim(-1, 1)


class PointwiseConv2d(Pointwise, nn.Conv2d):
    """Convolution 1x1 of images."""


class PointwiseConv3d(Pointwise, nn.Conv3d):
    """Convolution 1x1x1 of volumes."""


def in_tiles(layers: Sequence[Layers], x: Tensor, width: int) -> Tensor:
    """Apply to each sample of x [B, C, *S] its layers.

    Args:
        layers: as many as samples; they have ``width`` channels within.
        x: in channels-last layout, or it is copied.
        width: see there.

    Returns:
        voxels [V, C'].
    """
    each = x[0, 0].numel()
    most = max(1, TILE // width)
    sizes = [min(most, each - start) for start in range(0, each, most)]
    tiles = voxels(x).split(sizes * len(x))
    return torch.cat([layers[index // len(sizes)](tile) for index, tile in enumerate(tiles)])


def add_in_tiles(layers: Sequence[Layers], x: Tensor, width: int, base: Tensor, out: Tensor) -> None:
    """Write base + layers(x) into ``out``, which may be x or base; without gradients.

    Args:
        layers: as many as samples; they have ``width`` channels within.
        x: [B, C, *S].
        width: see there.
        base: [B, C', *S], of any layout, as ``out``.
        out: [B, C', *S].
    """
    thickness = max(1, TILE // (width * x[0, 0, 0].numel()))
    for layers_of_one, *sample in zip(layers, x, base, out, strict=True):
        slabs = (whole.movedim(0, -1).split(thickness) for whole in sample)
        for one, below, result in zip(*slabs, strict=True):
            mixed = layers_of_one(one.flatten(0, -2))
            torch.add(below, mixed.view(below.shape), out=result)


def instance_norms(x: Tensor, norm: nn.GroupNorm) -> list[Layers]:
    """Make group norm, with a group for every channel, one function of voxels for each sample of x [B, C, *S]."""
    variance, mean = Moments.apply(x)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale
    return [partial(rescaled, *one) for one in zip(scale, shift, strict=True)]


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalise the channels of volumes x [B, C, D, H, W] in operations of which programs may consist.

    PyTorch's own norm adds up one voxel after another where the layout is channels-last, and is the less accurate the
    larger the volumes are.
    """
    means = x.mean((3, 4), keepdim=True)
    variances = (x - means).square_().mean((3, 4), keepdim=True)
    mean = means.mean(2, keepdim=True)
    variance = (variances + (means - mean).square()).mean(2, keepdim=True)  # the law of total variance
    scale = weight.view(-1, 1, 1, 1) * (variance + eps).rsqrt()
    return torch.addcmul(bias.view(-1, 1, 1, 1) - mean * scale, x, scale)


def rescaled(scale: Tensor, shift: Tensor, x: Tensor) -> Tensor:
    """Scale and shift the channels of voxels [V, C], in the scale's precision."""
    return torch.addcmul(shift, x, scale).to(x.dtype)


class Moments(torch.autograd.Function):
    """Variance (biased) and mean [B, C] over the voxels of x [B, C, *S]; at least float32.

    In channels-last layout, those of batch norm take a tenth of the time of ``torch.var_mean``. They add one voxel
    after another, so that what is lost to rounding grows with the volume; hence the slabs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take moments of slabs and put them together by the law of total variance."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        unused = torch.zeros(x.shape[1], dtype=dtype)  # running statistics, which say what type is wanted
        slabs = x.split(max(1, SLAB // x[0, 0, 0].numel()), 2)
        parts = torch.tensor([slab.shape[2] / x.shape[2] for slab in slabs], dtype=torch.float64)
        moments = [torch.batch_norm_update_stats(one, unused, unused, 0.0) for slab in slabs for one in slab.split(1)]
        means, variances = (
            torch.stack(values).double().unflatten(0, (len(slabs), len(x))) for values in zip(*moments, strict=True)
        )
        mean = torch.tensordot(parts, means, 1)
        variance = torch.tensordot(parts, variances + (means - mean).square(), 1).to(dtype)
        mean = mean.to(dtype)
        ctx.save_for_backward(x, mean)
        return variance, mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of x, in one pass over it."""
        x, mean = ctx.saved_tensors
        of_variance, of_mean = (gradient / x[0, 0].numel() for gradient in gradients)
        slope = 2 * of_variance
        spread = (*x.shape[:2], *(1 for _ in x.shape[2:]))
        return torch.addcmul((of_mean - slope * mean).view(spread), x, slope.view(spread)).to(x.dtype)
