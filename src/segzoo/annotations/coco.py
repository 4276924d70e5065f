"""COCO's files of annotations: polygons and run lengths."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segzoo.annotations.areas import Area, Picture, Pixels, polygons, runs
from segzoo.annotations.files import find_image, part_of
from segzoo.errors import SegzooError

_CORNERS = 3  # of the least that encloses something


def is_coco(content: Any) -> bool:
    """Return whether JSON is that of COCO's annotations of objects."""
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def read_coco(path: Path, content: dict[str, Any], images: Path | None) -> tuple[list[str], list[Picture]]:
    """Return the classes and the images of a file of annotations.

    COCO knows no order of objects: of two that overlap the smaller is drawn on top.

    Args:
        path: The file.
        content: What it holds.
        images: Folder of the images; None looks beside the file.

    Raises:
        SegzooError: An entry is missing, or annotations are of no image or class.
    """
    try:
        names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
        by_image: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for entry in content["annotations"]:
            names[entry["category_id"]]
            by_image[entry["image_id"]].append(entry)
        known = {entry["id"]: entry for entry in content["images"]}
        if stray := set(by_image) - set(known):
            raise SegzooError(
                f"{path} has annotations of the image {sorted(map(str, stray))[0]}, which it does not list"
            )
        pictures = [_picture(path, entry, by_image[number], names, images) for number, entry in known.items()]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SegzooError):
            raise
        raise SegzooError(
            f"{path} is no whole file of COCO ({type(error).__name__}: {error}); export it again"
        ) from error
    if len(set(names.values())) < len(names):
        raise SegzooError(f"{path} has two categories of one name; rename one")
    return [names[number] for number in sorted(names)], pictures


def _picture(
    path: Path, entry: dict[str, Any], objects: list[dict[str, Any]], names: dict[Any, str], images: Path | None
) -> Picture:
    name, part = str(entry["file_name"]), part_of(path)
    size = int(entry["height"]), int(entry["width"])
    left_out, areas = [], []
    for one in sorted(objects, key=lambda one: -float(one.get("area", 0))):
        outline = one.get("segmentation")
        if isinstance(outline, list):
            outline = [ring for ring in outline if len(ring) >= 2 * _CORNERS]
        if not outline:
            left_out.append("box without an outline")
            continue
        areas.append(Area(names[one["category_id"]], partial(_pixels, outline, size), bool(one.get("iscrowd", 0))))
    beside = [path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images"]
    roots = [images] if images is not None else beside
    of_part = [sub for root in roots if part and root.is_dir() for sub in sorted(root.iterdir()) if is_of(sub, part)]
    find = partial(find_image, name, [*roots, *of_part], roots, path)
    return Picture(name, find, size, areas, part, left_out)


def is_of(folder: Path, part: str) -> bool:
    """Return whether a folder's own name says a part, such as ``train2017``."""
    return folder.is_dir() and part_of(Path(folder.name)) == part


def _pixels(outline: Any, size: tuple[int, int]) -> Pixels:
    """Return an object's pixels."""
    if isinstance(outline, list):
        return polygons(outline, size)
    if list(outline.get("size", [])) != list(size):
        raise SegzooError(f"run lengths are of an image of {outline.get('size')}, not of {size[0]} x {size[1]}")
    counts = outline.get("counts")
    return runs(unpacked(counts) if isinstance(counts, str) else [int(one) for one in counts], size, by_columns=True)


def unpacked(text: str) -> Sequence[int]:
    """Return the run lengths of COCO's compressed form: five bits a character, and from the third run on differences.

    Raises:
        SegzooError: It is cut, or holds other characters.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise SegzooError("compressed run lengths hold what does not belong there")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise SegzooError("compressed run lengths are cut")
    return counts
