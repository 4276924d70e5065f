"""CVAT's XML of images ("CVAT for images 1.1"): polygons, masks, boxes and ellipses."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.parsers import expat

from segzoo.annotations.areas import Area, Picture, Pixels, ellipse, placed, polygons, runs
from segzoo.annotations.coco import is_of
from segzoo.annotations.files import find_image
from segzoo.errors import SegzooError
from segzoo.imaging.cases import PART_WORDS
from segzoo.limits import ANNOTATION_BYTES
from segzoo.paths import require_file

_BLOCK = 2**20
Entry = dict[str, str]


def read_cvat(path: Path, images: Path | None) -> tuple[list[str], list[Picture]]:
    """Return the classes and the images of a file; of two areas that of the higher layer, or the later one, is on top.

    Args:
        path: The file.
        images: Folder of the images; None looks beside the file, and in ``images/`` there.

    Raises:
        SegzooError: It is no such file, declares a document type (as entities would need), or is a video's.
    """
    require_file(path)
    ANNOTATION_BYTES.check(path.stat().st_size, f"{path} has")
    elements = _Elements(path)
    try:
        elements.read()
    except expat.ExpatError as error:
        raise SegzooError(f"{path} is no whole XML ({error}); export it again") from error
    try:
        pictures = [_picture(path, entry, shapes, images) for entry, shapes in elements.images]
    except (KeyError, ValueError) as error:
        if isinstance(error, SegzooError):
            raise
        raise SegzooError(
            f"{path} is no whole file of CVAT ({type(error).__name__}: {error}); export it again"
        ) from error
    return elements.labels, pictures


class _Elements:
    """Names of labels, and images with their shapes, as they come by in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels: list[str] = []
        self.images: list[tuple[Entry, list[tuple[str, Entry]]]] = []
        self._way: list[str] = []
        self._text = ""

    def read(self) -> None:
        """Go through the file."""
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        with self.path.open("rb") as file:
            while block := file.read(_BLOCK):
                parser.Parse(block, False)
        parser.Parse(b"", True)

    def _refuse_doctype(self, *_: Any) -> None:
        raise SegzooError(f"{self.path} declares a document type, as no file of CVAT does; export it again")

    def _start(self, name: str, attributes: Entry) -> None:
        if not self._way and name != "annotations":
            raise SegzooError(f"{self.path} is no file of CVAT: it begins with {name}; export 'CVAT for images 1.1'")
        if name == "track":
            raise SegzooError(f"{self.path} is of a video; export the task as 'CVAT for images 1.1'")
        if name == "image":
            self.images.append((attributes, []))
        elif self._way and self._way[-1] == "image":
            self.images[-1][1].append((name, attributes))
        self._way.append(name)
        self._text = ""

    def _characters(self, text: str) -> None:
        if self._way[-2:] == ["label", "name"]:
            self._text += text

    def _end(self, name: str) -> None:
        if self._way[-2:] == ["label", "name"] and "labels" in self._way and self._text.strip() not in self.labels:
            self.labels.append(self._text.strip())
        self._way.pop()


def _picture(path: Path, entry: Entry, shapes: list[tuple[str, Entry]], images: Path | None) -> Picture:
    size = int(entry["height"]), int(entry["width"])
    part = PART_WORDS.get(entry.get("subset", "").lower(), "")
    roots = [path.parent / "images", path.parent] if images is None else [images]
    of_part = [sub for root in roots if part and root.is_dir() for sub in sorted(root.iterdir()) if is_of(sub, part)]
    left_out = [kind for kind, _ in shapes if kind not in _DRAWN and kind not in ("tag", "attribute")]
    drawn = [(kind, shape) for kind, shape in shapes if kind in _DRAWN]
    drawn.sort(key=lambda one: int(one[1].get("z_order", 0)))  # which keeps the order of what lies in one layer
    areas = [Area(shape["label"], partial(_DRAWN[kind], shape, size)) for kind, shape in drawn]
    find = partial(find_image, entry["name"], [*roots, *of_part], roots, path)
    return Picture(entry["name"], find, size, areas, part, left_out)


# ---- shapes


def _polygon(shape: Entry, size: tuple[int, int]) -> Pixels:
    points = [float(number) for point in shape["points"].split(";") for number in point.split(",")]
    if len(points) < 6 or len(points) % 2:
        raise SegzooError(f"a polygon has {len(points)} coordinates")
    return polygons([points], size)


def _box(shape: Entry, size: tuple[int, int]) -> Pixels:
    left, top, right, bottom = (float(shape[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    angle = math.radians(float(shape.get("rotation", 0)))
    x, y = (left + right) / 2, (top + bottom) / 2
    corners = [(left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y)]
    turned = [
        (x + a * math.cos(angle) - b * math.sin(angle), y + a * math.sin(angle) + b * math.cos(angle))
        for a, b in corners
    ]
    return polygons([[number for corner in turned for number in corner]], size)


def _ellipse(shape: Entry, size: tuple[int, int]) -> Pixels:
    x, y, x_radius, y_radius = (float(shape[key]) for key in ("cx", "cy", "rx", "ry"))
    return ellipse((x, y), (x_radius, y_radius), float(shape.get("rotation", 0)), size)


def _mask(shape: Entry, size: tuple[int, int]) -> Pixels:
    left, top, width, height = (int(shape[key]) for key in ("left", "top", "width", "height"))
    if not (0 < width <= size[1] and 0 < height <= size[0]):
        raise SegzooError(f"a mask of {height} x {width} is larger than the image")
    counts = [int(count) for count in shape["rle"].split(",")]
    return placed(runs(counts, (height, width), by_columns=False), left, top, size)


_DRAWN: dict[str, Callable[[Entry, tuple[int, int]], Pixels]] = {
    "polygon": _polygon,
    "mask": _mask,
    "box": _box,
    "ellipse": _ellipse,
}
