"""Files in, mask files out: reading, segmenting and writing at the same time, in one process or in several.

What segments is a `Predictor`, whatever it computes with; neither torch nor a model is needed to plan, read or write.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingError, SegzooError, attempt
from segzoo.io import image_files, is_colour, read_image, read_note, write_png
from segzoo.segmentation import Segmentation, mask_paths, require_own_files
from segzoo.volumes import (
    VOLUME_SUFFIXES,
    Volume,
    is_volume,
    read_volume,
    read_volume_note,
    volume_files,
    volume_stem,
)

THREADS = 4  # that read, and as many that write: decoding and compressing release Python's lock
DRAFT, DRAFT_END = ".segzoo-", ".writing"  # how a folder's name begins and ends that a process writes into
DEAD = 24 * 60 * 60  # seconds after which nobody writes into a draft any more
NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what keeps any further file from being written
SOURCE = 14  # characters of a note that tell where the input lies
NO_MEMORY = "(out of|allocate|not enough) memory|bad_alloc"  # in errors of torch and of SimpleITK


class OutputError(SegzooError):
    """Nothing more can be written; to go on would be lost work."""


class Predictor(Protocol):
    """What turns files into segmentations.

    Attributes:
        batch_size: how many inputs of one key are segmented together.
        description: what computes, and how, in one line for people.
    """

    batch_size: int
    description: str

    def read(self, file: Path) -> Any:
        """An input, ready to be segmented; called by several threads.

        Raises:
            SegzooError: the file cannot be read, or is nothing that this model takes.
        """

    def key(self, given: Any) -> Hashable | None:
        """What inputs have in common that can be segmented together; None: this one is segmented alone."""

    def segment(self, given: Sequence[Any]) -> list[Segmentation]:
        """The segmentations of up to ``batch_size`` inputs of one key, in their order; called by one thread.

        Raises:
            SegzooError: they cannot be segmented.
        """


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
        MissingError: an input is not there, or a folder holds no image and no volume.
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


def require_overlap(overlap: float) -> None:
    """Refuse what windows cannot share of their length.

    Raises:
        SegzooError: saying so.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")


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
        MissingError: it is not there, or holds none.
    """
    try:
        given.lstat()  # of a link that leads nowhere reading it tells
    except (FileNotFoundError, NotADirectoryError):
        raise MissingError(f"there is no file or folder {given} to segment") from None
    found = sorted([*image_files(given), *volume_files(given)]) if os.path.isdir(given) else [given]
    if not found:
        raise MissingError(f"the folder {given} holds no image (png, jpg, tif, bmp) or volume (nii, nrrd, mha)")
    return found


def mask_file(file: Path, output: Path) -> Path:
    """Where a mask goes: that of a volume is called as the volume is, that of an image is a PNG."""
    return output / (file.name if is_volume(file) else f"{file.stem}.png")


def overlay_file(file: Path, output: Path) -> Path:
    """Where the overlay of a mask goes."""
    return output / f"{volume_stem(file) if is_volume(file) else file.stem}_overlay.png"


# ---- read


def read_file(file: str | Path, channels: int, spatial_dims: int) -> npt.NDArray[np.uint8] | Volume:
    """An image [H, W, C] or a volume, as a model takes it.

    Args:
        file: to read.
        channels: of the model's input.
        spatial_dims: 2 for a model of images, which takes volumes slice by slice; 3 for one of volumes.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or it is an image where the model takes volumes.
    """
    if is_volume(file):
        # the slices of a volume are grey, also to a model that takes RGB
        return read_volume(file, 1 if spatial_dims == 2 and channels == 3 else channels)
    if spatial_dims == 3:
        raise no_volume(file)
    return read_image(file, channels)


def no_volume(what: object) -> SegzooError:
    """That this is an image where a model takes volumes."""
    return SegzooError(f"This model segments volumes ({', '.join(VOLUME_SUFFIXES)}), and {what} is none.")


@contextmanager
def enough_memory(what: object) -> Iterator[None]:
    """That there is not, in one sentence.

    Args:
        what: does not fit.

    Raises:
        SegzooError: saying so.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # they have no kind of their own for a CPU's memory
        if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
            raise SegzooError(f"there is not enough memory for {what}") from error
        raise


# ---- resume


def unfinished(jobs: Iterable[Job], recipe: dict[str, Any], channels: Sequence[str] | None) -> list[Job]:
    """The jobs whose files are not all there as this recipe makes them from the input as it is now.

    Every file that is written holds a note that tells: so no mask of another model, of other options or of another
    input is ever taken for this one's, whoever wrote it, and no record has to be kept beside the masks. What was made
    from an input that lies elsewhere, or has no such note and may have been drawn by hand, is not written over: doing
    that job is refused (see `read_input`).

    Args:
        jobs: of `plan`.
        recipe: plain values that say what the masks depend on besides the input.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Returns:
        Them, in their order, with their notes, and with what is not to be written over.
    """
    todo = []
    for job in (replace(job, note=note_of(job.file, recipe)) for job in jobs):
        notes = {file: stored_note(file) for file in written_files(job, channels)}
        if not job.note:
            todo.append(job)
        elif set(notes.values()) != {job.note}:
            others = [file for file, note in notes.items() if note is not None and not same_source(note, job.note)]
            todo.append(replace(job, taken=others[0] if others else None))
    return todo


def note_of(file: Path, recipe: dict[str, Any]) -> str:
    """What a mask depends on, in 79 characters, since NIfTI has room for no more: see `same_source`.

    Empty for a file that is not there any more, of which reading it will tell.
    """
    try:
        state = file.stat()
    except OSError:
        return ""
    source = str(leads_to(file))
    return f"{digest(source)[:SOURCE]}-{digest([source, state.st_size, state.st_mtime_ns, recipe])}"


def digest(facts: Any) -> str:
    """Plain values as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def same_source(note: str, other: str) -> bool:
    """Whether two notes begin alike, where they tell where the input lies, before its state and the recipe."""
    return note[:SOURCE] == other[:SOURCE]


def written_files(job: Job, channels: Sequence[str] | None) -> list[Path]:
    """All files that a job writes."""
    return [*mask_paths(job.mask, channels), *filter(None, [job.overlay])]


def stored_note(file: Path) -> str | None:
    """The note in a mask or overlay, an empty one where it has none; None of a file that is not there or damaged."""
    return (read_volume_note if is_volume(file) else read_note)(file) if file.is_file() else None


# ---- run


def segment_files(predictor: Predictor, jobs: Sequence[Job]) -> Iterator[tuple[Job, str | SegzooError]]:
    """Do all jobs; yields, in their order, what each mask covers, or why there is none.

    While one batch is segmented, the next inputs are read and the last masks written. What is read ahead or waits to be
    written is bounded, so that memory does not grow with the number of files: a few batches of images, but of volumes
    only the next one and the last one beside the one that is segmented.
    """
    for volumes, group in groupby(jobs, key=lambda job: is_volume(job.file)):
        ahead = 1 if volumes else 2 * predictor.batch_size + THREADS
        with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(THREADS) as writers:
            written: deque[tuple[Job, Future[str | SegzooError]]] = deque()
            for batch in batches(predictor, read_ahead(readers, predictor.read, group, ahead)):
                for job, found in segmented(predictor, batch):
                    written.append((job, writers.submit(attempt, finish, job, to_write(job, found))))
                    del found  # what it holds beside that would wait with it
                batch.clear()
                while written and (len(written) > ahead or written[0][1].done()):
                    first, outcome = written.popleft()
                    yield first, outcome.result()
            yield from ((job, outcome.result()) for job, outcome in written)


def read_ahead(
    readers: ThreadPoolExecutor, read: Callable[[Path], Any], jobs: Iterable[Job], ahead: int
) -> Iterator[tuple[Job, Any]]:
    """Each job with its input, or with the error that reading it met; up to ``ahead`` more are being read."""
    reading: deque[tuple[Job, Future[Any]]] = deque()
    for job in jobs:
        reading.append((job, readers.submit(attempt, read_input, read, job)))
        if len(reading) > ahead:
            first, given = reading.popleft()
            yield first, given.result()
    while reading:
        first, given = reading.popleft()
        yield first, given.result()


def read_input(read: Callable[[Path], Any], job: Job) -> Any:
    """A job's input.

    Raises:
        SegzooError: it cannot be read, whatever the reason (files can be wrong in more ways than decoders know of), or
            the job would write over what was not made from it.
    """
    if job.taken is not None:
        raise SegzooError(
            f"{job.taken} is in the way: it was made from another file than {job.file}, or not by segzoo predict; name "
            "another --output, or remove it"
        )
    try:
        return read(job.file)
    except SegzooError:
        raise
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
        raise SegzooError(f"Cannot read {job.file} ({reason}).") from error


def batches(predictor: Predictor, inputs: Iterator[tuple[Job, Any]]) -> Iterator[list[tuple[Job, Any]]]:
    """Neighbours of one key together, as many as the predictor takes; what could not be read is alone."""

    def key(read: tuple[Job, Any]) -> Hashable | None:
        return None if isinstance(read[1], SegzooError) else predictor.key(read[1])

    for shared, neighbours in groupby(inputs, key):
        while batch := list(islice(neighbours, 1 if shared is None else predictor.batch_size)):
            yield batch


def segmented(
    predictor: Predictor, batch: Sequence[tuple[Job, Any]]
) -> Iterator[tuple[Job, Segmentation | SegzooError]]:
    """Each job of a batch with its segmentation, or with the error that it met."""
    jobs, inputs = zip(*batch, strict=True)
    found = inputs[0] if isinstance(inputs[0], SegzooError) else attempt(predictor.segment, inputs)
    del inputs
    if isinstance(found, SegzooError):
        yield from ((job, naming(job.file, found)) for job in jobs)
    else:
        yield from zip(jobs, found, strict=True)


def naming(file: Path, error: SegzooError) -> SegzooError:
    """An error that says which file it is about."""
    return error if file.name in str(error) else SegzooError(f"{file}: {error}")


def to_write(job: Job, found: Segmentation | SegzooError) -> Segmentation | SegzooError:
    """A segmentation without its probabilities, and without its image where no overlay is drawn."""
    if isinstance(found, SegzooError):
        return found
    none = found.probabilities[:0].copy()  # of no class, and no view that would keep the others
    return replace(found, probabilities=none, image=found.image if job.overlay else None)


def finish(job: Job, found: Segmentation | SegzooError) -> str:
    """Write a segmentation; says what it covers.

    Raises:
        OutputError: no other can be written either.
        SegzooError: there is none, or it cannot be written.
    """
    if isinstance(found, SegzooError):
        raise found
    try:
        with enough_memory(job.mask):
            write(job, found)
    except OSError as error:
        kind = OutputError if error.errno in NO_MORE else SegzooError
        raise kind(f"{job.mask} cannot be written ({error.strerror or error})") from error
    covered = zip(found.foreground_names(), found.class_masks(), strict=True)
    return ", ".join(f"{name} {part.mean():.1%}" for name, part in covered)


def write(job: Job, found: Segmentation) -> None:
    """Write a job's files, each of them complete or not at all, whenever the process is killed.

    The draft is this process's alone: of two that write the same job, the second one wins.
    """
    job.mask.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=DRAFT, suffix=DRAFT_END, dir=job.mask.parent, ignore_cleanup_errors=True) as folder:
        draft = Path(folder)
        found.save(draft / job.mask.name, note=job.note)
        if job.overlay is None:
            remove_overlay_of_another_mask(job)
        else:
            write_png(draft / job.overlay.name, found.overlay(), note=job.note)
        for file in written_files(job, found.class_names if found.multilabel else None):
            settle(draft / file.name)
            os.replace(draft / file.name, file)


def settle(file: Path) -> None:
    """Wait until a file's contents are on the disk: a crash of the machine would else leave its name and half of it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def remove_overlay_of_another_mask(job: Job) -> None:
    """The overlay that an earlier run, with other options, left beside a mask that is about to go."""
    overlay = overlay_file(job.file, job.mask.parent)
    if read_note(overlay) not in (None, "", job.note) and is_colour(overlay):  # a grey one is the mask of another image
        overlay.unlink(missing_ok=True)
