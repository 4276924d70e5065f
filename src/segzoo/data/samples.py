"""Samples: which files belong together, and how their masks become a label."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_warn
from scipy.ndimage import label as connected
from scipy.ndimage import maximum, minimum

from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.codes import Codes
from segzoo.imaging.images import image_files, image_size
from segzoo.imaging.masks import LOSSY_SUFFIXES, read_mask
from segzoo.imaging.names import spelled_out
from segzoo.imaging.tables import group_rows

IGNORED = -1
IGNORED_STORED = 255  # how a multi-class mask file writes "ignored"
ANY = "any"  # value above 0 is foreground
SMALLEST_AREA = 4  # pixels of what may be an object


@dataclass(frozen=True)
class Sample:
    """Image with its masks.

    Args:
        id: Unique name, the file's stem; what cannot be written on a line of UTF-8 is spelled out, as in ``group``.
        image: The image file.
        masks: Its mask files, merged by OR; of a multi-label dataset, one for each class in order.
        group: Images of one group never part in a grouped split.
        stratum: Kind of image, kept in proportion in every fold.
        channels: Of a volume that has a file for each channel, those after ``image``.
        lookalikes: Names a set of images in several groups that show nearly the same, or parts of one picture; "" is
            none. A grouped split tests none of them that it has another of elsewhere.
        foreground: "any" where every value above 0 of a binary mask marks it, as in masks of many instances; None
            where two values are expected.
        codes: Classes of the masks' values or colours where these are no class indices.
        part: Of a split that the dataset itself has, "" where it has none.
    """

    id: str
    image: Path
    masks: tuple[Path, ...]
    group: str
    stratum: str = ""
    channels: tuple[Path, ...] = ()
    lookalikes: str = ""
    foreground: str | None = None
    codes: Codes | None = None
    part: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "group"):  # which are written into splits and tables
            object.__setattr__(self, name, spelled_out(getattr(self, name)))


def shipped_groups(name: str) -> dict[str, str]:
    """Map image stems to groups for the images of a dataset that resemble another, from the package's own lists."""
    lines = resources.files("segzoo.data").joinpath("groups", f"{name}.csv").read_text("utf-8").splitlines()
    return group_rows(lines, f"{name}.csv")


def with_shipped_lookalikes(samples: Sequence[Sample], name: str) -> list[Sample]:
    """Add the sets of near copies and tiles that became known after a dataset's groups were published.

    They stay out of the groups, since other groups make another split: of that, no published checkpoint has ever seen
    the training part.
    """
    known = shipped_groups(f"{name}_lookalikes")
    return [replace(sample, lookalikes=known.get(sample.id, "")) for sample in samples]


def check_groups(path: Path, groups: Mapping[str, str], names: Sequence[str]) -> None:
    """Refuse groups of images that are called otherwise: "1" for 001.png would let a patient's images part.

    Warns of images without a group, which may be meant: some lists hold only groups of several images.

    Args:
        path: The CSV file.
        groups: As `read_groups` found them in it.
        names: Those of the images.

    Raises:
        SegzooError: If it has a row for no image, and there is an image without a row.
    """
    known = set(names)
    unknown = [name for name in groups if name not in known]
    without = [name for name in names if name not in groups]
    if unknown and without:
        raise SegzooError(
            f"{path} has a group for {unknown[0]!r}, and no image is called so, but none for the image {without[0]!r}; "
            "write their names as the files have them."
        )
    if without:
        rank_zero_warn(
            f"{len(without)} of {len(names)} images have no group in {path}; each counts as a group of its own."
        )


def files_by_stem(folder: Path, skip: str | None = None) -> dict[str, Path]:
    """Map stems to the image files of a folder, in the order of their names.

    Args:
        folder: Where they are.
        skip: Leave out those whose stem ends so.

    Raises:
        MissingError: If the folder does not exist.
        SegzooError: If two files share a stem.
    """
    files: dict[str, Path] = {}
    for path in image_files(folder):
        if skip is not None and path.stem.endswith(skip):
            continue
        if path.stem in files:
            raise SegzooError(f"{files[path.stem]} and {path} share a name; keep one of them.")
        files[path.stem] = path
    return files


def paired_samples(
    images: Path,
    masks: Sequence[Path],
    groups: Mapping[str, str],
    *,
    mask_suffix: str = "",
    skip: str | None = None,
) -> list[Sample]:
    """Pair every image with the masks of its name.

    Args:
        images: Folder of the images.
        masks: Folders that each hold a mask for every image.
        groups: Image stem -> group; an image that is not in it is a group of its own.
        mask_suffix: End of a mask's stem, beyond its image's.
        skip: Leave out files in ``images`` whose stem ends so.

    Raises:
        MissingError: If a folder or a mask is not there.
    """
    indices = [(folder, files_by_stem(folder)) for folder in masks]
    samples = []
    for stem, image in files_by_stem(images, skip).items():
        own = tuple(_mask_of(image, folder, files, stem + mask_suffix) for folder, files in indices)
        samples.append(Sample(stem, image, own, groups.get(stem, stem)))
    return samples


def _mask_of(image: Path, folder: Path, files: Mapping[str, Path], stem: str) -> Path:
    if stem not in files:
        raise MissingError(f"Image {image} has no mask: expected {folder / stem}.png.")
    return files[stem]


def check_sample(sample: Sample) -> None:
    """Compare the sizes that the headers of image and masks state.

    Raises:
        SegzooError: If a mask is of another size than its image or a file cannot be read.
    """
    height, width = image_size(sample.image)
    for mask in sample.masks:
        mask_height, mask_width = image_size(mask)
        if (mask_height, mask_width) != (height, width):
            raise SegzooError(
                f"Mask {mask} is {mask_height} x {mask_width} (height x width), its image {sample.image} is "
                f"{height} x {width}."
            )


def folder_identity(root: Path, samples: Iterable[Sample]) -> dict[str, str]:
    """Tell a folder of somebody's own from another of the same files' names, by its name and its files' sizes."""
    sizes = {
        sample.id: [file.stat().st_size for file in (sample.image, *sample.channels, *sample.masks)]
        for sample in samples
    }
    listed = json.dumps(sizes, sort_keys=True, separators=(",", ":"))
    return {"folder": spelled_out(root.resolve().name), "files_sha256": hashlib.sha256(listed.encode()).hexdigest()}


def read_label(sample: Sample, num_classes: int, multilabel: bool) -> npt.NDArray[np.int16]:
    """Read and merge a sample's masks.

    Args:
        sample: Sample to read.
        num_classes: Number of class names: 2 for a binary dataset (background and the other).
        multilabel: One mask for each class.

    Returns:
        ``[H, W]`` of class indices, -1 where ignored; or ``[num_classes, H, W]`` of 0/1 if ``multilabel``.

    Raises:
        SegzooError: If a file cannot be read or holds a value that is not a class.
    """
    if multilabel:
        return np.stack([_foreground(path, sample.foreground) for path in sample.masks]).astype(np.int16)
    if sample.codes is not None:
        return sample.codes.read(sample.masks[0])
    if num_classes > 2:
        return _class_indices(sample.masks[0], num_classes)
    merged = _foreground(sample.masks[0], sample.foreground)
    for path in sample.masks[1:]:
        merged = merged | _foreground(path, sample.foreground)
    return merged.astype(np.int16)


def _foreground(path: Path, foreground: str | None) -> npt.NDArray[np.bool_]:
    if foreground != ANY:
        return binarize(read_mask(path, binary=True), path)
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise SegzooError(
            f"Mask {path} is a JPEG, whose background is not 0 everywhere; save it as PNG, or leave foreground out."
        )
    return read_mask(path, binary=True, several=True) > 0


def binarize(mask: npt.NDArray[Any], path: Path) -> npt.NDArray[np.bool_]:
    """Find the foreground of a mask of two values, stored as 0/1, 0/255 or 0/65535.

    Soft edges are cut in the middle, as are the rings of a JPEG.

    Args:
        mask: Stored values ``[H, W]``.
        path: Their file.

    Raises:
        SegzooError: If a mask cannot be two values: it holds some but none of its upper half (class indices, or a JPEG
            of 0 and 1), or, lossless, three or four (grey levels for classes, or 255 for "ignored"), or those of many
            instances.
    """
    lossy = path.suffix.lower() in LOSSY_SUFFIXES
    highest = int(mask.max(initial=0))
    if highest == 0 or (highest == 1 and not lossy):
        return mask > 0
    cut = 127 if highest <= 255 else 32767
    if highest > cut and (lossy or not (_is_of_few_levels(mask, highest) or _is_of_instances(mask, highest))):
        return mask > cut
    levels = np.unique(mask)
    few = highest > cut and len(levels) <= 4
    found = ", ".join(map(str, levels)) if few else f"{len(levels)} values up to {highest}"
    advice = (
        "name its classes if these are class indices, say which class each value is by values (--data.values "
        f"'{{{_entries(levels)}}}'), or set foreground to any if all above 0 is foreground"
    )
    raise SegzooError(
        f"Mask {path} holds {found}, where a binary mask holds 0 and 1 or 0 and 255; "
        f"{'save it as PNG' if lossy else advice}."
    )


def _entries(levels: Iterable[Any]) -> str:
    """Show how to say what the values of a mask mean."""
    shown = [int(level) for level in levels if level][:3]
    return ", ".join(f"{level}: NAME" for level in shown) + (", ..." if len(list(levels)) > 4 else "")


def _between(values: npt.NDArray[Any], highest: int) -> npt.NDArray[np.bool_]:
    """Return which values are neither 0 nor near the highest."""
    found: npt.NDArray[np.bool_] = (values > 0) & (values < highest - highest // 8)
    return found


def _is_of_few_levels(mask: npt.NDArray[Any], highest: int) -> bool:
    """Tell whether a mask holds three or four values, not all near its lowest or highest; soft edges have more."""
    values = np.unique(mask)
    return len(values) <= 4 and bool(_between(values, highest).any())


def _is_of_instances(mask: npt.NDArray[Any], highest: int) -> bool:
    """Tell whether what is neither black nor white are areas of their own, as of numbered objects, and no soft edges.

    An object is of one value: it stands alone, or is a flat area of two rows and columns at least, and edges are
    neither. What is nearly black does not count: rings of a JPEG that was saved as PNG.
    """
    between = _between(mask, highest) & (mask > highest // 8)
    if not between.any():
        return False
    apart, number = connected(mask > highest // 8, np.ones((3, 3)))
    lowest, brightest = (extreme(mask, apart, np.arange(number + 1)) for extreme in (minimum, maximum))
    alone = between & np.equal(lowest, brightest)[apart]
    flat = np.zeros_like(between)
    squares = between[:-1, :-1] & (mask[:-1, :-1] == mask[1:, 1:])
    squares &= (mask[:-1, :-1] == mask[:-1, 1:]) & (mask[:-1, :-1] == mask[1:, :-1])
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            flat[rows, columns] |= squares
    areas, white = int((alone | flat).sum()), int((mask >= highest - highest // 8).sum())
    return areas >= SMALLEST_AREA and 2 * areas > int(between.sum()) and 4 * areas > white


def _class_indices(path: Path, num_classes: int) -> npt.NDArray[np.int16]:
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise SegzooError(f"Mask {path} is a JPEG, which changes class numbers; save it as PNG.")
    mask = read_mask(path)
    ignored = (mask == IGNORED_STORED) & (num_classes <= IGNORED_STORED)
    wrong = ((mask < 0) | (mask >= num_classes)) & ~ignored
    if wrong.any():
        raise SegzooError(
            f"Mask {path} holds the value {int(mask[wrong][0])}; with {num_classes} classes it may hold "
            f"0..{num_classes - 1}{' and 255 for ignored' if num_classes <= IGNORED_STORED else ''}; say which class "
            f"each value is by values (--data.values '{{{_entries(np.unique(mask))}}}')."
        )
    label = mask.astype(np.int16)  # signed before -1 goes in
    label[ignored] = IGNORED
    return label
