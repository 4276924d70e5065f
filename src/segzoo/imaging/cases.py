"""Cases of a folder as people have it: its images, the masks of each, and the part that each is meant for.

One place that training, testing and predicting ask. Names are looked at, and no image is opened.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from segzoo.errors import MissingError, SegzooError, first_few
from segzoo.imaging.images import image_files
from segzoo.imaging.names import is_hidden
from segzoo.imaging.pairing import apart, pair

PART_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_AIMS = {"": "", "train": " to train", "val": " to validate", "test": " to test"}
IMAGES, MASKS = "images", "masks"  # roles of folders, each called by the word that comes before its others
_ROLE_WORDS = {
    **dict.fromkeys((IMAGES, "image", "imgs", "img", "inputs", "input", "scans", "frames", "pictures"), IMAGES),
    **dict.fromkeys(("originals", "original"), IMAGES),
    **dict.fromkeys((MASKS, "mask", "labels", "label", "segmentations", "segmentation", "segs", "seg"), MASKS),
    **dict.fromkeys(("gt", "gts", "groundtruth", "groundtruths", "annotations", "annotation", "targets"), MASKS),
}


@dataclass(frozen=True)
class Case:
    """Image with its masks.

    Attributes:
        image: The image file.
        masks: Its mask files: one of each class's folder, else one or, where they are numbered, several.
        name: What it is called: its stem or, where others have that too, with what tells them apart.
        part: ``train``, ``val`` or ``test`` where a folder or a table says so, else "".
        group: Where a table says one, else "".
    """

    image: Path
    masks: tuple[Path, ...]
    name: str
    part: str = ""
    group: str = ""


@dataclass(frozen=True)
class Cases:
    """Cases of a folder.

    Attributes:
        cases: All, part by part, in the order of their names.
        how: What was recognised, for people: "images in images/, masks in masks/".
        orphans: Masks that have no image.
        folders: Where these files lie; whatever else is there is not read.
    """

    cases: list[Case]
    how: str = ""
    orphans: list[Path] = field(default_factory=list)
    folders: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class Place:
    """Folder in a tree, and what the names on the way to it say.

    Attributes:
        folder: Its path.
        part: That a name says, or "".
        way: From the root, without what names a part.
        role: `IMAGES`, `MASKS` or "".
    """

    folder: Path
    part: str = ""
    way: str = "."
    role: str = ""


@dataclass(frozen=True)
class Pattern:
    """Files that an option names: those of a folder, or of names in it where ``*`` stands for the image's name.

    Example:
        >>> from segzoo.imaging.cases import Pattern
        >>> Pattern.of("labels/*_seg.png")
        Pattern(folder='labels', names='*_seg.png')
    """

    folder: str
    names: str = "*"

    @staticmethod
    def of(text: str) -> "Pattern":
        """Return what ``masks``, ``masks/*_seg.png`` or ``*_seg.png`` means.

        Raises:
            SegzooError: It has several ``*``, or one in a folder's name.
        """
        folder, names = os.path.split(text) if "*" in text else (text, "*")
        if "*" in folder or names.count("*") != 1:
            raise SegzooError(f"{text!r} may have one *, which stands for the image's name in the names of files.")
        return Pattern(os.path.normpath(folder or "."), names)

    def files(self, folder: Path) -> dict[Path, str]:
        """Map the files of such names in a folder to what each calls its image."""
        before, _, after = self.names.partition("*")
        form = re.compile(f"{re.escape(before)}(.+){re.escape(after)}", re.DOTALL)
        found = {file: form.fullmatch(file.name) for file in image_files(folder)}
        return {file: match[1] if "." in after else Path(match[1]).stem for file, match in found.items() if match}


@dataclass(frozen=True)
class _Search:
    """Folder that is searched, those in it, and what for."""

    root: Path
    tree: Sequence[Place]
    images: Pattern | None
    masks: Pattern | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """Cases of one folder of images, their masks' folders, all masks there, and where those lie that are missing."""

    place: Place
    cases: list[Case]
    masks: list[Path]
    folders: list[Path]
    expected: list[Path]
    how: str


def find_cases(
    root: Path,
    *,
    images: str | None = None,
    masks: str | None = None,
    classes: Sequence[str] = (),
    masked: bool = True,
) -> Cases:
    """List the cases of a folder.

    Args:
        root: The folder.
        images: Where the images are, as `Pattern.of` takes it; None looks for folders that are called so.
        masks: Where the masks are, likewise.
        classes: Those that have a folder each in that of the masks; none where it holds the masks itself.
        masked: Refuse images without a mask, and leave out those to test on of which none has one.

    Raises:
        MissingError: There are no such folders, or images without a mask.
        SegzooError: What is an image, a mask or a part cannot be told, or files share a name.
    """
    search = _search(root, images, masks, classes)
    shown = _places_of_images(search)
    if not shown:
        return Cases([])
    found = [_cases_at(search, place) for place in shown]
    handed_out = [one for one in found if one.place.part == "test" and not any(case.masks for case in one.cases)]
    if not masked or len(handed_out) == len(found):
        handed_out = []
    found = [one for one in found if one not in handed_out]  # whose masks a challenge keeps to itself
    lacking = [
        (case.image, path)
        for one in found
        for case, path in zip(one.cases, one.expected, strict=True)
        if not case.masks
    ]
    if masked and len(lacking) == 1:
        raise MissingError(f"Image {lacking[0][0]} has no mask: expected {lacking[0][1]}.")
    if masked and lacking:
        raise MissingError(
            f"{len(lacking)} images have no mask: {first_few([image for image, _ in lacking])}; expected is, for the "
            f"first one, {lacking[0][1]}, or say by --data.masks where they are."
        )
    used = {mask for one in found for case in one.cases for mask in case.masks}
    notes = [f"{counted(len(one.cases), 'image')} to test without masks" for one in handed_out]
    return Cases(
        named([case for one in found for case in one.cases], root),
        "; ".join([one.how for one in found] + [f"{note} are not read" for note in notes]),
        sorted({mask for one in found for mask in one.masks} - used),
        frozenset(folder for one in found for folder in one.folders),
    )


def counted(number: int, thing: str) -> str:
    """Count things in words, such as "1 mask" or "2 masks"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


# ---- folders


def places(folder: Path, part: str = "", way: str = ".", role: str = "") -> Iterator[Place]:
    """Yield a folder and those below it, but for hidden ones.

    A name may say a part (``train``), a role (``masks``) or both (``train_masks``). Below a folder that is named
    otherwise, or after a role, only those are looked into that are named after a part.
    """
    yield Place(folder, part, way, role)
    subfolders: list[Path] = []
    with suppress(PermissionError), os.scandir(folder) as entries:  # such as lost+found
        subfolders = sorted(folder / entry.name for entry in entries if entry.is_dir())
    for sub in [sub for sub in subfolders if not is_hidden(sub)]:
        words = [word for word in re.split(r"[-_. ]+", sub.name.lower()) if word]
        said = next((word for word in words if word in PART_WORDS), "") if not part else ""
        rest = "".join(word for word in words if word != said)
        if said and not rest:
            yield from places(sub, PART_WORDS[said], way, role)
        elif way == ".":
            its_role = _ROLE_WORDS.get(rest, "")
            yield from places(sub, PART_WORDS[said] if said and its_role else part, sub.name, its_role)


def _search(root: Path, images: str | None, masks: str | None, classes: Sequence[str]) -> _Search:
    patterns = [None if text is None else Pattern.of(text) for text in (images, masks)]
    return _Search(root, list(places(root)), patterns[0], patterns[1], tuple(classes))


def _places_of_images(search: _Search) -> list[Place]:
    """Return the folder of the images, or that of each part; none where there is one, and it is empty.

    Raises:
        MissingError: There is none.
        SegzooError: It cannot be told.
    """
    if search.images is not None:
        return _places_by_option(search, search.images)
    named = [place for place in search.tree if place.role == IMAGES and image_files(place.folder)]
    plain = [place for place in search.tree if place.way == "." and image_files(place.folder)]
    if parted := [place for place in named + plain if place.part]:
        if whole := [place for place in named if not place.part]:
            raise SegzooError(
                f"{whole[0].folder} holds images of no part, and {parted[0].folder} images{_AIMS[parted[0].part]}; "
                f"leave one of them out, or say which to read by --data.images {_way(whole[0].folder, search.root)}."
            )
        of_roles = {place.part for place in named}
        chosen = [place for place in parted if place.role or place.part not in of_roles]
    else:
        chosen = named or plain
    if not chosen and not any(place.role == IMAGES for place in search.tree):
        raise MissingError(
            f"the folder {search.root} does not hold the dataset: expected images/ and masks/ in it, masks beside "
            "their images (a.png, a_mask.png), such folders in train/, val/ and test/, or a table (CSV) with the "
            "columns image and mask; say by --data.images and --data.masks where they are otherwise."
        )
    parts = sorted({place.part for place in chosen}, key=list(_AIMS).index)
    return [_one_of([place for place in chosen if place.part == part], IMAGES, search) for part in parts]


def _places_by_option(search: _Search, pattern: Pattern) -> list[Place]:
    exact = Path(os.path.normpath(search.root / pattern.folder))
    if exact.is_dir() and pattern.files(exact):
        return [Place(exact, way=pattern.folder, role=IMAGES)]
    found = [place for place in search.tree if place.way == pattern.folder and pattern.files(place.folder)]
    if not found:
        raise MissingError(f"There is no image {pattern.names} in {exact}; look at --data.images.")
    return found


def _place_of_masks(search: _Search, images: Place) -> Place | None:
    """Return the folder of some images' masks: of their part, else of all; None where they lie beside the images."""

    def holds(folder: Path) -> bool:
        if search.classes:
            return any((folder / name).is_dir() for name in search.classes)
        return bool(image_files(folder))

    if (pattern := search.masks) is not None:
        same = [place for place in search.tree if (place.way, place.part) == (pattern.folder, images.part)]
        exact = Path(os.path.normpath(search.root / pattern.folder))
        found = next((place for place in [*same, Place(exact)] if place.folder.is_dir() and holds(place.folder)), None)
        if found is None:
            raise MissingError(f"There is no mask in {exact}; look at --data.masks.")
        return None if found.folder == images.folder else found
    known = [place for place in search.tree if place.role == MASKS]
    for part in (images.part, ""):
        if of_part := [place for place in known if place.part == part]:
            holding = [place for place in of_part if holds(place.folder)]
            return _one_of(holding or of_part, MASKS, search)
    return None


def _one_of(found: Sequence[Place], role: str, search: _Search) -> Place:
    """Return the only one of some folders, or the one whose name comes before others."""
    first, *others = sorted(found, key=lambda place: place.way != role)
    if others and (first.way != role or others[0].way == role):
        both = [_way(place.folder, search.root) for place in (first, others[0])]
        raise SegzooError(
            f"{both[0]} and {both[1]} in {search.root} could both hold the {role}; say which to read, such as "
            f"--data.{role} {both[0]}."
        )
    return first


def _way(folder: Path, root: Path) -> str:
    return f"{os.path.relpath(folder, root)}/" if folder != root else "the folder itself"


# ---- files


def _cases_at(search: _Search, place: Place) -> _Found:
    """Pair the images of one folder with their masks."""
    images: Mapping[Path, str] = (search.images or Pattern(".")).files(place.folder)
    where = _place_of_masks(search, place)
    if where is None:
        images, of_masks = _beside(search, place.folder, images)
        folders, masks = [place.folder], [of_masks]
        if search.classes:
            raise MissingError(f"{place.folder} has no masks: expected a folder masks/{search.classes[0]}/ of them.")
    else:
        folders = [where.folder / name for name in search.classes] or [where.folder]
        masks = [(search.masks or Pattern(".")).files(folder) for folder in folders]
    prefix = "" if folders[0] == search.root else _way(folders[0], search.root)
    pairs = [pair(images, files, prefix) for files in masks]
    cases, expected = [], []
    for image, name in images.items():
        own = [of_class[image] for of_class in pairs]
        if search.classes and any(len(files) > 1 for files in own):
            raise SegzooError(f"{image} has several masks of one class; merge them into one file.")
        whole = tuple(file for files in own for file in files) if all(own) else ()
        cases.append(Case(image, whole, name, place.part))
        folder = folders[next((number for number, files in enumerate(own) if not files), 0)]
        if where is None:
            missing = place.folder.parent / MASKS / image.stem if place.role else folder / f"{image.stem}_mask"
        else:
            missing = folder / image.stem
        expected.append(missing.with_name(f"{missing.name}.png"))
    return _Found(
        place,
        cases,
        [file for files in masks for file in files],
        [place.folder, *folders, *([] if where is None else [where.folder])],
        expected,
        _how(cases, place, where, search.root),
    )


def _beside(search: _Search, folder: Path, images: Mapping[Path, str]) -> tuple[Mapping[Path, str], Mapping[Path, str]]:
    """Return images and masks that lie in one folder."""
    if search.masks is not None:
        masks = search.masks.files(folder)
        return {file: name for file, name in apart(images)[0].items() if file not in masks}, masks
    if search.images is not None and search.images.names != "*":
        return images, {file: name for file, name in Pattern(".").files(folder).items() if file not in images}
    return apart(images)


def _how(cases: Sequence[Case], place: Place, where: Place | None, root: Path) -> str:
    """Say which images and masks were recognised, for people."""
    said = f"{counted(len(cases), 'image')} in {_way(place.folder, root)}"
    said += f"{_AIMS[place.part]}, masks "
    said += "beside them" if where is None else f"in {_way(where.folder, root)}"
    other = next((case for case in cases if case.masks and case.masks[0].stem != case.image.stem), None)
    if other is not None:
        said += f", such as {other.masks[0].name} of {other.image.name}"
    return said


def named(cases: Sequence[Case], root: Path) -> list[Case]:
    """Return cases with names of their own: where two share one, the part or else the whole path goes before all."""
    for prefix in (lambda case: "", lambda case: f"{case.part}/", lambda case: f"{_way(case.image.parent, root)}"):
        names = [prefix(case) + case.name for case in cases]
        if len(set(names)) == len(names):
            break
    return [replace(case, name=name) for case, name in zip(cases, names, strict=True)]
