"""Measurements of a segmentation's structures: how large, in how many pieces, how long, how bright.

SimpleITK measures, and connects voxels that touch by a corner. The diameter alone is found here: SimpleITK compares
each voxel of the surface with each other, for minutes where a structure is large. The two voxels that lie farthest
apart are corners of the structure's convex hull, and each is an end of every line of voxels that it lies on, along any
axis; so few are left to be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.imaging.itk import simpleitk
from segzoo.imaging.segmentation import ClassMasks, Segmentation

Array = npt.NDArray[Any]
FEW = 1000  # points that are compared with each other without looking for their hull
TOGETHER = 2**20  # distances that are held at once
UNITS = {2: ("mm2", 1), 3: ("mL", 1000)}  # of areas and volumes, and as many mm2 or mm3 make one
FLAT = 1e-9  # of its length: breadth below which a set of points is taken for a line or a plane


@dataclass(frozen=True)
class Measurement:
    """One structure of one case.

    Attributes:
        structure: name of the class.
        size: volume, or of an image the area.
        unit: of it: "mL", "mm2" or, of an image that does not say how large its pixels are, "pixels".
        components: connected pieces, also by a corner.
        diameter: between the centres of the two voxels or pixels that lie farthest apart; None where there is none.
        diameter_unit: "mm" or "pixels".
        means: of the intensities of each channel; none where the structure is empty.
        deviations: their standard deviations, by n - 1, likewise.
    """

    structure: str
    size: float
    unit: str
    components: int
    diameter: float | None
    diameter_unit: str
    means: tuple[float, ...]
    deviations: tuple[float, ...]


def measure(found: Segmentation, intensities: Array, pixel_spacing: Sequence[float] | None = None) -> list[Measurement]:
    """Measure each structure of a segmentation: every class but the background; those that overlap each by itself.

    Args:
        found: mask, and of a volume its grid.
        intensities: [C, *S] of the input.
        pixel_spacing: of an image, millimetres between its rows and between its columns, where it says them.

    Example:
        >>> import numpy as np
        >>> from segzoo.imaging.measure import measure
        >>> from segzoo.imaging.segmentation import Segmentation
        >>> mask = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
        >>> found = Segmentation(mask, np.zeros((0, 3, 3)), ("background", "lesion"))
        >>> (lesion,) = measure(found, np.arange(9.0).reshape(1, 3, 3))
        >>> lesion.size, lesion.unit, lesion.components, lesion.means, lesion.deviations
        (3.0, 'pixels', 2, (3.0,), (2.6457513110645907,))
        >>> round(lesion.diameter, 3)
        2.828
    """
    spacing = pixel_spacing if found.geometry is None else found.geometry.spacing
    named = zip(found.foreground_names(), ClassMasks(found), strict=True)
    return [measurement(name, mask, intensities, spacing) for name, mask in named]


def measurement(name: str, mask: Array, intensities: Array, spacing: Sequence[float] | None) -> Measurement:
    """Measure one structure.

    Args:
        name: of it.
        mask: bool [*S].
        intensities: [C, *S].
        spacing: of the voxels or pixels, in millimetres; None where nothing says it.
    """
    length = "pixels" if spacing is None else "mm"
    unit, one = (length, 1) if spacing is None else UNITS[mask.ndim]
    box = bounding_box(mask)
    if box is None:
        return Measurement(name, 0, unit, 0, None, length, (), ())
    inside, sides = np.ascontiguousarray(mask[box]), spacing or (1.0,) * mask.ndim
    with simpleitk() as sitk:

        def image_of(values: Array) -> Any:
            image = sitk.GetImageFromArray(values)
            image.SetSpacing([float(side) for side in reversed(sides)])
            return image

        labels = image_of(inside.view(np.uint8))
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.ComputePerimeterOff()
        shape.Execute(labels)
        pieces = sitk.ConnectedComponentImageFilter()
        pieces.FullyConnectedOn()
        pieces.Execute(labels)
        means, deviations = [], []
        for channel in intensities:
            bright = sitk.LabelIntensityStatisticsImageFilter()
            bright.ComputePerimeterOff()
            kind = np.float32 if channel.dtype == np.float32 else np.float64  # which holds all that files store
            bright.Execute(labels, image_of(np.ascontiguousarray(channel[box], kind)))
            means.append(float(bright.GetMean(1)))
            deviations.append(float(bright.GetStandardDeviation(1)))
        size = shape.GetPhysicalSize(1) / one
        components = pieces.GetObjectCount()
    diameter = largest_diameter(inside, sides)
    return Measurement(name, size, unit, components, diameter, length, tuple(means), tuple(deviations))


def bounding_box(mask: Array) -> tuple[slice, ...] | None:
    """Return the smallest box that holds a mask; None where that is empty."""
    box = []
    for axis in range(mask.ndim):
        covered = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not covered.size:
            return None
        box.append(slice(int(covered[0]), int(covered[-1]) + 1))
    return tuple(box)


# ---- the diameter


def largest_diameter(mask: Array, spacing: Sequence[float]) -> float:
    """Return the distance between the centres of the two voxels of a mask that lie farthest apart.

    Args:
        mask: bool [*S], not empty.
        spacing: of the voxels along each axis.
    """
    from scipy.spatial.distance import cdist  # which takes longer to import than an image to segment

    points = corners(ends(mask) * np.asarray(spacing, np.float64))
    step = max(1, TOGETHER // len(points))
    most = max(
        cdist(points[first : first + step], points, "sqeuclidean").max() for first in range(0, len(points), step)
    )
    return float(np.sqrt(most))


def ends(mask: Array) -> Array:
    """Return the places [N, axes] of a mask's voxels that are ends of all lines of voxels that they lie on."""
    lines = np.argwhere(mask.any(axis=-1))
    there = mask[tuple(lines.T)]
    first, last = there.argmax(axis=-1), mask.shape[-1] - 1 - there[:, ::-1].argmax(axis=-1)
    points = np.concatenate([np.c_[lines, first], np.c_[lines, last]])
    for axis in range(mask.ndim - 1):
        others = [points[:, other] for other in range(mask.ndim) if other != axis]
        points = points[np.lexsort((points[:, axis], *others))]
        line = np.delete(points, axis, axis=1)
        new = np.any(line[1:] != line[:-1], axis=1)
        points = points[np.r_[True, new] | np.r_[new, True]]
    return np.unique(points, axis=0)


def corners(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return those of many points [N, axes] that are corners of their convex hull."""
    if len(points) <= FEW:
        return points
    from scipy.spatial import ConvexHull

    middle = points - points.mean(axis=0)
    _, lengths, directions = np.linalg.svd(middle, full_matrices=False)
    along = middle @ directions[lengths > FLAT * lengths[0]].T  # a hull of a plane or a line has none in space
    if along.shape[1] == 1:
        return points[[along[:, 0].argmin(), along[:, 0].argmax()]]
    return points[ConvexHull(along).vertices]
