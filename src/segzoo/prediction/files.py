"""Files in, mask files out: reading, segmenting and writing at the same time."""

import errno
import os
import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segzoo.errors import SegzooError, attempt
from segzoo.imaging.images import is_colour, read_note, write_png
from segzoo.imaging.readers import Reader
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.plan import DRAFT, DRAFT_END, Job
from segzoo.prediction.predictor import Predictor

THREADS = 4  # that read, and as many that write: decoding and compressing release Python's lock
NO_MEMORY = "(out of|allocate|not enough) memory|bad_alloc"  # in errors of torch and of SimpleITK
NO_MORE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what keeps any further file from being written


class OutputError(SegzooError):
    """Nothing more can be written; to go on would be lost work."""


@contextmanager
def enough_memory(what: object) -> Iterator[None]:
    """Say in one sentence that there is not.

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


# ---- run


def segment_files(predictor: Predictor, jobs: Sequence[Job]) -> Iterator[tuple[Job, str | SegzooError]]:
    """Do all jobs; yield, in their order, what each mask covers, or why there is none.

    While one batch is segmented, the next inputs are read and the last masks written. What is read ahead or waits to be
    written is bounded, so that memory does not grow with the number of files: a few batches of images, but of volumes
    only the next one and the last one beside the one that is segmented.
    """
    for large, group in groupby(jobs, key=lambda job: job.input.large):
        ahead = 1 if large else 2 * predictor.batch_size + THREADS
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
    readers: ThreadPoolExecutor, read: Callable[[Reader], Any], jobs: Iterable[Job], ahead: int
) -> Iterator[tuple[Job, Any]]:
    """Yield each job with its input, or with the error that reading it met; up to ``ahead`` more are being read."""
    reading: deque[tuple[Job, Future[Any]]] = deque()
    for job in jobs:
        reading.append((job, readers.submit(attempt, read_input, read, job)))
        if len(reading) > ahead:
            first, given = reading.popleft()
            yield first, given.result()
    while reading:
        first, given = reading.popleft()
        yield first, given.result()


def read_input(read: Callable[[Reader], Any], job: Job) -> Any:
    """Read a job's input.

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
        with enough_memory(job.file):
            return read(job.input)
    except SegzooError:
        raise
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
        raise SegzooError(f"Cannot read {job.file} ({reason}).") from error


def batches(predictor: Predictor, inputs: Iterator[tuple[Job, Any]]) -> Iterator[list[tuple[Job, Any]]]:
    """Yield neighbours of one key together, as many as the predictor takes; what could not be read is alone."""

    def key(read: tuple[Job, Any]) -> Hashable | None:
        return None if isinstance(read[1], SegzooError) else predictor.key(read[1])

    for shared, neighbours in groupby(inputs, key):
        while batch := list(islice(neighbours, 1 if shared is None else predictor.batch_size)):
            yield batch


def segmented(
    predictor: Predictor, batch: Sequence[tuple[Job, Any]]
) -> Iterator[tuple[Job, Segmentation | SegzooError]]:
    """Yield each job of a batch with its segmentation, or with the error that it met."""
    jobs, inputs = zip(*batch, strict=True)
    found = inputs[0] if isinstance(inputs[0], SegzooError) else attempt(segment_batch, predictor, inputs)
    del inputs
    if isinstance(found, SegzooError):
        yield from ((job, naming(job.file, found)) for job in jobs)
    else:
        yield from zip(jobs, found, strict=True)


def segment_batch(predictor: Predictor, inputs: Sequence[Any]) -> list[Segmentation]:
    """Segment inputs of one key."""
    with enough_memory("it"):
        return predictor.segment(inputs)


def naming(file: Path, error: SegzooError) -> SegzooError:
    """Return an error that says which file it is about."""
    return error if file.name in str(error) else SegzooError(f"{file}: {error}")


def to_write(job: Job, found: Segmentation | SegzooError) -> Segmentation | SegzooError:
    """Return a segmentation without its probabilities, and without its image where no overlay is drawn."""
    if isinstance(found, SegzooError):
        return found
    none = found.probabilities[:0].copy()  # of no class, and no view that would keep the others
    return replace(found, probabilities=none, image=found.image if job.overlay else None)


def finish(job: Job, found: Segmentation | SegzooError) -> str:
    """Write a segmentation and say what it covers.

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
        if job.overlay is not None:
            write_png(draft / job.overlay.name, found.overlay(), note=job.note)
        elif job.left is not None:
            remove_overlay_of_another_mask(job.left, job.note)
        for file in sorted(draft.iterdir()):
            settle(file)
            os.replace(file, job.mask.with_name(file.name))


def settle(file: Path) -> None:
    """Wait until a file's contents are on the disk: a crash of the machine would else leave its name and half of it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def remove_overlay_of_another_mask(overlay: Path, note: str) -> None:
    """Remove the overlay that an earlier run, with other options, left beside a mask that is about to go."""
    if read_note(overlay) not in (None, "", note) and is_colour(overlay):  # a grey one is the mask of another image
        overlay.unlink(missing_ok=True)
