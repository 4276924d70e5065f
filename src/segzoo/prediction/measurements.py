"""Table of measurements: a CSV file that several threads, processes and runs write rows of, each case's once.

A case's rows are added together, with its mask's note, while the file is locked: so no kill leaves half of them for
whole, no two writers mix theirs, and a run that goes on knows what is measured. What a row was made from is in the
note, as it is in a mask's.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError, attempt, one_line
from segzoo.imaging.images import brightness
from segzoo.imaging.masks import read_mask
from segzoo.imaging.measure import Measurement, measure
from segzoo.imaging.segmentation import Segmentation, mask_paths
from segzoo.imaging.volumes import Volume, read_volume_mask
from segzoo.paths import write_whole
from segzoo.prediction.plan import Job
from segzoo.prediction.resume import same_source
from segzoo.preprocessing.base import InputContract

BEFORE = ("case", "structure", "size", "unit", "components", "diameter", "diameter_unit")
NOTE = "made_from"  # the last column
OPTION = "--measure"


# ---- rows


@runtime_checkable
class Stores(Protocol):
    """Reader of pictures that tells what they store, beside what a model sees of them."""

    def intensities(self) -> npt.NDArray[Any]:
        """Return the intensities [H, W] of a picture, of colours their brightness."""

    def pixel_spacing(self) -> tuple[float, float] | None:
        """Return the millimetres between a picture's rows and between its columns; None where nothing says them."""


def record(job: Job, found: Segmentation) -> None:
    """Measure what a job has found, and add it to the job's table, unless another process has meanwhile.

    Raises:
        OSError: it cannot be written.
        SegzooError: the table has other columns, or a film has no sizes.
    """
    assert job.measure is not None
    if getattr(job.input, "film", False):
        raise SegzooError(
            f"{job.file} is a film, whose frames lie at no distance from each other, and is not measured; give its "
            "frames one by one, or leave --measure out"
        )
    intensities = intensities_of(job, found)
    spacing = job.input.pixel_spacing() if isinstance(job.input, Stores) else None
    measured = measure(found, intensities, spacing)
    head = columns(len(intensities))
    doubt = "" if found.doubt is None else f"{found.doubt:.6f}"
    rows = [[*row(case_of(job), one, len(intensities)), doubt, job.note] for one in measured]
    add(job.measure, head, rows, job.note)


def add(table: Path, head: Sequence[str], rows: Sequence[Sequence[Any]], note: str, option: str = OPTION) -> None:
    """Add the rows of a case to a table, unless they are there.

    Args:
        table: that may be there.
        head: its columns.
        rows: to add, their note at last.
        note: of the case.
        option: that names the table.

    Raises:
        OSError: it cannot be written.
        SegzooError: the table has other columns.
    """
    with locked(table) as file:
        content = file.read()
        if note and note.encode() in content:
            return
        if content:
            require_columns(table, content, head, option)
        file.seek(content.rfind(b"\n") + 1)  # what a full disk has cut is written over
        file.truncate()
        file.write(as_csv(rows if content else [head, *rows]))
        file.flush()
        os.fsync(file.fileno())


def case_of(job: Job) -> str:
    """Return the name of a job's case, as that of its mask's file begins."""
    return one_line(job.input.stem)


def channels_of(contract: InputContract) -> int:
    """Return how many channels of a model's inputs are measured: colours are one, their brightness."""
    return 1 if (contract.spatial_dims, contract.channels) == (2, 3) else contract.channels


def columns(channels: int) -> list[str]:
    """Return the names of a table's columns, of inputs of some channels."""
    numbers = [""] if channels == 1 else [f"_{number}" for number in range(1, channels + 1)]
    return [*BEFORE, *(f"{what}{number}" for number in numbers for what in ("mean", "sd")), "doubt", NOTE]


def row(case: str, one: Measurement, channels: int) -> list[Any]:
    """Return a structure's row, numbers with six digits; what an empty one has not is left empty."""
    by_channel = zip(one.means, one.deviations, strict=True)
    bright = [f"{value:.6g}" for pair in by_channel for value in pair] or [""] * 2 * channels
    diameter = "" if one.diameter is None else f"{one.diameter:.6g}"
    size = (f"{one.size:.6g}", one.unit, one.components, diameter, one.diameter_unit)
    return [case, one_line(one.structure), *size, *bright]


def intensities_of(job: Job, found: Segmentation) -> npt.NDArray[Any]:
    """Return an input's intensities [C, *S] as they are stored; colours as their brightness.

    Of a picture whose reader says nothing of them, the values that the model sees, 0 to 255.
    """
    assert found.image is not None
    if found.geometry is not None:
        return found.image
    if found.image.shape[2] not in (1, 3):  # channels of their own
        return np.moveaxis(found.image, -1, 0)
    stored = attempt(job.input.intensities) if isinstance(job.input, Stores) else found.image
    return brightness(found.image if isinstance(stored, SegzooError) else stored)[None]


def as_csv(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as they are in the file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


# ---- going on


def measured_before(table: Path, jobs: Sequence[Job], structures: int, channels: int) -> set[str]:
    """Return the notes of the jobs that are measured, as `noted_before`, of inputs of some channels."""
    return noted_before(table, jobs, structures, columns(channels))


def noted_before(table: Path, jobs: Sequence[Job], each: int, columns: Sequence[str], option: str = OPTION) -> set[str]:
    """Return the notes of the jobs whose rows are all there; rows of these inputs by other notes are taken out.

    Args:
        table: that may be there.
        jobs: with their notes.
        each: rows of each.
        columns: of the table.
        option: that names the table.

    Raises:
        OSError: it cannot be read or written.
        SegzooError: what is there is another table.
    """
    table.parent.mkdir(parents=True, exist_ok=True)
    if not table.exists():
        return set()
    with locked(table) as file:
        content = file.read()
        if not content:
            return set()
        head, *rows = require_columns(table, content, columns, option)
        wanted = {job.note: case_of(job) for job in jobs}
        counts = Counter(one[-1] for one in rows)
        kept = [one for one in rows if stays(one[0], one[-1], wanted, counts[one[-1]] == each)]
        if len(kept) < len(rows) or not content.endswith(b"\n"):
            write_whole(table, as_csv([head, *kept]))
        return {*wanted} & {one[-1] for one in kept}


def stays(case: str, note: str, wanted: Mapping[str, str], whole: bool) -> bool:
    """Return whether rows are kept: of the wanted notes and their cases if all are there, and of any other inputs."""
    if note in wanted:
        return whole
    return not any(same_source(note, other) and case == its_case for other, its_case in wanted.items())


def require_columns(table: Path, content: bytes, head: Sequence[str], option: str) -> list[list[str]]:
    """Return the rows of a table, its head first, without what a full disk has cut.

    Raises:
        SegzooError: it is not one of these columns.
    """
    try:
        rows = list(csv.reader(io.StringIO(content[: content.rfind(b"\n") + 1].decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        rows = []
    if not rows or rows[0] != [*head] or any(len(one) != len(head) for one in rows):
        raise SegzooError(
            f"{table} is not a table of these columns ({', '.join(head)}), and is not written over; name another "
            f"file by {option}, or remove it"
        )
    return rows


def kept(job: Job, contract: InputContract, class_names: Sequence[str], channels: Sequence[str] | None) -> Segmentation:
    """Return what an earlier run has found, of its masks.

    Args:
        job: that is done.
        contract: reads its input.
        class_names: of the model.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Raises:
        SegzooError: a file cannot be read.
    """
    given = contract.read(job.input)
    grid = given.geometry if isinstance(given, Volume) else None
    masks = [read_mask(path) if grid is None else read_volume_mask(path)[0] for path in mask_paths(job.mask, channels)]
    mask = masks[0] if channels is None else np.stack(masks)
    image = given.array if isinstance(given, Volume) else given
    return Segmentation(mask, np.empty((0, *masks[0].shape), np.float32), tuple(class_names), image, grid)


# ---- the file


@contextmanager
def locked(table: Path) -> Iterator[BinaryIO]:
    """Open a table that nobody else writes to meanwhile; made where it is not there.

    Windows has no such locks: there, one process may write.
    """
    while True:
        file = os.fdopen(os.open(table, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            lock(file)
            if table.exists() and os.path.samestat(os.fstat(file.fileno()), table.stat()):  # not put in its place since
                yield file
                return
        finally:
            file.close()


def lock(file: BinaryIO) -> None:
    """Wait until nobody else has locked a file."""
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(file, fcntl.LOCK_EX)
