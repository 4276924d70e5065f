"""Images and masks of a user's own."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segzoo.data.images import ImageDataModule
from segzoo.data.samples import ANY, Sample, check_groups, folder_identity, paired_samples, read_groups
from segzoo.errors import SegzooError, one_line
from segzoo.imaging.images import IMAGE_SUFFIXES
from segzoo.imaging.masks import palette
from segzoo.imaging.names import is_hidden
from segzoo.imaging.segmentation import mask_paths


class Folder(ImageDataModule):
    """Your own data: images, and masks with the same stems.

    Layout: ``images/<stem>.png``, ``masks/<stem>.png`` (or jpg, tif, bmp). Binary masks hold 0/1 or 0/255, or a palette
    of one colour on black; with more than two classes masks hold class indices 0, 1, ..., and 255 where a pixel is to
    be ignored (if 255 is not a class); they are not JPEGs, and palettes, if they have any, agree.
    With ``multilabel`` each class has its own binary masks: ``masks/<class>/<stem>.png``.

    Args:
        root: The folder that holds ``images`` and ``masks``.
        class_names: Index = value in the mask; with ``multilabel`` one name for each folder of masks.
        multilabel: Classes may overlap.
        groups: CSV file with the columns ``image`` (name or stem) and ``group`` (say, the patient): a ``grouped`` split
            never parts a group. Without it each image is a group of its own.
        foreground: "any" takes every value above 0 of a binary mask as foreground, as where objects are numbered; None
            refuses what is not two values.
        **kwargs: As of `ImageDataModule`.

    Raises:
        SegzooError: If the class names do not fit, or ``foreground`` is another one or of several classes.

    Example:
        >>> from segzoo.data import Folder
        >>> data = Folder(samples / "mine", class_names=("background", "lesion"), image_size=64)
        >>> data.summary()
        ['Folder: 8 images in 8 groups: 4 to train, 2 to validate, 2 to test']
    """

    name = "Folder"
    licence = "unknown"
    url = ""
    layout = ("images", "masks")

    def __init__(
        self,
        root: str | Path,
        *,
        class_names: tuple[str, ...] | list[str] = ("background", "foreground"),
        multilabel: bool = False,
        groups: str | Path | None = None,
        foreground: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if isinstance(class_names, str) or not all(
            isinstance(name, str) and one_line(name) == name for name in class_names
        ):
            raise SegzooError(
                f"class_names must be a list of texts of one line, not {class_names!r}; quote what YAML takes for "
                "something else, such as yes, no and numbers"
            )
        if len(set(class_names)) != len(class_names) or len(class_names) < (1 if multilabel else 2):
            raise SegzooError(
                f"class_names must be different names, background first unless multilabel, not {list(class_names)}."
            )
        files = set(mask_paths(Path("mask.png"), class_names))
        if multilabel and (len(files) < len(class_names) or re.search(r"[/\\]", "".join(class_names))):
            raise SegzooError(
                f"class_names become names of files, so they must differ with '-' for blanks and hold no slash, not "
                f"{list(class_names)}; rename the folders of masks too."
            )
        if foreground not in (None, ANY):
            raise SegzooError(f"foreground must be {ANY!r} or left out, not {foreground!r}.")
        if foreground and len(class_names) > 2 and not multilabel:
            raise SegzooError(
                f"foreground is for masks of two classes, and there are {len(class_names)}, of which a value is the "
                "class; leave it out."
            )
        self.foreground = foreground
        self.class_names = tuple(class_names)
        self.multilabel = multilabel
        self.groups = None if groups is None else Path(groups)
        self._palette: tuple[list[bytes], Path | None] = [], None  # the longest seen, and whose it is

    def samples(self) -> list[Sample]:
        """List every image with its mask, or with one mask for each class."""
        root = self.find_root()
        groups = {} if self.groups is None else read_groups(self.groups)
        folders = [root / "masks" / name for name in self.class_names] if self.multilabel else [root / "masks"]
        samples = paired_samples(root / "images", folders, groups)
        if self.groups is not None:
            check_groups(self.groups, groups, [sample.id for sample in samples])
        return [replace(sample, foreground=self.foreground) for sample in samples]

    def check(self, sample: Sample) -> None:
        """Check as the base does, and palettes: ones that differ mean that a class has another index in each mask."""
        super().check(sample)
        if self.multilabel or len(self.class_names) == 2:
            return
        (mask,), (known, other) = sample.masks, self._palette
        found = palette(mask)[: len(self.class_names)]
        if any(one != two for one, two in zip(found, known, strict=False)):
            raise SegzooError(
                f"Masks {other} and {mask} have other colours for the same class numbers; save both as one channel of "
                "class indices."
            )
        if len(found) > len(known):
            self._palette = found, mask

    def summary(self) -> list[str]:
        """Add to what the base says: what of the folder is not read."""
        classes = self.class_names if self.multilabel else ()
        return [*super().summary(), *unread(self.find_root(), self._by_id.values(), classes)]

    def describe(self) -> dict[str, Any]:
        """Add to what the base says: the classes, and by what this folder is known again."""
        facts = super().describe() | {"class_names": list(self.class_names), "multilabel": self.multilabel}
        facts |= {"foreground": self.foreground} if self.foreground else {}
        return facts | folder_identity(self.root, self.used_samples())


def unread(root: Path, samples: Iterable[Sample], classes: Sequence[str]) -> list[str]:
    """Say in a sentence what lies in a folder's images and masks and belongs to no sample, if there is anything.

    Args:
        root: The folder that holds ``images`` and ``masks``.
        samples: Samples that are read of it.
        classes: The folders of masks; none where ``masks`` holds them itself.
    """
    of_masks = [root / "masks" / name for name in classes] or [root / "masks"]
    folders = {root / "images", root / "masks", *of_masks}
    known = {*folders, *(file for sample in samples for file in (sample.image, *sample.masks))}
    entries = [path for folder in sorted(folders) if folder.is_dir() for path in sorted(folder.iterdir())]
    others = [path for path in entries if path not in known and not is_hidden(path)]
    masks = [
        path for path in others if path.parent in of_masks and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    ]
    subfolders = sum(path.is_dir() for path in others)
    said = []
    if masks:
        listed = ", ".join([path.name for path in masks[:3]] + ["..."] * (len(masks) > 3))
        said.append(f"{counted(len(masks), 'mask')} {'has' if len(masks) == 1 else 'have'} no image: {listed}")
    kinds = [(subfolders, "subfolder"), (len(others) - subfolders - len(masks), "other file")]
    if what := " and ".join(counted(number, kind) for number, kind in kinds if number):
        said.append(f"{what} {'is' if len(others) - len(masks) == 1 else 'are'} not read")
    return ["; ".join(said)] if said else []


def counted(number: int, thing: str) -> str:
    """Count things in words, such as "1 mask" or "2 masks"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
