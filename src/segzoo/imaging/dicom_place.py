"""Place of DICOM slices in the body: in which order they lie, on which grid, and which stacks are none.

Slices are put in order along the cross product of their rows and columns, as ITK does it. A stack makes a grid where no
slice lies more than a twentieth of a voxel from where even steps would put it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.dicom_files import Header, of_frames
from segzoo.imaging.geometry import Geometry, check_directions, check_spacing, skewed
from segzoo.imaging.itk import LPS_TO_RAS

FloatArray = npt.NDArray[np.float64]
CENTIMETRES, ALONG = 3, 1e-3  # unit of ultrasound; sine of an angle that is rounding
SAME = 1e-4  # difference of two direction cosines that is rounding


@dataclass(frozen=True)
class Plane:
    """Slice: a frame of a file, and where it lies.

    Attributes:
        file: number of its file.
        frame: number of it in the file.
        shape: rows and columns.
        position: of its first pixel's centre, millimetres towards left, posterior and superior (LPS).
        directions: along a row, and along a column, unit vectors [2, 3].
        spacing: millimetres between rows, and between columns.
    """

    file: int
    frame: int
    shape: tuple[int, int]
    position: FloatArray
    directions: FloatArray
    spacing: tuple[float, float]


def planes_of(content: Any, file: int, header: Header) -> list[Plane]:
    """Return the slices of a file.

    Args:
        content: its elements, as `segzoo.imaging.dicom_files.opened` yields them.
        file: its number.
        header: its summary.

    Raises:
        SegzooError: it does not say where they lie, or how large their pixels are.
    """
    count = header.frames
    positions = of_frames(content, count, "PlanePositionSequence", "ImagePositionPatient")
    directions = of_frames(content, count, "PlaneOrientationSequence", "ImageOrientationPatient")
    spacings = of_frames(content, count, "PixelMeasuresSequence", "PixelSpacing")
    assert header.shape is not None  # of an image
    planes = []
    for frame, (position, direction, spacing) in enumerate(zip(positions, directions, spacings, strict=True)):
        if not spacing:
            raise SegzooError("does not say how large its pixels are, and so makes no volume; export it anew")
        axes = np.array(direction, np.float64).reshape(2, 3)
        lengths = np.linalg.norm(axes, axis=1, keepdims=True)
        if not (np.abs(lengths - 1) < 0.01).all():  # also refuses NaN
            raise SegzooError("has rows or columns without a direction by its header, which is damaged; export it anew")
        sides = float(spacing[0]), float(spacing[1])
        planes.append(Plane(file, frame, header.shape, np.array(position, np.float64), axes / lengths, sides))
    return planes


def stacked(planes: Sequence[Plane], name: Path) -> tuple[list[Plane], Geometry]:
    """Return slices in their order, and their grid.

    Args:
        planes: at least two.
        name: of the series, for sentences.

    Raises:
        SegzooError: they are not one stack at even distances, at right angles to its slices.
    """
    first = planes[0]
    shapes = {plane.shape for plane in planes}
    if len(shapes) > 1:
        found = " and ".join(f"{rows} x {columns}" for rows, columns in sorted(shapes))
        raise SegzooError(f"{name} holds slices of {found} pixels, which make no volume; give those of one size")
    if any(np.abs(plane.directions - first.directions).max() > SAME for plane in planes):
        raise SegzooError(
            f"{name} holds slices of several directions, as localisers do, which make no volume; give those of one"
        )
    if any(not np.allclose(plane.spacing, first.spacing, rtol=SAME) for plane in planes):
        raise SegzooError(f"{name} holds slices with pixels of several sizes, which make no volume; give those of one")
    if abs(float(first.directions[0] @ first.directions[1])) > ALONG:
        raise skewed(name)
    across = np.cross(*first.directions)
    heights = {id(plane): float(plane.position @ across) for plane in planes}
    ordered = sorted(planes, key=lambda plane: heights[id(plane)])
    step = (ordered[-1].position - ordered[0].position) / (len(planes) - 1)
    require_even([heights[id(plane)] for plane in ordered], name)
    distance = float(step @ across)
    require_upright(step, across, name)
    strayed = [plane.position - ordered[0].position - number * step for number, plane in enumerate(ordered)]
    if np.linalg.norm(strayed, axis=1).max() > 0.05 * min(distance, *first.spacing) + ALONG:
        raise SegzooError(f"{name} holds slices that lie beside each other, and so make no volume; give one stack")
    check_spacing(name, (distance, *first.spacing))
    affine = np.eye(4)
    row, column = first.directions
    axes = across * distance, column * first.spacing[0], row * first.spacing[1]
    affine[:3, :3] = LPS_TO_RAS @ np.stack(axes, axis=1)
    affine[:3, 3] = LPS_TO_RAS @ ordered[0].position
    check_directions(name, affine)
    return ordered, Geometry((len(planes), *first.shape), affine)


def require_even(heights: Sequence[float], name: Path) -> None:
    """Refuse a stack with slices twice, or with gaps.

    Args:
        heights: of its slices, in millimetres, rising.
        name: of the series.

    Raises:
        SegzooError: saying so.
    """
    gaps = [after - before for before, after in pairwise(heights)]
    usual = float(np.median([gap for gap in gaps if gap > ALONG] or [0]))
    twice = sum(gap < 0.05 * usual or gap <= ALONG for gap in gaps)
    if twice:
        raise SegzooError(
            f"{name} holds {len(heights)} slices at {len(heights) - twice} places, as of several times, echoes or "
            "reconstructions, or with slices twice; give those of one"
        )
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(even - heights).max() > 0.05 * usual:
        wide = int(np.argmax(np.abs(np.subtract(gaps, usual))))
        raise SegzooError(
            f"{name} lacks slices, or has them at uneven distances: between the {ordinal(wide + 1)} and the next of "
            f"its {len(heights)} are {gaps[wide]:.4g} mm, where {usual:.4g} are usual; export it whole, or resample it"
        )


def require_upright(step: FloatArray, across: FloatArray, name: Path) -> None:
    """Refuse a stack that leans, as of a tilted gantry, and whose voxels are no right angles.

    Args:
        step: from a slice to the next, in millimetres.
        across: direction at right angles to the slices.
        name: of the series.

    Raises:
        SegzooError: saying so.
    """
    beside = np.linalg.norm(step - (step @ across) * across) / np.linalg.norm(step)
    if beside > ALONG:
        tilt = math.degrees(math.asin(min(1.0, float(beside))))
        raise SegzooError(
            f"{name} was taken with a tilted gantry: its slices lean by {tilt:.1f} degrees; resample it to a grid at "
            "right angles"
        )


def ordinal(count: int) -> str:
    """Return a place in a row in words that are short.

    Example:
        >>> from segzoo.imaging.dicom_place import ordinal
        >>> ordinal(1), ordinal(12), ordinal(23)
        ('1st', '12th', '23rd')
    """
    ending = "th" if count // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"


def pixel_spacing(content: Any) -> tuple[float, float] | None:
    """Return millimetres between the rows and between the columns of a picture; None where it does not say them.

    Those in the patient come first, then those on the detector, which are larger by the projection's magnification.
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if sides := content.get(keyword):
            return float(sides[0]), float(sides[1])
    found = {
        (10 * abs(float(region.PhysicalDeltaY)), 10 * abs(float(region.PhysicalDeltaX)))
        for region in content.get("SequenceOfUltrasoundRegions") or ()
        if region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == CENTIMETRES
        and region.get("PhysicalDeltaX")
        and region.get("PhysicalDeltaY")
    }
    return next(iter(found)) if len(found) == 1 else None  # of several regions in one picture nobody knows which
