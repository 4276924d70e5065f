"""Blocks of MedNeXt: ConvNeXt's for volumes and images, and two that change the resolution.

A large depthwise convolution looks around, two pointwise layers with a wide space between them mix the channels, and
the input is added. On CPUs the wide space is worked through in tiles (segzoo.nn.tiles), so that it never exists as a
whole. ONNX files have the layers that their runtimes are fast in (segzoo.nn.woven).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from segzoo.nn import tiles
from segzoo.nn.depthwise import DepthwiseConv3d, DepthwiseConvTranspose3d
from segzoo.nn.tiles import PointwiseConv2d, PointwiseConv3d
from segzoo.nn.woven import given_by_convolution, in_onnx_export, in_openvino_export, transposed_parts, weave

POINTWISE: dict[int, Any] = {2: PointwiseConv2d, 3: PointwiseConv3d}


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, *S], voxel by voxel."""

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # CPUs would sum up gradients in bfloat16
        return super().forward(wide.movedim(1, -1)).movedim(-1, 1).to(x.dtype)


class InstanceNorm(nn.GroupNorm):
    """Group norm with a group for every channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        # OpenVINO brings volumes into another layout for its own norm, which takes longer than all of this
        if tiles.in_program_of_volumes(x) or (x.ndim == 5 and in_openvino_export()):
            return tiles.instance_norm(x, self.weight, self.bias, self.eps)
        if not in_onnx_export():
            return super().forward(x)
        # in one operation, not three. Volumes go through it as lists: OpenVINO, which may run such a file, too, adds up
        # one voxel after another in the layout that it otherwise takes
        flat = x if x.ndim == 4 else x.flatten(2)
        return F.instance_norm(flat, weight=self.weight, bias=self.bias, eps=self.eps).view(x.shape)


def make_norm(name: str, channels: int) -> nn.Module:
    """Make the norm after a depthwise convolution: "group", with a group for every channel, or "layer"."""
    return InstanceNorm(channels) if name == "group" else ChannelNorm(channels)


class GlobalResponseNorm(nn.Module):
    """Global response normalisation (ConvNeXt V2, https://arxiv.org/abs/2301.00808): channels compete by their norms.

    Starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        space = tuple(range(2, x.ndim))
        wide = torch.promote_types(x.dtype, torch.float32)  # a volume's sum of squares is beyond float16
        response = torch.linalg.vector_norm(x, dim=space, keepdim=True, dtype=wide)
        response = (response / (response.mean(dim=1, keepdim=True) + 1e-6)).to(x.dtype)
        gamma, beta = (parameter.view(-1, *(1 for _ in space)) for parameter in (self.gamma, self.beta))
        return gamma * (x * response) + beta + x


class MedNeXtBlock(nn.Module):
    """Depthwise convolution, norm, expansion, GELU, compression, and the block's input added (figure 1).

    Args:
        channels: of the input.
        expansion: ratio of the inner channels to the input's.
        kernel_size: of the depthwise convolution.
        spatial_dims: 2 or 3.
        norm: "group" or "layer".
        grn: normalise global responses after the GELU.
        checkpointing: what the backward pass computes again: None, "block", or "expansion".
        out_channels: of the output; None is as many as of the input.
        stride: of the depthwise convolution, one number an axis; None is 1.
        transposed: the depthwise convolution is a transposed one.
    """

    def __init__(
        self,
        channels: int,
        expansion: int,
        kernel_size: int,
        *,
        spatial_dims: int,
        norm: str,
        grn: bool,
        checkpointing: str | None,
        out_channels: int | None = None,
        stride: Sequence[int] | None = None,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        conv = POINTWISE[spatial_dims]
        inner = expansion * channels
        self.depthwise = depthwise_conv(channels, kernel_size, stride or (1,) * spatial_dims, transposed)
        self.norm = make_norm(norm, channels)
        self.expand = conv(channels, inner, kernel_size=1)
        self.grn = GlobalResponseNorm(inner) if grn else nn.Identity()
        self.compress = conv(inner, out_channels or channels, kernel_size=1)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        return self.recomputed("block", self.compute, x)

    def compute(self, x: Tensor) -> Tensor:
        """Compute the block's function."""
        fine = self.depthwise(x)
        return self.add_branch(fine, x, out=fine)

    def add_branch(self, x: Tensor, residual: Tensor, out: Tensor | None = None) -> Tensor:
        """Add to the residual what follows the depthwise convolution, whose output is x.

        Without gradients it is written into ``out``, which may be x or the residual.
        """
        width = self.expand.out_channels
        if not tiles.eager_on_cpu(x) or not isinstance(self.grn, nn.Identity):
            return self.recomputed("expansion", self.mix_channels, self.norm(x)).add_(residual)
        norms = tiles.instance_norms(x, self.norm) if isinstance(self.norm, nn.GroupNorm) else [self.norm] * len(x)
        if out is None or torch.is_grad_enabled():
            layers = [partial(self.recomputed, "expansion", self.mix_voxels, norm) for norm in norms]
            mixed = tiles.in_tiles(layers, x, width).add_(tiles.voxels(residual))
            return mixed.view(len(x), *x.shape[2:], -1).movedim(-1, 1)
        tiles.add_in_tiles([partial(self.mix_voxels, norm) for norm in norms], x, width, residual, out)
        return out

    def mix_channels(self, x: Tensor) -> Tensor:
        """Apply the pointwise layers; nearly all of the block's activations are inside."""
        return self.compress(self.grn(F.gelu(self.expand(x))))

    def mix_voxels(self, norm: tiles.Layers, x: Tensor) -> Tensor:
        """Apply norm and pointwise layers to voxels [V, C]."""
        return self.compress(F.gelu(self.expand(norm(x))))

    def recomputed(self, part: str, function: Any, *x: Any) -> Tensor:
        """Return ``function(*x)``; where ``part`` is checkpointed, its inner values are not kept for the gradient."""
        if self.training and self.checkpointing == part:
            return checkpoint(function, *x, use_reentrant=False, preserve_rng_state=False)  # nothing in it is random
        return function(*x)


class DownBlock(MedNeXtBlock):
    """Block whose depthwise convolution, and a pointwise one beside it, step over voxels; channels double."""

    def __init__(self, channels: int, *numbers: int, spatial_dims: int, stride: Sequence[int], **options: Any) -> None:
        options |= {"spatial_dims": spatial_dims, "out_channels": 2 * channels}
        super().__init__(channels, *numbers, stride=stride, **options)
        self.residual = POINTWISE[spatial_dims](channels, 2 * channels, kernel_size=1, stride=tuple(stride))

    def compute(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        return self.add_branch(self.depthwise(x), residual, out=residual)


class UpBlock(MedNeXtBlock):
    """Block whose depthwise convolution is transposed; channels halve.

    Transposed without output padding, it makes stride · D - (stride - 1) voxels of D, on which all of the block works;
    the missing planes are zeros at the front of every axis. The residual, a pointwise layer of the input, lands on the
    voxels that the stride leads to; its bias is added to all but the zeros.
    """

    def __init__(self, channels: int, *numbers: int, spatial_dims: int, stride: Sequence[int], **options: Any) -> None:
        options |= {"spatial_dims": spatial_dims, "out_channels": channels // 2}
        super().__init__(channels, *numbers, stride=stride, transposed=True, **options)
        self.stride = tuple(stride)
        self.residual: Any = pointwise_drawn_as_transposed(channels, channels // 2, spatial_dims)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        """Add the block's function to the skip connection."""
        return self.recomputed("block", self.compute_onto, x, skip)

    def compute_onto(self, x: Tensor, skip: Tensor) -> Tensor:
        """Do so, as the part that "block" recomputes."""
        if in_onnx_export() or tiles.in_program_of_volumes(x):
            woven = self.compute_woven(x)
            return (woven if x.ndim == 5 or in_openvino_export() else given_by_convolution(woven)) + skip
        fine = self.depthwise(x)
        weight, bias = self.residual.weight, self.residual.bias.view(1, -1, *(1,) * len(self.stride))
        # worked out on the coarse grid, since all other voxels of the transposed convolution would be zeros
        coarse = F.linear(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
        reached: tuple[Any, ...] = (..., *(slice(step - 1, None, step) for step in self.stride))
        if tiles.eager_on_cpu(x) and not torch.is_grad_enabled():
            total = skip.clone()
            total[reached] += coarse
            inside: tuple[Any, ...] = (..., *(slice(step - 1, None) for step in self.stride))
            covered = total[inside].add_(bias)
            covered.copy_(self.add_branch(fine, covered, out=covered))  # nothing to do where it is there already
            return total
        front = [side for step in reversed(self.stride) for side in (step - 1, 0)]  # F.pad counts from the last axis
        fine = F.pad(self.add_branch(fine, bias), front)
        fine[reached] += coarse
        return fine.add_(skip)

    def compute_woven(self, x: Tensor) -> Tensor:
        """Compute the block's function residue by residue of the fine grid, and weave when channels have halved."""
        depthwise: Any = self.depthwise
        parts = transposed_parts(x, depthwise.weight, depthwise.bias, self.stride)
        sides = [step * (side - 1) + 1 for step, side in zip(self.stride, x.shape[2:], strict=True)]
        # voxels in whatever order: it is all the same to norm and pointwise layers
        fine = torch.cat([part.flatten(2) for part in parts], 2).unflatten(2, sides)
        wide = self.grn(F.gelu(self.expand(self.norm(fine))))
        biases = self.compress.bias + self.residual.bias
        mixed = self.compress.with_bias(wide, biases).flatten(2)
        first, *others = [
            found.view(*found.shape[:2], *part.shape[2:])
            for found, part in zip(mixed.split([part[0, 0].numel() for part in parts], 2), parts, strict=True)
        ]
        # without a bias ONNX Runtime 1.32 takes what is added for one, and refuses it
        first = first + self.residual.with_bias(x, torch.zeros_like(biases))
        return weave([first, *others], self.stride)


def depthwise_conv(channels: int, kernel_size: int, stride: Sequence[int], transposed: bool = False) -> nn.Module:
    """Make a depthwise convolution: of images or of volumes, as ``stride`` has axes; at stride 1 it keeps sizes."""
    options: dict[str, Any] = {"stride": tuple(stride), "padding": kernel_size // 2, "groups": channels}
    if len(stride) == 3:
        layer: Any = DepthwiseConvTranspose3d if transposed else DepthwiseConv3d
    else:
        layer = nn.ConvTranspose2d if transposed else nn.Conv2d
    return layer(channels, channels, kernel_size, **options)


def pointwise_drawn_as_transposed(in_channels: int, out_channels: int, spatial_dims: int) -> nn.Module:
    """Make a 1x1 convolution that starts with the values of the transposed ones that the original has in some places.

    They compute the same, but PyTorch scales the first values of transposed ones by the number of output channels.
    """
    conv: nn.Module = POINTWISE[spatial_dims](in_channels, out_channels, kernel_size=1)
    bound = out_channels**-0.5
    for parameter in conv.parameters():
        nn.init.uniform_(parameter, -bound, bound)
    return conv
