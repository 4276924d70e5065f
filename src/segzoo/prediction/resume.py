"""Going on: notes in the masks tell what an earlier run has done already."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from segzoo.errors import SegzooError, attempt
from segzoo.imaging.probabilities import read_npz_note
from segzoo.imaging.readers import reader_of
from segzoo.prediction.plan import Job, leads_to, written_files

SOURCE = 14  # characters of a note that tell where the input lies
STATE = 32  # that tell its state and the recipe; with the seal of `segzoo.imaging.seals` NIfTI has room for no more


# ---- resume


def unfinished(jobs: Iterable[Job], recipe: dict[str, Any], channels: Sequence[str] | None) -> list[Job]:
    """Return the jobs that `not_done` finds, with their notes; arguments as of `noted` and `not_done`."""
    return not_done(noted(jobs, recipe), channels)


def not_done(jobs: Iterable[Job], channels: Sequence[str] | None) -> list[Job]:
    """Return the jobs whose files are not all there as their notes say: by a recipe, from the input as it is now.

    Every file that is written holds a note that tells: so no mask of another model, of other options or of another
    input is ever taken for this one's, whoever wrote it, and no record has to be kept beside the masks. The note counts
    only beside the very values that it was written with, which is why a file is read whole; what is cut short or
    damaged is made anew. What was made from an input that lies elsewhere, or has no such note or other values and may
    have been drawn by hand, is not written over: doing that job is refused (see `read_input`).

    Args:
        jobs: of `noted`.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Returns:
        Them, in their order, with what is not to be written over.
    """
    todo = []
    for job in jobs:
        notes = {file: stored_note(file) for file in written_files(job, channels)}
        if not job.note:
            todo.append(job)
        elif set(notes.values()) != {job.note}:
            others = [file for file, note in notes.items() if note is not None and not same_source(note, job.note)]
            todo.append(replace(job, taken=others[0] if others else None))
    return todo


def noted(jobs: Iterable[Job], recipe: dict[str, Any]) -> list[Job]:
    """Return jobs with their notes.

    Args:
        jobs: of `segzoo.prediction.plan.plan`.
        recipe: plain values that say what the masks depend on besides the input.
    """
    return [replace(job, note=note_of(job.file, recipe, getattr(job.input, "files", ()))) for job in jobs]


def note_of(file: Path, recipe: dict[str, Any], parts: Sequence[Path] = ()) -> str:
    """Return what a mask depends on, in 47 characters, which a seal makes 79: see `same_source`.

    Empty for a file that is not there any more, of which reading it will tell.

    Args:
        file: the input.
        recipe: as of `noted`.
        parts: the files that it is read from, where those are others.
    """
    try:
        states = [(state.st_size, state.st_mtime_ns) for state in (part.stat() for part in parts or (file,))]
    except OSError:
        return ""
    source = str(leads_to(file))
    return f"{digest(source)[:SOURCE]}-{digest([source, *chain(*states), recipe])[:STATE]}"


def digest(facts: Any) -> str:
    """Return plain values as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def same_source(note: str, other: str) -> bool:
    """Return whether two notes begin alike, where they tell where the input lies, before its state and the recipe."""
    return note[:SOURCE] == other[:SOURCE]


def stored_note(file: Path) -> str | None:
    """Return a written file's note; "" where it has none or was changed, None where it is missing or damaged."""
    if not os.path.isfile(file):  # which a name too long for a file is not
        return None
    if file.suffix == ".npz":
        return read_npz_note(file)
    reader = attempt(reader_of, file)
    return "" if isinstance(reader, SegzooError) else reader.note()  # of what calls itself DICOM
