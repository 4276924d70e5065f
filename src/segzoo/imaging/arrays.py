"""Volumes in memory: arrays and tensors as what `read_volume` gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import is_tensor, refuse_bytes
from segzoo.imaging.volumes import Volume


def as_volume(values: Any, spacing: Sequence[float] = (1.0, 1.0, 1.0), orientation: str = "SAR") -> Volume:
    """Bring a volume in memory to the form that `read_volume` gives.

    Args:
        values: a :class:`Volume`, or an array or tensor [D, H, W] or [C, D, H, W].
        spacing: millimetres between the voxels, where the values do not say it.
        orientation: where the axes lead to, likewise.

    Raises:
        SegzooError: the voxels are of another shape, not numbers, or not finite.
    """
    refuse_bytes(values)
    if isinstance(values, Volume):
        return Volume(_voxels(values.array, values.geometry.shape), values.geometry)
    array = _voxels(values)
    return Volume(array, Geometry.along_axes(array.shape[1:], spacing, orientation))


def _voxels(values: Any, shape: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
    """Return finite voxels as float32 [C, D, H, W], on a grid of this shape where that is known."""
    array = values.detach().cpu().float().numpy() if is_tensor(values) else np.asarray(values)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise SegzooError(
            f"A volume must be numbers of shape [D, H, W] or [C, D, H, W], not {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    if shape is not None and array.shape[1:] != tuple(shape):
        raise SegzooError(f"The volume's array is {list(array.shape[1:])} voxels, its geometry {list(shape)}.")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise SegzooError("The volume holds NaN or infinite voxels.")
    return array
