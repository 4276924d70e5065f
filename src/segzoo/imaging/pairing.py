"""Names of images, their masks and their channels: which file belongs to which image, as people name them."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from segzoo.errors import SegzooError
from segzoo.imaging.masks import LOSSY_SUFFIXES

Files = Mapping[Path, str]  # and what each is called
_MASK = r"masks?|segs?|segmentations?|labels?|gts?|ground[-_ .]?truths?|annotations?"
_IMAGE = r"images?|imgs?|im|scans?|frames?"
_AFTER, _BEFORE = r"(?P<name>.+)[-_ .](?P<word>{})", r"(?P<word>{})[-_ .](?P<name>.+)"
_NUMBER = r"(?:[-_ .]?(?P<number>\d+))?"  # of one mask among several of an image, as BUSI numbers them
_MASK_NAMES = [
    re.compile(pattern.format(_MASK) + end, re.IGNORECASE) for pattern, end in ((_AFTER, _NUMBER), (_BEFORE, ""))
]
_IMAGE_NAMES = [re.compile(pattern.format(_IMAGE), re.IGNORECASE) for pattern in (_AFTER, _BEFORE)]
_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)  # nnU-Net's


def channel_of(stem: str) -> tuple[str, int] | None:
    """Return case and number of a channel that has a file of its own, as nnU-Net names these; None of other names.

    Example:
        >>> from segzoo.imaging.pairing import channel_of
        >>> channel_of("liver_12_0001"), channel_of("liver_12")
        (('liver_12', 1), None)
    """
    match = _CHANNEL.fullmatch(stem)
    return (match[1], int(match[2])) if match else None


def channel_stem(case: str, number: int) -> str:
    """Return the name of a channel's file: of channel 1 of "liver_12" that is "liver_12_0001"."""
    return f"{case}_{number:04}"


def marked(stem: str) -> dict[str, str]:
    """Map what a mask's image may be called to what marks the mask as one: of "a_mask_1" that is {"a": "_mask"}.

    Example:
        >>> from segzoo.imaging.pairing import marked
        >>> marked("scan 3-seg"), marked("mask_3"), marked("scan 3")
        ({'scan 3': '-seg'}, {'3': 'mask_'}, {})
    """
    found = [match for pattern in _MASK_NAMES if (match := pattern.fullmatch(stem))]
    return {
        match["name"]: stem[: match.start("name")] or stem[match.end("name") : match.end("word")] for match in found
    }


def names_of_image(stem: str) -> list[str]:
    """Return what a mask may call its image: the whole stem, or what is left of "a_image" or "img_a"."""
    return [stem, *(match["name"] for pattern in _IMAGE_NAMES if (match := pattern.fullmatch(stem)))]


def apart(files: Files) -> tuple[Files, Files]:
    """Divide the files of one folder into images and masks: by marks, else a JPEG is the image of what shares its name.

    A mask is what another file's name and a mark make up. Where there are such, whatever is marked so is one too.

    Args:
        files: By path, what each is called.

    Returns:
        Images, and masks.
    """
    known = {one for name in files.values() for one in names_of_image(name)}
    marks = {mark.lower() for name in files.values() for image, mark in marked(name).items() if image in known}
    masks = {file for file, name in files.items() if any(mark.lower() in marks for mark in marked(name).values())}
    alike = defaultdict(list)
    for file, name in files.items():
        alike[name].append(file)
    for pair_of_files in alike.values():
        lossless = [file for file in pair_of_files if file.suffix.lower() not in LOSSY_SUFFIXES]
        if len(pair_of_files) == 2 and len(lossless) == 1:
            masks.update(lossless)
    return (
        {file: name for file, name in files.items() if file not in masks},
        {file: name for file, name in files.items() if file in masks},
    )


def pair(images: Files, masks: Files, place: str = "") -> dict[Path, list[Path]]:
    """Map images to their masks: the one of the same name, else those that a mark and the image's name make up.

    Args:
        images: Those of one folder, by path what each is called.
        masks: Those of one folder, likewise.
        place: Of the masks' folder as the option has it, such as "masks/", for sentences.

    Returns:
        For each image its masks; none where there are none.

    Raises:
        SegzooError: Two files of a kind have one name, an image has masks of several marks, or a mask two images.
    """
    same = _by_name(masks)
    by_name: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for file, name in masks.items():
        for of_image, mark in marked(name).items():
            by_name[of_image].append((mark.lower(), file))
    taken = {same[name]: file for name, file in _by_name(images).items() if name in same}
    found: dict[Path, list[Path]] = {}
    for image, called in images.items():
        own = [same[called]] if called in same else []
        for name in [] if own else names_of_image(called):
            own += [same[name]] if name in same and same[name] not in taken else []
            own += _of_one_mark(image, [one for one in by_name[name] if one[1] not in taken], place)
        for mask in own:
            if taken.setdefault(mask, image) != image:
                raise SegzooError(f"{mask} could be the mask of {taken[mask].name} and of {image.name}; rename one.")
        found[image] = own
    return found


def _by_name(files: Files) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file, name in files.items():
        if found.setdefault(name, file) != file:
            raise SegzooError(f"{found[name]} and {file} share a name; keep one of them.")
    return found


def _of_one_mark(image: Path, candidates: Sequence[tuple[str, Path]], place: str) -> list[Path]:
    files = dict(candidates)
    if len(files) > 1:
        (mark, one), (_, other), *_ = sorted(files.items())
        names = f"{mark}*" if one.stem.lower().startswith(mark) else f"*{mark}"
        raise SegzooError(
            f"{one} and {other.name} could both be the mask of {image.name}; say which to take, such as "
            f"--data.masks '{place}{names}{one.suffix}'."
        )
    return sorted(file for _, file in candidates)
