"""Areas of images as annotation tools write them, and how each becomes pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingPackageError, SegzooError

Pixels = npt.NDArray[np.bool_]
_FAR = 16  # times the longer side of an image: outlines may leave it, and no further than that


@dataclass(frozen=True)
class Area:
    """Pixels of one class.

    Attributes:
        label: Name of the class, as the tool has it.
        draw: Makes them, [H, W].
        crowd: It stands for many objects that nobody outlined.
    """

    label: str
    draw: Callable[[], Pixels]
    crowd: bool = False


@dataclass(frozen=True)
class Picture:
    """Annotated image.

    Attributes:
        name: What it is called in its file of annotations.
        find: Finds its file, or makes its bytes where the annotations hold them.
        size: Height and width that the annotations state.
        areas: In the order in which they are drawn, later ones on top.
        part: ``train``, ``val``, ``test`` or "".
        left_out: What it has beside areas, by kind, such as "points".
    """

    name: str
    find: Callable[[], Path | bytes]
    size: tuple[int, int]
    areas: list[Area]
    part: str = ""
    left_out: list[str] = field(default_factory=list)


def polygons(outlines: Sequence[Sequence[float]], size: tuple[int, int]) -> Pixels:
    """Return what outlines enclose, together, as COCO's own code counts pixels.

    Args:
        outlines: Each as x1, y1, x2, y2, ..., where 0, 0 is the corner of the first pixel.
        size: Height and width.

    Raises:
        MissingPackageError: pycocotools is not installed.
        SegzooError: A number is none, or lies far outside.
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingPackageError(
            "outlines become pixels by pycocotools, which is not installed; pip install 'medsegzoo[import]'"
        ) from error
    for outline in outlines:
        require_near(outline, size)
    encoded = coco.frPyObjects([list(map(float, outline)) for outline in outlines], *size)
    pixels: Pixels = coco.decode(coco.merge(encoded)).astype(bool)
    return pixels


def require_near(numbers: Sequence[Any], size: tuple[int, int]) -> None:
    """Refuse coordinates that no outline of an image of a size has, and that would take memory without end.

    Raises:
        SegzooError: Saying so.
    """
    if not all(isinstance(one, int | float) and math.isfinite(one) and abs(one) <= _FAR * max(size) for one in numbers):
        raise SegzooError(f"an outline leaves the image of {size[0]} x {size[1]} pixels (height x width) far behind")


def runs(counts: Sequence[int], size: tuple[int, int], *, by_columns: bool) -> Pixels:
    """Return the pixels of run lengths, of which every second one is of the area.

    Args:
        counts: Of pixels outside, inside, outside, ...
        size: Height and width.
        by_columns: Pixels are counted down the columns, as COCO does; else along the rows, as CVAT does.

    Raises:
        SegzooError: They are not as many as the size says.
    """
    if any(count < 0 for count in counts) or sum(counts) != size[0] * size[1]:
        raise SegzooError(f"run lengths make {sum(counts)} pixels and not {size[0]} x {size[1]}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size[::-1]).T if by_columns else flat.reshape(size)


def placed(inner: Pixels, left: int, top: int, size: tuple[int, int]) -> Pixels:
    """Return pixels of a box in an image.

    Raises:
        SegzooError: The box does not lie in the image.
    """
    height, width = inner.shape
    if left < 0 or top < 0 or top + height > size[0] or left + width > size[1]:
        raise SegzooError(f"a mask of {height} x {width} at row {top}, column {left} leaves the image")
    whole = np.zeros(size, bool)
    whole[top : top + height, left : left + width] = inner
    return whole


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float, size: tuple[int, int]) -> Pixels:
    """Return the pixels whose middle lies in an ellipse.

    Args:
        centre: x and y.
        radii: Along its own x and y.
        degrees: That it is turned, clockwise as images are shown.
        size: Height and width.
    """
    require_near([*centre, *radii, degrees], size)
    angle = math.radians(degrees)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    along = (x - centre[0]) * math.cos(angle) + (y - centre[1]) * math.sin(angle)
    across = (y - centre[1]) * math.cos(angle) - (x - centre[0]) * math.sin(angle)
    inside: Pixels = (along * radii[1]) ** 2 + (across * radii[0]) ** 2 <= (radii[0] * radii[1]) ** 2
    return inside
