"""Place of a volume's voxels in the body.

Arrays are ``[D, H, W]``, a file's axes in reverse, as PyTorch has them; affines lead from their indices to
millimetres towards the patient's right, anterior and superior (RAS).
"""

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError

OPPOSITES = ("LR", "PA", "IS")  # where an axis may lead
_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))


@dataclass(eq=False)  # not frozen: Lightning moves no frozen ones to a device
class Geometry:
    """Place of a volume's voxels.

    Attributes:
        shape: ``(D, H, W)``.
        affine: float64 ``[4, 4]``, from voxel indices ``[d, h, w, 1]`` to RAS millimetres.
        nifti: header of the NIfTI file that it was read from, which a mask takes its place from to the bit.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]
    nifti: bytes | None = field(default=None, repr=False)

    @classmethod
    def along_axes(
        cls, shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0), orientation: str = "SAR"
    ) -> "Geometry":
        """Return the grid of a volume that was not read from a file: voxel ``[0, 0, 0]`` at the origin."""
        depth, height, width = shape
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, letter in enumerate(orientation):
            positive = letter in "RAS"
            affine["RAS".index(letter if positive else _OPPOSITE[letter]), axis] = spacing[axis] * (
                1 if positive else -1
            )
        return cls((depth, height, width), affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along ``(d, h, w)``."""
        depth, height, width = (float(side) for side in np.linalg.norm(self.affine[:3, :3], axis=0))
        return depth, height, width

    @property
    def orientation(self) -> str:
        """Direction of the body nearest to each axis: "SAR" leads to superior, anterior and right."""
        directions = self.affine[:3, :3] / self.spacing
        closeness = np.abs(directions)
        best = max(itertools.permutations(range(3)), key=lambda axes: closeness[axes, range(3)].sum())
        letters = ["RAS"[axis] for axis in best]
        return "".join(
            letter if directions[axis, column] > 0 else _OPPOSITE[letter]
            for column, (axis, letter) in enumerate(zip(best, letters, strict=True))
        )


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Return whether two grids have the same shape and no voxel is more than a twentieth of a voxel elsewhere."""
    if one.shape != other.shape:
        return False
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, side - 1) for side in one.shape))])
    apart = np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1)
    return bool(apart.max() <= 0.05 * min(one.spacing))


def axes_between(source: str, target: str) -> tuple[list[int], list[int]]:
    """Return, for each target axis, the source axis it is, and the target axes that lead the other way."""
    kind = {letter: pair for pair in OPPOSITES for letter in pair}
    kinds = [kind[letter] for letter in source]
    axes = [kinds.index(kind[letter]) for letter in target]
    return axes, [axis for axis, letter in enumerate(target) if letter not in source]


def check_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Refuse voxels without a size."""
    if not all(0 < side < np.inf for side in spacing):
        found = " x ".join(f"{side:g}" for side in spacing)
        raise SegzooError(f"{path} has a spacing of {found} mm; every side of a voxel must be above 0.")


def check_directions(path: Path, affine: npt.NDArray[np.float64]) -> None:
    """Refuse axes that are not at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.abs(directions.T @ directions - np.eye(3)).max() < 1e-3:  # also refuses NaN
        raise skewed(path)


def warn_of_no_place(path: Path, *, spacing: bool, directions: bool) -> None:
    """Warn of a header that lacks the voxels' spacing or directions, which are taken to be those of the format."""
    lacks = [
        *([] if spacing else ["how large its voxels are: they are taken to have 1 mm a side"]),
        *([] if directions else ["how the patient lies: its axes are taken to lead left, posterior and superior"]),
    ]
    if lacks:
        warnings.warn(f"{path} does not say {', nor '.join(lacks)}.", stacklevel=2)


def too_flat(path: Path, dimensions: int) -> SegzooError:
    """Say that a file holds no volume."""
    return SegzooError(f"{path} is {dimensions}D where a 3D volume is expected.")


def not_finite(path: Path) -> SegzooError:
    """Say that an affine or a spacing is not finite."""
    return SegzooError(f"{path} holds NaN or infinite voxels; replace them first.")


def unreadable(path: Path) -> SegzooError:
    """Say that a file is not a volume."""
    return SegzooError(f"Cannot read {path} as a volume: it is damaged, cut short or not of the format its name says.")


def skewed(path: Path) -> SegzooError:
    """Say that a grid is sheared."""
    return SegzooError(f"The axes of {path} are not at right angles to each other; resample it to a grid whose are.")
