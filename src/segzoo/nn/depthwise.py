"""Depthwise 3D convolutions that are fast on CPUs, forwards and backwards.

PyTorch's forward pass in channels-last layout is fast there, and so are 2D weight gradients; its transposed
convolutions and its gradients in 3D take ten times as long (pytorch/pytorch#18631, #37406). So the latter are put
together from the former, exactly:

- a transposed convolution of stride s, as s³ convolutions of the coarse grid, one for each residue of the fine
  positions; this is also the input's gradient of a strided convolution, which at stride 1 is thus a plain convolution
  with the flipped kernel;
- the weight's gradient, as a 2D one for each plane of the kernel.

On other devices, and where a graph is compiled or exported, the layers are PyTorch's own; but in ONNX files that are
not for OpenVINO large kernels are 2D ones (segzoo.nn.planes).
"""

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from segzoo.nn.planes import MANY, conv_by_planes
from segzoo.nn.tiles import eager_on_cpu
from segzoo.nn.woven import in_onnx_export, in_openvino_export

CHANNELS_LAST = torch.channels_last_3d
COLUMNS = 3  # of a kernel, the most that 2D weight gradients are fast with


class DepthwiseConv3d(nn.Conv3d):
    """Convolution of as many groups as channels, with an odd cubic kernel padded by its half."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve channels [B, C, D, H, W], each by itself."""
        if eager_on_cpu(input) and self.kernel_size[0] > 1 and needs_gradient(input, self.weight):
            x, weight, bias = prepared(input, self.weight, cast(Tensor, self.bias))
            return cast(Tensor, Depthwise.apply(x, weight, bias, self.stride))
        if in_onnx_export() and not in_openvino_export() and self.kernel_size[0] >= MANY:
            return conv_by_planes(input, self.weight, cast(Tensor, self.bias), self.stride)
        return super().forward(input)


class DepthwiseConvTranspose3d(nn.ConvTranspose3d):
    """Transpose of `DepthwiseConv3d`."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Go from sides of D to sides of stride · (D - 1) + 1 voxels."""
        if not eager_on_cpu(input) or self.kernel_size[0] == 1 or output_size is not None:
            return super().forward(input, output_size)
        x, weight, bias = prepared(input, self.weight, cast(Tensor, self.bias))
        size = [step * (side - 1) + 1 for step, side in zip(self.stride, x.shape[2:], strict=True)]
        function = TransposedDepthwise.apply if needs_gradient(x, weight) else scatter
        return cast(Tensor, function(x, weight, bias, self.stride, size))


def needs_gradient(*tensors: Tensor) -> bool:
    """Tell whether autograd is to record what is done to these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def prepared(x: Tensor, *parameters: Tensor) -> list[Tensor]:
    """Bring tensors into the layout and type that the functions below want; autocast does not see into them."""
    x = x.contiguous(memory_format=CHANNELS_LAST)
    if torch.is_autocast_enabled("cpu") and x.dtype != torch.float64:
        return [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in (x, *parameters)]
    return [x, *parameters]


class Depthwise(torch.autograd.Function):
    """y[o] = bias + sum over taps t of weight[t] x[stride · o + t - k // 2], in every channel by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...]) -> Tensor:
        """Convolve as PyTorch does."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv3d(x, weight, bias, stride, weight.shape[-1] // 2, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of x, weight and bias; they can be differentiated again."""
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=CHANNELS_LAST)
        wanted = ctx.needs_input_grad
        return (
            scatter(gradient, weight, None, ctx.stride, x.shape[2:]) if wanted[0] else None,
            weight_gradient(x, gradient, weight, ctx.stride) if wanted[1] else None,
            gradient.sum((0, 2, 3, 4)) if wanted[2] else None,
            None,
        )


class TransposedDepthwise(torch.autograd.Function):
    """y[stride · i + t - k // 2] += weight[t] x[i] over all i and t, and bias added."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: tuple[int, ...], size: Sequence[int]
    ) -> Tensor:
        """Return the output, of that size."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return scatter(x, weight, bias, stride, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of x, weight and bias; they can be differentiated again."""
        x, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous(memory_format=CHANNELS_LAST)
        wanted, padding = ctx.needs_input_grad, weight.shape[-1] // 2
        return (
            F.conv3d(gradient, weight, None, ctx.stride, padding, 1, len(weight)) if wanted[0] else None,
            weight_gradient(gradient, x, weight, ctx.stride) if wanted[1] else None,
            gradient.sum((0, 2, 3, 4)) if wanted[2] else None,
            None,
            None,
        )


def scatter(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], size: Sequence[int]) -> Tensor:
    """Do the transposed convolution of x [B, C, *S], of any ``size`` that a convolution of this stride takes to S."""
    out = torch.empty((*x.shape[:2], *size), dtype=x.dtype, memory_format=CHANNELS_LAST)
    for residues in itertools.product(*map(range, stride)):
        if any(first >= side for first, side in zip(residues, size, strict=True)):
            continue
        kernel, padding = weight, []
        window: list[Any] = [...]
        places: list[Any] = [...]
        for axis, (first, step) in enumerate(zip(residues, stride, strict=True), 2):
            # fine position step · i + first gets taps t from coarse position i + (first + half - t) / step
            half, count = weight.shape[axis] // 2, len(range(first, size[axis - 2], step))
            taps = range((first + half) % step, weight.shape[axis], step)
            kernel = kernel[(slice(None),) * axis + (slice(taps.start, None, step),)]
            before = (taps[-1] - first - half) // step
            after = count - 1 + len(taps) - x.shape[axis] - before
            padding.append(max(before, after, 0))
            window.append(slice(padding[-1] - before, padding[-1] - before + count))
            places.append(slice(first, None, step))
        part = F.conv3d(x, kernel.flip(2, 3, 4), bias, 1, padding, 1, len(weight))[tuple(window)]
        if max(stride) == 1:
            return part
        out[tuple(places)] = part
    return out


def weight_gradient(x: Tensor, gradient: Tensor, weight: Tensor, stride: Sequence[int]) -> Tensor:
    """Work out the gradient of a depthwise convolution's weight, from its input and the gradient of its output."""
    size = weight.shape[-1]
    half, step, (depth, coarse) = size // 2, stride[0], (x.shape[2], gradient.shape[2])
    whole = size <= COLUMNS
    padding = (half, half if whole else 0)
    wide = x if whole else F.pad(x, (half, half + COLUMNS))
    columns = []
    for left in range(0, size, COLUMNS):
        padded = wide if whole else wide[..., left : left + x.shape[-1] + COLUMNS - 1]
        padded = padded.contiguous(memory_format=CHANNELS_LAST)
        planes = []
        for offset in range(-half, half + 1):
            start = max(0, -(offset // step))
            end = max(start, min(coarse, (depth - 1 - offset) // step + 1))
            inputs = padded[:, :, step * start + offset : max(0, step * (end - 1) + offset + 1) : step]
            pairs = zip(inputs.transpose(1, 2), gradient[:, :, start:end].transpose(1, 2), strict=True)
            shape = (len(weight), 1, size, min(size, COLUMNS))
            parts = [
                conv2d_weight(a, shape, b, stride[1:], padding, groups=len(weight)) for a, b in pairs if len(a) > 0
            ]
            planes.append(sum(parts, weight.new_zeros(shape)))
        columns.append(torch.stack(planes, 2)[..., : size - left])
    return torch.cat(columns, -1)
