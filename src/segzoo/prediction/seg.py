"""Predictions as DICOM SEG: which inputs can have one, and what it says of the model."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from segzoo import __version__
from segzoo.catalogue import SOMETHING
from segzoo.checkpoints.codes import codes_of
from segzoo.checkpoints.description import Description
from segzoo.checkpoints.opened import Checkpoint, Checkpoints
from segzoo.errors import SegzooError
from segzoo.imaging.dicom import DicomCase
from segzoo.imaging.dicom_seg import Algorithm, require_highdicom
from segzoo.imaging.readers import Reader
from segzoo.prediction.runtimes import ExportedModel
from segzoo.tasks import Task

Model: TypeAlias = Checkpoint | Checkpoints | ExportedModel


def with_segs(inputs: Iterable[Reader], videos: Sequence[Path]) -> tuple[list[Reader], list[SegzooError]]:
    """Return the DICOM among inputs, whose masks are to be DICOM SEG, and why the others cannot have one.

    Raises:
        MissingPackageError: highdicom is not installed.
        SegzooError: there is no DICOM.
    """
    require_highdicom()
    found: list[Reader] = []
    others = list(videos)
    for one in inputs:
        if isinstance(one, DicomCase):
            one.mask_name = f"{one.stem}.dcm"
            found.append(one)
        else:
            others.append(one.path)
    refused = [
        SegzooError(f"{path} is not DICOM, so there is no series that a DICOM SEG could refer to; leave --format out")
        for path in others
    ]
    if refused and not found:
        raise refused[0]
    return found, refused


def algorithm_of(model: Model) -> Algorithm:
    """Return what a DICOM SEG says of a model; a class of which nothing is known has a generic code, with a warning."""
    described: Sequence[Description]
    if isinstance(model, ExportedModel):
        described = [model.metadata]
        stated = model.metadata.entries.get("checkpoint", {}).get("version")
        name, version = str(model.metadata.name), str(stated or "of no checkpoint")
    else:
        members = model.members if isinstance(model, Checkpoints) else (model,)
        described = [one.config for one in members]
        name = ", ".join(dict.fromkeys(one.config.name for one in members))
        version = ", ".join(dict.fromkeys(one.config.version for one in members))
    first = described[0]
    assert isinstance(first.task, Task)  # as of both kinds
    codes = {one: codes_of(one, first.codes, first.data) for one in first.task.foreground(first.class_names)}
    if generic := [one for one, found in codes.items() if found == SOMETHING and one not in first.codes]:
        warnings.warn(
            f"no code is known for {', '.join(generic)}, so the DICOM SEG says 'tissue': add codes to the checkpoint's "
            "config.json, as docs/dicom.md shows",
            stacklevel=2,
        )
    return Algorithm(name, version, __version__, str(sorted(model.identity.items())), codes)
