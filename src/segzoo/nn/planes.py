"""Depthwise 3D convolutions for ONNX Runtime: a 2D one for each plane of the kernel, and their sum.

ONNX Runtime lays out the neighbourhood of every voxel for a 3D convolution, k³ times the volume, and has kernels of
their own for 2D ones. OpenVINO is faster in 3D, and its own files stay so; of an ONNX file it loses less than ONNX
Runtime gains where there are many taps, and more where there are few.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MANY = 5  # taps along an axis from which on it pays


def conv_by_planes(x: Tensor, weight: Tensor, bias: Tensor, stride: Sequence[int]) -> Tensor:
    """Convolve every channel of x [B, C, D, H, W] by itself, padded by half of the odd cubic kernel."""
    size, half = weight.shape[2], weight.shape[2] // 2
    images = F.pad(x.movedim(2, 0), (*(0,) * 8, half, half))  # [D + size - 1, B, C, H, W]
    depth = (x.shape[2] - 1) // stride[0] + 1
    total, none = bias, torch.zeros_like(bias)
    for plane in range(size):
        slices = images[plane : plane + stride[0] * (depth - 1) + 1 : stride[0]].flatten(0, 1)
        # without a bias ONNX Runtime 1.32 takes what is added for one, and refuses it
        found = F.conv2d(slices, weight[:, :, plane], none if plane else bias, stride[1:], half, 1, len(weight))
        total = total + found if plane else found
    return total.unflatten(0, (depth, x.shape[0])).movedim(0, 2)
