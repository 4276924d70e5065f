"""Further files of ``segzoo predict``: probabilities and measurements."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segzoo.checkpoints.opened import Checkpoints
from segzoo.errors import SegzooError, attempt
from segzoo.imaging.probabilities import FORMS, probability_paths
from segzoo.live import Model
from segzoo.prediction.files import not_written
from segzoo.prediction.measurements import channels_of, kept, measured_before, record
from segzoo.prediction.plan import Job, leads_to
from segzoo.prediction.report import sort_report
from segzoo.prediction.runtimes import ExportedModel

REPORT = "report.csv"
FIRST = 5  # cases that are named


def require_no_videos(videos: Sequence[Path], options: argparse.Namespace) -> None:
    """Refuse to make of videos what is made of images and volumes alone.

    Raises:
        SegzooError: saying so.
    """
    for option in ("measure", "probabilities", "report"):
        if videos and getattr(options, option) is not None:
            raise SegzooError(f"{videos[0]} is a video, and --{option} is for images and volumes; leave one out")


def with_more(jobs: list[Job], options: argparse.Namespace, model: Model) -> list[Job]:
    """Return jobs that also write what the options ask for."""
    described = description_of(model)
    names = described.class_names[-described.task.num_classes :]

    def more(job: Job) -> Job:
        is_image = Path(job.input.mask_name).suffix == ".png" or getattr(job.input, "slices", 0) == 1  # of DICOM
        mask = job.mask.with_name(job.input.stem + (".png" if is_image else ".nii.gz"))  # which a DICOM SEG is not
        by_form = {form: probability_paths(mask, names, form) for form in FORMS}
        maps = by_form.pop(options.probabilities, ())
        return replace(
            job, maps=maps, old_maps=sum(by_form.values(), ()), measure=options.measure, report=options.report
        )

    return [more(job) for job in jobs]


def unmeasured(table: Path, model: Model, jobs: list[Job], todo: list[Job]) -> list[Job]:
    """Return the jobs that are done, but not measured.

    Args:
        table: of measurements.
        model: that segments.
        jobs: all of the run, with their notes.
        todo: those of them that are not done.

    Raises:
        SegzooError: what lies in the table's place is not one.
    """
    described = description_of(model)
    structures = len(described.task.foreground(described.class_names))
    known = measured_before(table, jobs, structures, channels_of(described.contract))
    waiting = {job.mask for job in todo}
    return [job for job in jobs if job.mask not in waiting and job.note not in known]


def measure_done(options: argparse.Namespace, model: Model, jobs: list[Job]) -> Iterator[tuple[Job, str | SegzooError]]:
    """Yield each job that is done, measured by its masks; its doubt is the report's, where there is one."""
    described = description_of(model)
    doubts = {row.note: row.doubts for row in sort_report(options.report)} if options.report is not None else {}
    for job in jobs:
        yield job, attempt(measure_one, job, described, model.mask_names, doubts.get(job.note, {}))


def measure_one(job: Job, described: Any, channels: Sequence[str] | None, doubts: dict[str, float]) -> str:
    """Measure what an earlier run has found.

    Raises:
        SegzooError: a file cannot be read, or the table not written.
    """
    found = kept(job, described.contract, described.class_names, channels)
    try:
        record(job, replace(found, doubts=doubts))
    except OSError as error:
        raise not_written(job.measure, error) from error
    return f"measured in {job.measure}"


def description_of(model: Model) -> Any:
    """Return what has a model's contract, task and class names: its config or, of an exported file, itself."""
    if isinstance(model, ExportedModel):
        return model
    return (model.members[0] if isinstance(model, Checkpoints) else model).config


# ---- the report


def name_report(options: argparse.Namespace) -> None:
    """Say where the report goes where only that there is to be one was said.

    Raises:
        SegzooError: it is named like something else.
    """
    if options.report is None:
        return
    options.report = Path(options.report) if options.report else options.output / REPORT
    if options.report.suffix.lower() != ".csv":
        raise SegzooError(f"--report {options.report} is not the name of a table: end it in .csv, or put it at the end")
    if options.measure is not None and leads_to(options.measure) == leads_to(options.report):
        raise SegzooError(f"--measure and --report both name {options.report}; give each a file of its own")


def first_lines(report: Path, jobs: Sequence[Job]) -> list[str]:
    """Say which cases of a run to look at first, and sort the report for it.

    Args:
        report: of the run.
        jobs: of the run, with their notes.
    """
    notes = {job.note for job in jobs}
    rows = [row for row in sort_report(report) if row.note in notes] if report.exists() else []
    if not rows:
        return []
    unlike = sum(bool(row.unlike) for row in rows)
    named = [f"{row.case} ({sum(row.doubts.values()):.3f}{', unlike' * bool(row.unlike)})" for row in rows[:FIRST]]
    counted = f"; {unlike} of {len(rows)} are unlike what the model knows" if unlike else ""
    return [
        f"segzoo: look at these first, by doubt: {', '.join(named)}",
        f"segzoo: all are in {report}, in this order{counted}",
    ]
