"""Report of a run: a CSV file with a row a case, the ones to look at first at its top.

Rows are added case by case, by whichever thread, process or run has done it, as those of the measurements are; sorted
they are at the end. A case that an earlier run has done without a report is done again for its doubt.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segzoo.errors import one_line
from segzoo.imaging.segmentation import Segmentation
from segzoo.paths import write_whole
from segzoo.prediction.measurements import NOTE, add, as_csv, case_of, locked, noted_before, require_columns
from segzoo.prediction.plan import Job

OPTION = "--report"
COLUMNS = ["case", "doubt", "doubt_by", "unlike", "mask", NOTE]


@dataclass(frozen=True)
class Row:
    """Case of a report.

    Attributes:
        case: its name.
        doubts: its score, by its name.
        unlike: what of its input is unlike the training data, in words.
        note: of its mask.
    """

    case: str
    doubts: dict[str, float]
    unlike: str
    note: str


def report_case(job: Job, found: Segmentation) -> None:
    """Add a case to its job's report, unless another process has meanwhile.

    Raises:
        OSError: it cannot be written.
        SegzooError: what lies there is not a report.
    """
    assert job.report is not None
    ((kind, doubt),) = found.doubts.items()
    row = [case_of(job), f"{doubt:.6f}", kind, "; ".join(found.unlike), one_line(str(job.mask)), job.note]
    add(job.report, COLUMNS, [row], job.note, OPTION)


def unreported(report: Path, jobs: Sequence[Job], todo: Sequence[Job]) -> list[Job]:
    """Return those of the jobs that are to be done, or are done and not in the report.

    Args:
        report: that may be there.
        jobs: all, with their notes.
        todo: those that are to be done anyway.

    Raises:
        OSError: it cannot be read or written.
        SegzooError: what is there is not a report.
    """
    known, waiting = noted_before(report, jobs, 1, COLUMNS, OPTION), {job.mask: job for job in todo}
    return [waiting.get(job.mask, job) for job in jobs if job.mask in waiting or job.note not in known]


def sort_report(report: Path) -> list[Row]:
    """Put the rows with the most doubt first; return them.

    Raises:
        OSError: it cannot be read or written.
        SegzooError: what is there is not a report.
    """
    with locked(report) as file:
        content = file.read()
        if not content:  # it was made by being opened
            report.unlink()
            return []
        head, *rows = require_columns(report, content, COLUMNS, OPTION)
        rows = sorted(rows, key=lambda row: (-float(row[1]), row[0]))
        if (text := as_csv([head, *rows])) != content:
            write_whole(report, text)
    named = csv.DictReader(io.StringIO(text.decode()))
    return [Row(row["case"], {row["doubt_by"]: float(row["doubt"])}, row["unlike"], row[NOTE]) for row in named]
