"""Images and masks of a user's own."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segzoo.data.images import ImageDataModule
from segzoo.data.samples import ANY, Sample, check_groups, folder_identity
from segzoo.data.splits import GIVEN
from segzoo.errors import MissingError, SegzooError, first_few, one_line
from segzoo.imaging.cases import Case, Cases, counted, find_cases
from segzoo.imaging.codes import Codes, class_names_of, codes
from segzoo.imaging.masks import drawn_in, palette
from segzoo.imaging.names import is_hidden
from segzoo.imaging.segmentation import mask_paths
from segzoo.imaging.tables import find_table, read_groups, read_table
from segzoo.preprocessing.base import InputContract

BINARY = ("background", "foreground")


class Folder(ImageDataModule):
    r"""Your own data: images with masks, as people have them.

    Layouts: ``images/`` and ``masks/`` with files of the same names, or with names of masks that a mark makes of the
    image's (``a_mask.png``, ``mask_a.png``, ``-seg``, ``_label``, ``_gt``, ...); both in one folder; either in, or
    beside, ``train/``, ``val/`` and ``test/``, which then are the split; a table (CSV) with the columns ``image`` and
    ``mask`` and, if you like, ``split`` and ``group``. What was recognised is in `summary`; what could be two things is
    refused, with the option that settles it.

    Binary masks hold 0/1 or 0/255, or one colour on black or on nothing; with more than two classes masks hold class
    indices 0, 1, ..., and 255 where a pixel is to be ignored (if 255 is not a class); they are not JPEGs, and palettes,
    if they have any, agree. Other values and colours are classes by ``values`` and ``colours``. With ``multilabel``
    each class has its own binary masks: ``masks/<class>/<stem>.png``.

    Args:
        root: The folder that holds all this, or a table of cases.
        class_names: Index = value in the mask; with ``multilabel`` one name for each folder of masks. None takes those
            of ``colours`` or ``values``, else background and foreground.
        multilabel: Classes may overlap.
        groups: CSV file with the columns ``image`` (name or stem) and ``group`` (say, the patient): a ``grouped`` split
            never parts a group. Without it each image is a group of its own.
        foreground: "any" takes every value above 0 of a binary mask as foreground, as where objects are numbered; None
            refuses what is not two values.
        images: Folder of the images below ``root``, or a pattern such as ``*.jpg``; None looks for it.
        masks: Folder of the masks, or a pattern such as ``labels/*_contour.png``, whose ``*`` is the image's name.
        table: CSV file that lists the cases; None takes the one in ``root``, if there is one.
        anywhere: Let the table name files outside its folder.
        colours: Colour (a name or "#rrggbb") -> class that is drawn in it, or "ignored"; black is background if it is
            not named.
        values: Value -> class that it stands for, or "ignored"; 0 is background if it is not named.
        split: As of `SegmentationDataModule`, or ``given``, by the folders or the table; None is ``given`` where these
            say parts, else ``grouped``.
        **kwargs: As of `ImageDataModule`.

    Raises:
        SegzooError: If the class names do not fit, or an option contradicts another.

    Example:
        >>> from segzoo.data import Folder
        >>> data = Folder(samples / "mine", class_names=("background", "lesion"), image_size=64)
        >>> print(*data.summary(), sep="\n")
        Folder: 8 images in 8 groups: 4 to train, 2 to validate, 2 to test
        Folder: found 8 images in images/, masks in masks/
    """

    name = "Folder"
    licence = "unknown"
    url = ""
    compares = True

    def __init__(
        self,
        root: str | Path,
        *,
        class_names: tuple[str, ...] | list[str] | None = None,
        multilabel: bool = False,
        groups: str | Path | None = None,
        foreground: str | None = None,
        images: str | None = None,
        masks: str | None = None,
        table: str | Path | None = None,
        anywhere: bool = False,
        colours: dict[str, str] | None = None,
        values: dict[int, str] | None = None,
        split: str | None = None,
        **kwargs: Any,
    ) -> None:
        root = Path(root)
        if root.is_file():
            root, table = root.parent, table or root.name
        super().__init__(root, split=split or "grouped", **kwargs)
        for option, given in (("colours", colours), ("values", values)):
            if given is not None and not isinstance(given, dict):  # of a checkpoint, say
                raise SegzooError(f"{option} must say a class for each, such as {{1: lesion}}, not {given!r}.")
        self.meanings = {option: dict(given) for option, given in (("colours", colours), ("values", values)) if given}
        named = next((class_names_of(meaning) for meaning in self.meanings.values()), BINARY)
        self.class_names = named if class_names is None else _checked(class_names, multilabel)
        self.multilabel = multilabel
        if foreground not in (None, ANY):
            raise SegzooError(f"foreground must be {ANY!r} or left out, not {foreground!r}.")
        if foreground and len(self.class_names) > 2 and not multilabel:
            raise SegzooError(
                f"foreground is for masks of two classes, and there are {len(self.class_names)}, of which a value is "
                "the class; leave it out."
            )
        if len(self.meanings) + bool(foreground) + multilabel * bool(self.meanings) > 1:
            raise SegzooError("colours, values, foreground and multilabel say different things of masks; give one.")
        if table is not None and (images or masks):
            raise SegzooError("A table lists images and masks: leave out --data.images and --data.masks, or the table.")
        self.foreground = foreground
        self.groups = None if groups is None else Path(groups)
        self.images, self.masks, self.anywhere = images, masks, anywhere
        self.table = None if table is None else self.root / table
        self._codes = self._meant_codes()
        self._any_split = split is None
        self._cases = Cases([])
        self._palette: tuple[list[bytes], Path | None] = [], None  # the longest seen, and whose it is

    def _meant_codes(self) -> Codes | None:
        for option, meanings in self.meanings.items():
            return codes(option, meanings, self.class_names)
        return None

    def find_root(self) -> Path:
        """Return the folder.

        Raises:
            MissingError: If it does not exist.
        """
        if not self.root.is_dir():
            raise MissingError(
                f"{self.name}: the folder {self.root} does not exist: expected images/ and masks/ in it."
            )
        return self.root

    def samples(self) -> list[Sample]:
        """List every image with its mask, or with one mask for each class."""
        self._cases = self._find_cases()
        cases = self._cases.cases
        if self._any_split and any(case.part for case in cases):
            if self.fold:
                raise SegzooError(
                    f"{self.root} says itself what is to train, to validate and to test, so it has no folds: leave "
                    "fold out, or divide it anew by --data.split grouped."
                )
            self.split = GIVEN
        groups = self._groups(cases)
        return [
            Sample(
                case.name,
                case.image,
                case.masks,
                groups.get(case.name, case.name),
                foreground=self.foreground,
                codes=self._codes,
                part=case.part,
            )
            for case in cases
        ]

    def _find_cases(self) -> Cases:
        root, classes = self.find_root(), self.class_names if self.multilabel else ()
        table = self.table
        if table is None and not (self.images or self.masks):
            table = find_table(root, classes)
        if table is not None:
            found = read_table(table, classes, anywhere=self.anywhere)
        else:
            found = find_cases(root, images=self.images, masks=self.masks, classes=classes)
        several = [case.image for case in found.cases if len(case.masks) > max(1, len(classes))]
        if several and (self._codes or (len(self.class_names) > 2 and not self.multilabel)):
            raise SegzooError(
                f"{counted(len(several), 'image')} {'has' if len(several) == 1 else 'have'} several masks, of which "
                f"only binary ones can be merged: {first_few(several)}; keep one for each."
            )
        return found

    def _groups(self, cases: Sequence[Case]) -> dict[str, str]:
        """Map names of images to groups, of the table or of the file of groups."""
        if self.groups is None:
            return {case.name: case.group for case in cases if case.group}
        if any("/" in case.name for case in cases):  # stems alone would be those of several
            groups = read_groups(self.groups, lambda name: str(Path(name).with_suffix("")))
        else:
            groups = read_groups(self.groups)
        check_groups(self.groups, groups, [case.name for case in cases])
        return groups

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

    def check_pixels(self, parts: Sequence[str], contract: InputContract) -> list[str]:
        """Check as the base does, and warn of binary masks that are drawn in several colours: maybe of several classes.

        Returns:
            What is to be said, in sentences.
        """
        said = super().check_pixels(parts, contract)
        if len(self.class_names) > 2 or self.multilabel or self.meanings:
            return said
        drawn: dict[str, Path] = {}
        for sample in (sample for part in parts for sample in self.part_samples(part)):
            for mask in sample.masks:
                if colour := drawn_in(mask):
                    drawn.setdefault(colour, mask)
        if len(drawn) > 1:
            shown = first_few([f"{colour} such as {mask.name}" for colour, mask in drawn.items()])
            said.append(
                f"masks are drawn in {len(drawn)} colours ({shown}), and each is taken for {self.class_names[1]}; if "
                "they mean several classes, say which by --data.colours"
            )
        return said

    def summary(self) -> list[str]:
        """Add to what the base says: how the folder was read, and what of it is not."""
        lines = [*super().summary(), f"{self.name}: found {self._cases.how}"]
        if self.split == GIVEN:
            there = {case.part for case in self._cases.cases}
            lines += ["there is no val, so a fifth of the groups to train on validates"] if "val" not in there else []
            lines += (
                ["there is no test, so what validates also tests, and scores are too good"]
                if "test" not in there
                else []
            )
        return [*lines, *unread(self._cases)]

    def describe(self) -> dict[str, Any]:
        """Add to what the base says: the classes, and by what this folder is known again."""
        facts = super().describe() | {"class_names": list(self.class_names), "multilabel": self.multilabel}
        facts |= {"foreground": self.foreground} if self.foreground else {}
        facts |= {option: {str(key): name for key, name in said.items()} for option, said in self.meanings.items()}
        return facts | folder_identity(self.root, self.used_samples())


def _checked(class_names: Sequence[str], multilabel: bool) -> tuple[str, ...]:
    """Return names of classes that are names.

    Raises:
        SegzooError: They are too few, alike, or cannot be those of files where they have to.
    """
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
    return tuple(class_names)


def unread(found: Cases) -> list[str]:
    """Say in a sentence what lies in the folders of some cases and belongs to none, if there is anything."""
    known = {*found.folders, *found.orphans, *(file for case in found.cases for file in (case.image, *case.masks))}
    entries = [path for folder in sorted(found.folders) for path in folder.iterdir()]
    others = [path for path in entries if path not in known and not is_hidden(path)]
    subfolders = sum(path.is_dir() for path in others)
    said = []
    if masks := found.orphans:
        listed = ", ".join([path.name for path in masks[:3]] + ["..."] * (len(masks) > 3))
        said.append(f"{counted(len(masks), 'mask')} {'has' if len(masks) == 1 else 'have'} no image: {listed}")
    kinds = [(subfolders, "subfolder"), (len(others) - subfolders, "other file")]
    if what := " and ".join(counted(number, kind) for number, kind in kinds if number):
        said.append(f"{what} {'is' if len(others) == 1 else 'are'} not read")
    return ["; ".join(said)] if said else []
