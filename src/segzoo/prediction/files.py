"""Files in, mask files out: reading, segmenting and writing at the same time."""

import errno
import math
import os
import re
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Condition
from typing import Any

from segzoo.checkpoints.folder import DRAFT_END
from segzoo.errors import SegzooError, attempt
from segzoo.imaging.dicom import DicomCase
from segzoo.imaging.dicom_seg import write_seg
from segzoo.imaging.images import image_size, is_colour, read_note, write_png
from segzoo.imaging.probabilities import write_probabilities
from segzoo.imaging.segmentation import ClassMasks, Segmentation
from segzoo.imaging.strips import let_go_of_memory
from segzoo.limits import PIXELS_IN_FLIGHT
from segzoo.prediction.measurements import record
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import DRAFT, Job
from segzoo.prediction.report import report_case
from segzoo.prediction.resume import same_source, stored_note

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


def segment_files(pipeline: Pipeline, jobs: Iterable[Job]) -> Iterator[tuple[Job, str | SegzooError]]:
    """Do all jobs; yield, in their order, what each mask covers, or why there is none.

    While one batch is segmented, the next inputs are read and the last masks written. What is read ahead or waits to be
    written is bounded, so that memory does not grow with the number of files: a few batches of images, of which all
    pixels have to find room, but of volumes only the next one and the last one beside the one that is segmented.
    """
    let_go_of_memory()
    for large, group in groupby(jobs, key=lambda job: job.input.large):
        ahead = 1 if large else 2 * pipeline.batch_size + THREADS
        room = Room()
        with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(THREADS) as writers:
            written: deque[tuple[Job, Future[str | SegzooError]]] = deque()
            for batch in batches(pipeline, read_ahead(readers, pipeline.read, group, ahead, room)):
                for job, found in segmented(pipeline, batch):
                    written.append((job, writers.submit(attempt, finish, job, to_write(job, found), room)))
                    del found  # what it holds beside that would wait with it
                batch.clear()
                while written and (len(written) > ahead or written[0][1].done()):
                    first, outcome = written.popleft()
                    yield first, outcome.result()
            yield from ((job, outcome.result()) for job, outcome in written)


class Room:
    """Room for the pixels of images, from before they are read until their masks are written.

    One image finds room in any case, also where it has more pixels than may be in flight.
    """

    def __init__(self) -> None:
        self.most = PIXELS_IN_FLIGHT.most
        self.pixels: dict[Job, int] = {}
        self.changed = Condition()

    def has(self, pixels: int) -> bool:
        """Return whether there is room for as many more."""
        with self.changed:
            return not self.pixels or sum(self.pixels.values()) + pixels <= self.most

    def enter(self, job: Job, pixels: int) -> None:
        """Wait until there is room for a job's image: for others' masks to be written."""
        with self.changed:
            self.changed.wait_for(lambda: self.has(pixels))
            self.pixels[job] = pixels

    @contextmanager
    def until_left(self, job: Job) -> Iterator[None]:
        """Make room at the end, whatever it is: a job's image is not needed any more."""
        try:
            yield
        finally:
            with self.changed:
                del self.pixels[job]
                self.changed.notify()


def pixels_of(job: Job) -> int:
    """Return the pixels of a job's image as its header says; of a header that does not say it, the file's bytes.

    None of a volume, and of what is not there, as reading it will tell.
    """
    if job.input.large:
        return 0
    try:
        return math.prod(image_size(job.file))
    except (OSError, SegzooError):
        return os.path.getsize(job.file) if os.path.isfile(job.file) else 0


def read_ahead(
    readers: ThreadPoolExecutor, read: Callable[..., Any], jobs: Iterable[Job], ahead: int, room: Room
) -> Iterator[tuple[Job, Any] | None]:
    """Yield each job with its input, or with the error that reading it met; up to ``ahead`` more are being read.

    None between two of them: what was read has to be segmented before there is room for more.
    """
    reading: deque[tuple[Job, Future[Any]]] = deque()

    def first() -> tuple[Job, Any]:  # kept by no variable here, where it would outlive its turn
        job, given = reading.popleft()
        return job, given.result()

    for job in jobs:
        pixels = pixels_of(job)
        while reading and not room.has(pixels):
            yield first()
        if not room.has(pixels):
            yield None
        room.enter(job, pixels)
        if pixels > room.most:  # alone, so nothing is won by another thread, which would keep the memory for itself
            yield job, attempt(read_input, read, job)
            continue
        reading.append((job, readers.submit(attempt, read_input, read, job)))
        if len(reading) > ahead:
            yield first()
    while reading:
        yield first()


def read_input(read: Callable[..., Any], job: Job) -> Any:
    """Read a job's input.

    Raises:
        SegzooError: it cannot be read, whatever the reason (files can be wrong in more ways than decoders know of), or
            the job would write over what was not made from it.
    """
    if job.taken is not None:
        raise in_the_way(job.taken, job.file)
    try:
        with enough_memory(job.file):
            return read(job.input, drawn=job.overlay is not None or job.measure is not None)
    except SegzooError:
        raise
    except Exception as error:
        reason = (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__}: {error}"
        raise SegzooError(f"Cannot read {job.file} ({reason}).") from error


def in_the_way(taken: Path, file: Path) -> SegzooError:
    """Return the error that a file to write was made from something else than an input."""
    return SegzooError(
        f"{taken} is in the way: it was made from another file than {file}, or not by segzoo predict; name another "
        "--output, or remove it"
    )


def batches(pipeline: Pipeline, inputs: Iterator[tuple[Job, Any] | None]) -> Iterator[list[tuple[Job, Any]]]:
    """Yield neighbours of one key together, as many as the pipeline takes; what could not be read is alone.

    None among the inputs ends a batch.
    """
    end = object()

    def key(read: tuple[Job, Any] | None) -> Hashable | None:
        if read is None:
            return end
        return None if isinstance(read[1], SegzooError) else pipeline.key(read[1])

    for shared, neighbours in groupby(inputs, key):
        most = 1 if shared is None else pipeline.batch_size
        while batch := [read for read in islice(neighbours, most) if read is not None]:
            yield batch


def segmented(pipeline: Pipeline, batch: Sequence[tuple[Job, Any]]) -> Iterator[tuple[Job, Segmentation | SegzooError]]:
    """Yield each job of a batch with its segmentation, or with the error that it met."""
    jobs, inputs = zip(*batch, strict=True)
    found = inputs[0] if isinstance(inputs[0], SegzooError) else attempt(segment_batch, pipeline, inputs)
    del inputs
    if isinstance(found, SegzooError):
        yield from ((job, naming(job.file, found)) for job in jobs)
    else:
        yield from zip(jobs, found, strict=True)


def segment_batch(pipeline: Pipeline, inputs: Sequence[Any]) -> list[Segmentation]:
    """Segment inputs of one key.

    Raises:
        SegzooError: they cannot be segmented, or their probabilities cannot be kept on the disk meanwhile.
    """
    try:
        with enough_memory("it"):
            return pipeline.segment(inputs)
    except OSError as error:
        raise not_written("its probabilities", error) from error


def naming(file: Path, error: SegzooError) -> SegzooError:
    """Return an error that says which file it is about."""
    return error if file.name in str(error) else type(error)(f"{file}: {error}")


def to_write(job: Job, found: Segmentation | SegzooError) -> Segmentation | SegzooError:
    """Return a segmentation, without its probabilities where the job does not write them."""
    if isinstance(found, SegzooError) or job.maps:
        return found
    none = found.probabilities[:0].copy()  # of no class, and no view that would keep the others
    return replace(found, probabilities=none)


def finish(job: Job, found: Segmentation | SegzooError, room: Room) -> str:
    """Write a segmentation and say what it covers.

    Raises:
        OutputError: no other can be written either.
        SegzooError: there is none, or a file of it cannot be written.
    """
    with room.until_left(job):
        if isinstance(found, SegzooError):
            raise found
        try:
            with enough_memory(job.mask):
                write(job, found)
        except OSError as error:
            raise not_written(job.mask, error) from error
        if job.measure is not None:
            try:
                with enough_memory(f"measuring {job.file}"):
                    record(job, found)
            except OSError as error:
                raise not_written(job.measure, error) from error
        if job.report is not None:
            try:
                report_case(job, found)
            except OSError as error:
                raise not_written(job.report, error) from error
        covered = zip(found.foreground_names(), ClassMasks(found), strict=True)
        return ", ".join(f"{name} {part.mean():.1%}" for name, part in covered)


def not_written(file: object, error: OSError) -> SegzooError:
    """Return the error that a file cannot be written, of a kind that tells whether others can."""
    kind = OutputError if error.errno in NO_MORE else SegzooError
    return kind(f"{file} cannot be written ({error.strerror or error})")


def write(job: Job, found: Segmentation) -> None:
    """Write a job's files, each of them complete or not at all, whenever the process is killed.

    The draft is this process's alone: of two that write the same job, the second one wins.

    Raises:
        OSError: no mask can be written.
        OutputError: no other can be written either.
        SegzooError: a file cannot be written, such as an overlay of too long a name; the others have been.
    """
    job.mask.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=DRAFT, suffix=DRAFT_END, dir=job.mask.parent, ignore_cleanup_errors=True) as folder:
        draft = Path(folder)
        save(job, found, draft / job.mask.name)
        if job.maps:
            maps = [draft / file.name for file in job.maps]
            names = found.class_names[-len(found.probabilities) :]
            write_probabilities(maps, found.probabilities, names, found.geometry, job.note)
        remove_maps_of_another_mask(job)
        outcomes = [attempt(draw, job.overlay, found, draft, job.note)] if job.overlay is not None else []
        if job.overlay is None and job.left is not None:
            remove_overlay_of_another_mask(job.left, job.note)
        outcomes += [attempt(move, file, job.mask.with_name(file.name)) for file in sorted(draft.iterdir())]
    failures = [outcome for outcome in outcomes if outcome is not None]
    if failures:
        worst = max(failures, key=lambda failure: isinstance(failure, OutputError))
        raise type(worst)("; ".join(map(str, failures)))


def save(job: Job, found: Segmentation, draft: Path) -> None:
    """Write a mask into a draft, in the job's format.

    Raises:
        SegzooError: a DICOM SEG cannot say where it comes from.
    """
    if job.algorithm is None:
        found.save(draft, note=job.note)
    else:
        assert isinstance(job.input, DicomCase)  # as of every job for a DICOM SEG
        write_seg(draft, found.mask, job.input, job.algorithm, multilabel=found.multilabel, note=job.note)


def draw(overlay: Path, found: Segmentation, draft: Path, note: str) -> None:
    """Write an overlay into a draft.

    Raises:
        SegzooError: it cannot be written.
    """
    file = draft / overlay.name
    try:
        with enough_memory(overlay):
            write_png(file, found.overlay(), note=note)
    except OSError as error:
        with suppress(OSError):  # whose name may be the reason
            file.unlink()
        raise not_written(overlay, error) from error


def move(file: Path, target: Path) -> None:
    """Move a file out of the draft, once its contents are on the disk.

    Raises:
        SegzooError: it cannot be written there.
    """
    try:
        settle(file)
        os.replace(file, target)
    except OSError as error:
        raise not_written(target, error) from error


def settle(file: Path) -> None:
    """Wait until a file's contents are on the disk: a crash of the machine would else leave its name and half of it."""
    with file.open("rb+") as written:
        os.fsync(written.fileno())


def remove_maps_of_another_mask(job: Job) -> None:
    """Remove the probabilities of this input that an earlier run, with other options, left beside its mask."""
    for file in filter(os.path.isfile, job.old_maps):  # which a name too long for a file is not
        if (note := stored_note(file)) and note != job.note and same_source(note, job.note):
            file.unlink(missing_ok=True)


def remove_overlay_of_another_mask(overlay: Path, note: str) -> None:
    """Remove the overlay that an earlier run, with other options, left beside a mask that is about to go."""
    if read_note(overlay) not in (None, "", note) and is_colour(overlay):  # a grey one is the mask of another image
        overlay.unlink(missing_ok=True)
