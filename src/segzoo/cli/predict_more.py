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
from segzoo.prediction.plan import Job
from segzoo.prediction.runtimes import ExportedModel


def require_no_videos(videos: Sequence[Path], options: argparse.Namespace) -> None:
    """Refuse to make of videos what is made of images and volumes alone.

    Raises:
        SegzooError: saying so.
    """
    for option in ("measure", "probabilities"):
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
        return replace(job, maps=maps, old_maps=sum(by_form.values(), ()), measure=options.measure)

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


def measure_done(model: Model, jobs: list[Job]) -> Iterator[tuple[Job, str | SegzooError]]:
    """Yield each job that is done, measured by its masks."""
    described = description_of(model)
    for job in jobs:
        yield job, attempt(measure_one, job, described, model.mask_names)


def measure_one(job: Job, described: Any, channels: Sequence[str] | None) -> str:
    """Measure what an earlier run has found.

    Raises:
        SegzooError: a file cannot be read, or the table not written.
    """
    found = kept(job, described.contract, described.class_names, channels)
    try:
        record(job, found)
    except OSError as error:
        raise not_written(job.measure, error) from error
    return f"measured in {job.measure}"


def description_of(model: Model) -> Any:
    """Return what has a model's contract, task and class names: its config or, of an exported file, itself."""
    if isinstance(model, ExportedModel):
        return model
    return (model.members[0] if isinstance(model, Checkpoints) else model).config
