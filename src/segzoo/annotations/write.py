"""Folder of images and masks, made of what an annotation tool has written."""

import csv
import io
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.annotations.areas import Area, Picture
from segzoo.annotations.coco import is_coco, read_coco
from segzoo.annotations.cvat import read_cvat
from segzoo.annotations.files import read_json
from segzoo.annotations.labelme import is_labelme, read_labelme
from segzoo.errors import MissingFileError, SegzooError, attempt, first_few, one_line
from segzoo.imaging.cases import counted
from segzoo.imaging.decoding import DECODING_ERRORS
from segzoo.imaging.images import IMAGE_SUFFIXES, image_size, write_mask
from segzoo.imaging.names import is_hidden

BACKGROUND = ("background", "_background_")  # labels of holes, drawn over what lies below
IGNORED = ("ignored", "ignore", "__ignore__")
IGNORED_STORED = 255
MOST_CLASSES = IGNORED_STORED
_ORIENTATION = 274  # of EXIF
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "BMP": ".bmp"}


@dataclass
class Imported:
    """Report of what was written, and what of the annotations was not.

    Attributes:
        class_names: Background first, but for multi-label; index = value in the masks.
        multilabel: Each class has masks of its own.
        images: Number of those that were written.
        failures: Why others were not.
        ignored: Number of images with pixels that are to be ignored.
        empty: Number of images in which nothing is marked.
        overlapping: Number of images in which areas of two classes overlap.
        left_out: What was not drawn, by kind.
    """

    class_names: list[str]
    multilabel: bool
    images: int = 0
    failures: list[str] = field(default_factory=list)
    ignored: int = 0
    empty: int = 0
    overlapping: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def read_annotations(sources: Sequence[Path], images: Path | None) -> tuple[list[str], list[Picture], list[str]]:
    """Read files of COCO, LabelMe or CVAT, or folders of them.

    Args:
        sources: Files or folders, all of one tool.
        images: Folder of the images, where they are not beside the annotations.

    Returns:
        Names of classes, images, and why some files could not be read.

    Raises:
        MissingFileError: There is no file of annotations.
        SegzooError: No file could be read, or they are of several tools.
    """
    classes: dict[str, None] = {}
    pictures: list[Picture] = []
    failures: list[SegzooError] = []
    kinds: set[str] = set()
    for path in [file for source in sources for file in _files_of(source)]:
        read = attempt(_read, path, images)
        if isinstance(read, SegzooError):
            failures.append(read)
            continue
        kind, names, found = read
        kinds.add(kind)
        classes.update(dict.fromkeys(names))
        pictures += found
    if not pictures:
        raise failures[0] if failures else MissingFileError(f"there are no annotated images in {first_few(sources)}")
    if len(kinds) > 1:
        raise SegzooError(f"the files are of {' and '.join(sorted(kinds))}; import those of one tool at a time")
    if "LabelMe" in kinds:  # which lists no classes
        classes = dict.fromkeys(sorted({area.label for picture in pictures for area in picture.areas}))
    return list(classes), pictures, [str(failure) for failure in failures]


def _files_of(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".json", ".xml") and path.is_file())
    if not (found := [path for path in found if not is_hidden(path)]):
        raise MissingFileError(f"the folder {source} holds no annotations (.json of COCO or LabelMe, .xml of CVAT)")
    return found


def _read(path: Path, images: Path | None) -> tuple[str, list[str], list[Picture]]:
    if path.suffix.lower() == ".zip":
        raise SegzooError(f"{path} is packed; unpack it, and import the folder")
    if path.suffix.lower() == ".xml":
        return "CVAT", *read_cvat(path, images)
    content = read_json(path)
    if is_labelme(content):
        return "LabelMe", [], [read_labelme(path, content, images)]
    if is_coco(content):
        return "COCO", *read_coco(path, content, images)
    raise SegzooError(
        f"{path} holds no annotations of COCO, LabelMe or CVAT that segzoo knows; export it as one of them"
    )


def write_folder(
    output: Path,
    pictures: Sequence[Picture],
    classes: Sequence[str],
    *,
    multilabel: bool = False,
    crowds: str = "ignore",
) -> Imported:
    """Write images and masks as `segzoo.data.Folder` reads them; an image that cannot be used stops no other.

    Args:
        output: Folder to write: new, or empty.
        pictures: Images and their areas.
        classes: Names, without the background, in the order of their numbers; areas of others are left out.
        multilabel: Write masks of 0 and 255 for each class, which may overlap.
        crowds: ``ignore``, ``draw`` or ``skip`` what stands for many objects; multi-label has nothing to ignore by, and
            skips it.

    Raises:
        SegzooError: The folder holds something, or the classes are too many or no names of files.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SegzooError(f"{output} is there and is not empty; name another --output")
    names = [name for name in classes if name.lower() not in (*BACKGROUND, *IGNORED)]
    if not names:
        raise SegzooError("no class is left to draw; look at the labels of the annotations, or name some by --classes")
    if len(names) >= MOST_CLASSES:
        raise SegzooError(
            f"there are {len(names)} classes, and masks hold at most {MOST_CLASSES - 1}; name fewer by --classes"
        )
    if multilabel and (wrong := [name for name in names if "/" in name or "\\" in name or name.startswith(".")]):
        raise SegzooError(f"the class {wrong[0]!r} is no name of a folder, as its masks need; rename it in the tool")
    if wrong := [name for name in names if one_line(name) != name]:
        raise SegzooError(f"the class {wrong[0]!r} is not one line; rename it in the tool")
    report = Imported(names if multilabel else ["background", *names], multilabel)
    rows: list[list[str]] = []
    for picture, name in zip(pictures, _names(pictures), strict=True):
        row = attempt(_write_picture, output, picture, name, report, crowds)
        if isinstance(row, SegzooError):
            report.failures.append(f"{picture.name}: {row}")
        else:
            rows.append([*row, picture.part])
    report.images = len(rows)
    parts = {row[-1] for row in rows}
    if "train" in parts and "" not in parts:
        columns = ["image", *(names if multilabel else ["mask"]), "split"]
        with (output / "cases.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
    return report


def _names(pictures: Sequence[Picture]) -> list[str]:
    """Return what to call each image: its stem or, where another has that too, its folders as well, or a number."""
    ways = [Path(picture.name.replace("\\", "/")).with_suffix("") for picture in pictures]
    stems = Counter(way.name for way in ways)
    names, taken = [], Counter[str]()
    for way in ways:
        name = (
            way.name if stems[way.name] == 1 else "-".join(part for part in way.parts if part not in ("/", ".", ".."))
        )
        taken[name] += 1
        names.append(name if taken[name] == 1 else f"{name}-{taken[name]}")
    return names


def _write_picture(output: Path, picture: Picture, name: str, report: Imported, crowds: str) -> list[str]:
    """Write one image and its masks; return their paths below the folder."""
    found = picture.find()
    suffix = _require_usable(found, picture)
    labels = _multilabel(picture, report) if report.multilabel else [_label(picture, report, crowds)]
    folders = [f"masks/{one}" for one in report.class_names] if report.multilabel else ["masks"]
    masks = [f"{folder}/{name}.png" for folder in folders]
    for path, label in zip(masks, labels, strict=True):  # before the image, which counts only with them
        write_mask(output / path, label)
    image = output / "images" / f"{name}{suffix}"
    image.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(found, bytes):
        image.write_bytes(found)
    else:
        shutil.copyfile(found, image)
    report.empty += not any(label.any() for label in labels)
    report.left_out.update(picture.left_out)
    return [f"images/{image.name}", *masks]


def _require_usable(found: Path | bytes, picture: Picture) -> str:
    """Return the suffix of an image, whose size is that of its annotations and which is not turned."""
    where = found if isinstance(found, Path) else picture.name
    try:
        with Image.open(found if isinstance(found, Path) else io.BytesIO(found)) as image:
            turned = image.getexif().get(_ORIENTATION, 1) != 1
            suffix, size = _SUFFIXES.get(image.format or ""), (image.height, image.width)
    except DECODING_ERRORS as error:
        if not isinstance(found, Path):
            raise SegzooError(f"the image that is held in the file cannot be read ({error})") from error
        turned, suffix, size = False, found.suffix.lower(), image_size(found)
    if suffix not in IMAGE_SUFFIXES:
        raise SegzooError(f"{where} is of a kind that is not read; save it as PNG")
    if turned:
        raise SegzooError(
            f"{where} is stored turned, and the tool has shown it upright; save it upright, and export again"
        )
    if size != picture.size:
        raise SegzooError(
            f"{where} is {size[0]} x {size[1]} (height x width) and its annotations are of {picture.size[0]} x "
            f"{picture.size[1]}; import them with the images that were annotated"
        )
    return suffix


def _label(picture: Picture, report: Imported, crowds: str) -> npt.NDArray[np.uint8]:
    """Return class indices [H, W], 255 where a pixel is to be ignored; later areas lie on earlier ones."""
    label, overlaps = np.zeros(picture.size, np.uint8), False
    objects = [area for area in picture.areas if not area.crowd]
    for area in [area for area in picture.areas if area.crowd] + objects:  # of a crowd, what nobody has outlined
        index = _index(area, report, crowds)
        if index is None:
            report.left_out["crowd" if area.crowd else f"area of {area.label}"] += 1
            continue
        pixels = area.draw()
        below = label[pixels]
        overlaps |= bool(index and ((below != 0) & (below != index) & (below != IGNORED_STORED)).any())
        label[pixels] = index
    report.ignored += bool((label == IGNORED_STORED).any())
    report.overlapping += overlaps
    return label


def _index(area: Area, report: Imported, crowds: str) -> int | None:
    """Return the value of an area in a mask; None where it is left out."""
    if area.crowd and crowds != "draw":
        return IGNORED_STORED if crowds == "ignore" and area.label in report.class_names else None
    if area.label in report.class_names[1:]:
        return report.class_names.index(area.label)
    if area.label.lower() in BACKGROUND:
        return 0
    return IGNORED_STORED if area.label.lower() in IGNORED else None


def _multilabel(picture: Picture, report: Imported) -> list[npt.NDArray[np.uint8]]:
    """Return a mask of 0 and 255 for each class."""
    labels = {name: np.zeros(picture.size, np.uint8) for name in report.class_names}
    for area in picture.areas:
        if area.crowd or area.label not in labels:
            report.left_out["crowd" if area.crowd else f"area of {area.label}"] += 1
        else:
            labels[area.label][area.draw()] = IGNORED_STORED
    return list(labels.values())


def describe(report: Imported) -> list[str]:
    """Say in sentences what was drawn and how."""
    said = [f"{counted(report.images, 'image')}, with the classes {', '.join(report.class_names)}"]
    if report.empty:
        said.append(f"{counted(report.empty, 'image')} with nothing marked, whose masks are empty")
    if report.overlapping:
        said.append(
            f"{counted(report.overlapping, 'image')} in which classes overlap: on top is what the tool has on top, of "
            "COCO the smaller (--multilabel keeps both)"
        )
    if report.ignored:
        said.append(f"{counted(report.ignored, 'image')} with pixels to be ignored (255)")
    if report.left_out:
        kinds = ", ".join(f"{number} x {kind}" for kind, number in sorted(report.left_out.items()))
        said.append(f"not drawn: {kinds}")
    return said
