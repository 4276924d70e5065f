"""Transposed depthwise convolutions for files: of the coarse grid, one for each residue.

OpenVINO's transposed depthwise convolutions of volumes take twenty times as long as plain ones. Fine positions of one
residue form a coarse grid, on which the transposed convolution is a plain one with some of the taps. What works voxel
by voxel, or takes sums over all of them, can do so before the grids are woven into the fine one.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_FOR_OPENVINO = ContextVar("_FOR_OPENVINO", default=False)


def in_onnx_export() -> bool:
    """Tell whether what is computed becomes the graph of an ONNX file."""
    return torch.compiler.is_compiling() and torch.onnx.is_in_onnx_export()


def in_openvino_export() -> bool:
    """Tell whether that file is for OpenVINO alone."""
    return _FOR_OPENVINO.get() and in_onnx_export()


@contextmanager
def for_openvino() -> Iterator[None]:
    """Have graphs made, until this ends, that suit OpenVINO, not ONNX Runtime."""
    before = _FOR_OPENVINO.set(True)
    try:
        yield
    finally:
        _FOR_OPENVINO.reset(before)


def residues(stride: Sequence[int]) -> list[tuple[int, ...]]:
    """List the remainders that fine positions leave, the last axis changing first."""
    return list(itertools.product(*map(range, stride)))


def transposed_parts(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int]) -> list[Tensor]:
    """Convolve x [B, C, *S] so that the parts, of all `residues`, are the transposed convolution padded by its half.

    Of sides of D voxels the part of residue 0 has D, and that of residue 1 one less.
    """
    convolve = F.conv2d if len(stride) == 2 else F.conv3d
    parts = []
    for place in residues(stride):
        kernel, padding = weight, []
        window: list[Any] = [...]
        for axis, (first, step) in enumerate(zip(place, stride, strict=True), 2):
            taps = slice((first + weight.shape[axis] // 2) % step, None, step)
            kernel = kernel[(slice(None),) * axis + (taps,)]
            half, rest = divmod(kernel.shape[axis] - 1, 2)
            # an even number of taps may find a single voxel, of which nothing is left
            tight = rest and not (isinstance(x.shape[axis], int) and x.shape[axis] > 1)
            padding.append(half + 1 if tight else half)
            window.append(slice(1, x.shape[axis]) if tight else slice(None))
        part = convolve(x, kernel.flip(*range(2, x.ndim)), bias, 1, padding, 1, len(weight))
        parts.append(part[tuple(window)])
    return parts


def weave(parts: Sequence[Tensor], stride: Sequence[int]) -> Tensor:
    """Put parts of all `residues` [B, C, *] on their places, behind a plane of zeros on every axis of stride 2."""
    woven = [
        F.pad(part, [side for first in reversed(place) for side in (first, 0)])
        for part, place in zip(parts, residues(stride), strict=True)
    ][::-1]  # behind the zeros residue 0 is on the odd places
    for axis in range(parts[0].ndim - 1, 1, -1):
        if stride[axis - 2] == 2:
            woven = [interleave(even, odd, axis) for even, odd in zip(woven[::2], woven[1::2], strict=True)]
    return woven[0]


def given_by_convolution(x: Tensor) -> Tensor:
    """Return x [B, C, H, W] of an ONNX file as a convolution gives it: by one that leaves it as it is.

    ONNX Runtime keeps blocks of channels together from one convolution to the next, and adds up what is kept so. What
    is woven is not, and neither would be all that is added to it further on.
    """
    ones = torch.ones(x.shape[1], 1, 1, 1, dtype=x.dtype, device=x.device)
    return F.conv2d(x, ones, groups=x.shape[1])


def interleave(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """Take planes along an axis by turns."""
    if axis < even.ndim - 1:
        return torch.stack((even, odd), axis + 1).flatten(axis, axis + 1)
    # as one matrix of two rows: OpenVINO takes long to copy value by value, and ONNX Runtime to transpose many matrices
    return torch.stack((even, odd)).flatten(1).T.reshape(*even.shape[:-1], 2 * even.shape[-1])
