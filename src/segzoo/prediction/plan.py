"""Which files are segmented, and which files are written."""

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.images import image_files
from segzoo.imaging.segmentation import mask_paths, require_own_files
from segzoo.imaging.volumes import is_volume, volume_files, volume_stem

DRAFT, DRAFT_END = ".segzoo-", ".writing"  # how a folder's name begins and ends that a process writes into
DEAD = 24 * 60 * 60  # seconds after which nobody writes into a draft any more


@dataclass(frozen=True)
class Job:
    """One input, and what is made of it.

    Attributes:
        file: an image or a volume.
        mask: the file to write (multi-label: one a class, called after it).
        overlay: the picture to draw; None for none.
        note: what the written files depend on, which is stored in them; see `unfinished`.
        taken: one of the files to write, where what is there was not made from this input.
    """

    file: Path
    mask: Path
    overlay: Path | None = None
    note: str = ""
    taken: Path | None = None


# ---- plan


def plan(inputs: Sequence[Path], output: Path, overlay: bool) -> list[Job]:
    """Every image and volume to read, each once, with the files to write; folders give all that are in them.

    Raises:
        MissingFileError: an input is not there, or a folder holds no image and no volume.
        SegzooError: a file would be written twice, or over an input.
    """
    jobs: dict[Path, Job] = {}  # by the mask
    readers: dict[Path, Path] = {}  # what is written -> what it is made from
    output_leads = leads_to(output)
    for file in (file for given in inputs for file in images_and_volumes(given)):
        job = Job(file, mask_file(file, output), overlay_file(file, output) if overlay else None)
        for written in filter(None, (job.mask, job.overlay)):
            first = readers.setdefault(written, file)
            if leads_to(first) != leads_to(file):
                raise written_twice(first, file, written)
        if output_leads in (leads_to(file).parent, leads_to(file.parent)):  # where it is, and where it is linked
            raise SegzooError(f"{file} lies in the output folder {output} and could be overwritten; write elsewhere")
        jobs.setdefault(job.mask, job)
    return list(jobs.values())


def require_distinct(jobs: Iterable[Job], channels: Sequence[str] | None) -> None:
    """What `plan` cannot tell before the classes' names are known, which are in those of the files.

    Args:
        jobs: of `plan`.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Raises:
        SegzooError: a file would be written twice.
    """
    require_own_files(channels or ())
    makers: dict[Path, Path] = {}
    for job in jobs:
        for written in written_files(job, channels):
            first = makers.setdefault(written, job.file)
            if first != job.file:
                raise written_twice(first, job.file, written)
        if job.overlay in mask_paths(job.mask, channels):
            raise SegzooError(f"{job.overlay} would be a mask and the overlay of {job.file}; leave --overlay out")


def written_twice(first: Path, second: Path, written: Path) -> SegzooError:
    """That two inputs would be written to one file."""
    return SegzooError(f"{first} and {second} would both be written to {written.name}; rename one of them")


def leads_to(path: Path) -> Path:
    """Without links on the way; of a link to itself it says something too, where ``Path.resolve`` raises."""
    return Path(os.path.realpath(path))


def require_writable(folder: Path) -> None:
    """Make the output folder, before hours go into what cannot be written there.

    Raises:
        SegzooError: it cannot be made, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SegzooError(f"nothing can be written in {folder} ({error.strerror}); name another --output") from error


def remove_dead_drafts(folder: Path) -> None:
    """Clear up after processes that were killed a day ago or earlier; younger drafts may be those of another run."""
    for draft in folder.glob(f"{DRAFT}*{DRAFT_END}"):
        with suppress(OSError):  # it may have ended meanwhile
            if time.time() - draft.stat().st_mtime > DEAD:
                shutil.rmtree(draft)


def images_and_volumes(given: Path) -> list[Path]:
    """A file itself, or the files to segment directly inside a folder, by name.

    Raises:
        MissingFileError: it is not there, or holds none.
    """
    try:
        given.lstat()  # of a link that leads nowhere reading it tells
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"there is no file or folder {given} to segment") from None
    found = sorted([*image_files(given), *volume_files(given)]) if os.path.isdir(given) else [given]
    if not found:
        raise MissingFileError(f"the folder {given} holds no image (png, jpg, tif, bmp) or volume (nii, nrrd, mha)")
    return found


def mask_file(file: Path, output: Path) -> Path:
    """Where a mask goes: that of a volume is called as the volume is, that of an image is a PNG."""
    return output / (file.name if is_volume(file) else f"{file.stem}.png")


def overlay_file(file: Path, output: Path) -> Path:
    """Where the overlay of a mask goes."""
    return output / f"{volume_stem(file) if is_volume(file) else file.stem}_overlay.png"


# ---- resume


def written_files(job: Job, channels: Sequence[str] | None) -> list[Path]:
    """All files that a job writes."""
    return [*mask_paths(job.mask, channels), *filter(None, [job.overlay])]
