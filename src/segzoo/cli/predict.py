"""``segzoo predict``. For an image and an exported file nothing here imports torch, which takes longer than both."""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.checkpoints.folder import remove_dead_drafts
from segzoo.cli.output import raise_first, sentence, show_any_name
from segzoo.cli.predict_more import (
    description_of,
    first_lines,
    measure_done,
    name_report,
    require_no_videos,
    unmeasured,
    with_more,
)
from segzoo.errors import SegzooError, attempt, first_few, one_line
from segzoo.hub.listing import holds_checkpoint, list_checkpoints
from segzoo.imaging.cases import counted
from segzoo.imaging.probabilities import OnDisk
from segzoo.imaging.videos import is_video, require_pyav
from segzoo.live import Model, load_pipeline, open_model
from segzoo.prediction.doubt import CHOSEN
from segzoo.prediction.files import OutputError, segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import DRAFTS, Job, find_inputs, plan, require_distinct, require_writable
from segzoo.prediction.report import unreported
from segzoo.prediction.resume import not_done, noted
from segzoo.prediction.runtimes import ExportedModel
from segzoo.prediction.seg import algorithm_of, with_segs
from segzoo.prediction.video import segment_video
from segzoo.prediction.window import require_overlap

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from segzoo.prediction.workers import Outcomes


def run_predict(options: argparse.Namespace) -> None:
    """``segzoo predict CHECKPOINT INPUT... --output DIR``: images and volumes first, then videos one by one.

    Raises:
        SegzooError: an input could not be segmented; all others have been by then.
    """
    require_overlap(options.overlap)
    require_driver(options)
    options.devices = options.devices or (None if options.engine else 1)  # None: as many as a node has room for
    name_report(options)
    averaged = further_checkpoints(options.inputs)
    videos, others = split(options.inputs[len(averaged) :], is_video)
    inputs, masks, refused = find_inputs(others, options.names) if others or not videos else ([], [], [])
    if masks:
        say(f"segzoo: {counted(len(masks), 'mask')} beside the images not segmented: {first_few(masks)}")
    if options.format is not None:  # DICOM SEG
        inputs, no_segs = with_segs(inputs, videos)
        refused, videos = [*refused, *no_segs], []
    require_writable(options.output)
    remove_dead_drafts(options.output, DRAFTS)
    require_no_videos(videos, options)
    require_alone(videos, options)
    names = [options.checkpoint, *map(str, averaged)]
    what = names if averaged else options.checkpoint
    model = open_model(what, options.backend or "auto", options.device, options.precision)
    if isinstance(model, ExportedModel):
        options.device = "cpu"  # also where "auto" would find a GPU
    jobs = plan(inputs, options.output, options.overlay, options.geometry, model.volume_channels)
    if options.format is not None:
        algorithm = algorithm_of(model)
        jobs = [replace(job, algorithm=algorithm) for job in jobs]
    jobs = with_more(jobs, options, model)
    require_distinct(jobs, mask_names(options, model))
    work = options, model, jobs, refused
    if options.engine or (options.devices == options.nodes == 1 and not is_one_of_several()):
        failures = segment(*work)
    else:
        from segzoo.prediction.processes import devices_here, launch, prepare  # imports torch and Fabric

        fabric = prepare(options.device, options.devices, options.nodes)
        devices = devices_here(fabric)
        failures = segment(*work, devices) if devices else launch(fabric, segment_share, *work)
    if isinstance(failures, SegzooError):
        raise failures
    several = len(jobs) + len(refused) + len(videos)
    failures += report(segment_videos(options, model, videos), several > 1)
    raise_first(failures, several, "inputs were not segmented")


def further_checkpoints(inputs: Sequence[Path]) -> list[Path]:
    """Return what stands before the inputs and is a checkpoint by its name, or a folder with one; the last is none."""
    known = {*list_checkpoints()}
    return list(takewhile(lambda one: holds_checkpoint(one) or (str(one) in known and not one.exists()), inputs[:-1]))


def split(inputs: Sequence[Path], belongs: Callable[[Path], bool]) -> tuple[list[Path], list[Path]]:
    """Return the inputs of a kind, and the others."""
    return [one for one in inputs if belongs(one)], [one for one in inputs if not belongs(one)]


def require_alone(videos: Sequence[Path], options: argparse.Namespace) -> None:
    """Refuse videos that one process cannot do, or whose files would have one name.

    Raises:
        SegzooError: saying so.
        MissingPackageError: nothing reads videos here.
    """
    if not videos:
        return
    require_pyav()
    if options.engine or options.devices > 1 or options.nodes > 1 or is_one_of_several():
        raise SegzooError(
            f"{videos[0]} is a video, which one process segments; leave --engine, --devices and --nodes out"
        )
    makers: dict[str, Path] = {}
    for file in videos:
        first = makers.setdefault(file.stem, file)
        if first != file:
            raise SegzooError(f"{first} and {file} would both be written to {file.stem}; rename one of them")


def require_driver(options: argparse.Namespace) -> None:
    """Refuse what does not go with a cluster that Ray runs, where there is one.

    Raises:
        SegzooError: saying so.
    """
    if not options.engine:
        return
    if options.nodes > 1:
        raise SegzooError(
            f"--nodes {options.nodes} is for processes without --engine ray, which takes Ray's; leave it out"
        )
    if is_one_of_several():
        raise SegzooError("--engine ray is one command for all nodes, and srun or torchrun started several; start one")


def is_one_of_several() -> bool:
    """Return whether torchrun, or srun with several tasks, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"


# ---- segment


def segment(
    options: argparse.Namespace,
    model: Model,
    jobs: list[Job],
    refused: list[SegzooError],
    devices: list[str] | None = None,
) -> list[str]:
    """Segment what is not done yet, in this process or in several of this machine.

    Args:
        options: of the command line.
        model: to segment with.
        jobs: to do.
        refused: why other inputs cannot be segmented.
        devices: one for each process; None is this process.

    Returns:
        Why inputs were not segmented.

    Raises:
        SegzooError: the model cannot be loaded, or nothing more can be written.
    """
    jobs = noted(jobs, recipe(options, model))
    todo, failures = begin(options, model, jobs, refused)
    several = len(jobs) + len(refused) > 1
    if todo and (devices or options.engine):
        with closing(shared_out(options, model, todo, devices)) as outcomes:
            failures += report(outcomes, several)
    elif todo:
        pipeline = load(model, options, options.device)
        say(pipeline.description)
        failures += report(segment_files(pipeline, todo), several)
    look_first(options, jobs)
    return failures


def shared_out(options: argparse.Namespace, model: Model, todo: list[Job], devices: list[str] | None) -> "Outcomes":
    """Yield what became of jobs that several processes share, on this machine's devices or on a cluster of Ray's."""
    loading = partial(load, model, options)
    if devices:
        from segzoo.prediction.workers import share_out

        return share_out(todo, loading, devices[: len(todo)], say)
    from segzoo.prediction.ray_actors import share_out_on_nodes

    return share_out_on_nodes(todo, loading, options.device, options.devices, options.output, say)


def segment_share(
    fabric: "Fabric", options: argparse.Namespace, model: Model, jobs: list[Job], refused: list[SegzooError]
) -> list[str] | SegzooError:
    """Segment this process's share of what is not done yet; else as `segment`.

    Args:
        fabric: of the processes that share the work, on one machine or on several.
        options: of the command line.
        model: to segment with.
        jobs: to do, by all processes together.
        refused: why other inputs cannot be segmented.

    Returns:
        In the first process: why inputs were not segmented, by any, or what kept one from going on.
    """
    show_any_name()  # where this process was started by another
    rank, processes = fabric.global_rank, fabric.world_size
    jobs = noted(jobs, recipe(options, model)) if rank == 0 else jobs
    todo, failures = begin(options, model, jobs, refused) if rank == 0 else ([], [])
    todo = fabric.broadcast(todo)  # one list for all: files are written while other processes still start

    def share() -> list[str]:
        if not (mine := todo[rank::processes]):
            return []
        pipeline = load(model, options, str(fabric.device))
        if rank == 0:
            say(pipeline.description)
        return report(segment_files(pipeline, mine), len(jobs) + len(refused) > 1)

    outcome = attempt(share)
    outcomes = [fabric.broadcast(outcome, src=one) for one in range(processes)]
    for outcome in outcomes if rank == 0 else []:
        if isinstance(outcome, SegzooError):
            return outcome
        failures += outcome
    if rank == 0:
        look_first(options, jobs)
    return failures


def look_first(options: argparse.Namespace, jobs: list[Job]) -> None:
    """Say which cases to look at first, where that is asked for."""
    if options.report is not None:
        for line in first_lines(options.report, jobs):
            say(line)


def begin(
    options: argparse.Namespace, model: Model, jobs: list[Job], refused: list[SegzooError]
) -> tuple[list[Job], list[str]]:
    """Say what was done before and what cannot be done; return what is to be done, and why other inputs cannot."""
    todo = not_done(jobs, mask_names(options, model))
    if options.report is not None:
        todo = unreported(options.report, jobs, todo)
    again = [] if options.measure is None else unmeasured(options.measure, model, jobs, todo)
    afresh = options.format is not None or description_of(model).task.region_values  # one file tells no overlaps
    if afresh:  # whose masks are not read again
        waiting = {job.mask: job for job in [*again, *todo]}
        todo = [waiting[job.mask] for job in jobs if job.mask in waiting]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} were done before", flush=True)
    failures = [sentence(error) for error in refused]
    for failure in failures:
        say(f"segzoo: not segmented: {failure}")
    if options.measure is not None and not afresh:
        failures += report(measure_done(options, model, again), len(jobs) + len(refused) > 1)
    return todo, failures


def segment_videos(
    options: argparse.Namespace, model: Model, videos: Sequence[Path]
) -> Iterator[tuple[Job, str | SegzooError]]:
    """Yield each video, with the folder of its masks, and what they cover or why there are none."""
    if not videos:
        return
    pipeline = load(model, options, options.device)
    say(pipeline.description)
    for file in videos:
        done = attempt(segment_video, pipeline, file, options.output, recipe(options, model), model.mask_names)
        yield Job(file, options.output / file.stem), done


def report(outcomes: Iterable[tuple[Job, str | SegzooError]], several: bool) -> list[str]:
    """Print what was found; return why some could not be segmented.

    Args:
        outcomes: of jobs.
        several: of one input, `main` tells what went wrong.

    Raises:
        OutputError: nothing more can be written.
    """
    failures = []
    for job, outcome in outcomes:
        if not isinstance(outcome, SegzooError):
            # in one piece, newline included, since several processes write here
            print(f"{one_line(f'{job.file} -> {job.mask}')} ({outcome})\n", end="", flush=True)
            continue
        if isinstance(outcome, OutputError):
            raise outcome
        failures.append(sentence(outcome))
        if several:
            say(f"segzoo: not segmented: {failures[-1]}")
    return failures


def say(text: str) -> None:
    """Tell people, beside what is for programs."""
    print(f"{one_line(text)}\n", end="", file=sys.stderr, flush=True)


def load(model: Model, options: argparse.Namespace, device: str) -> Pipeline:
    """Make what segments."""
    keep = partial(OnDisk, options.output) if options.probabilities else None  # of volumes, until they are written
    doubt = [] if options.report is None else [CHOSEN]
    return load_pipeline(
        model,
        device,
        compiled=options.compile,
        precision=options.precision,
        tta=options.tta,
        overlap=options.overlap,
        intensity_range=options.intensity_range,
        raw=options.raw,
        keep=keep,
        doubt=doubt,
    )


def mask_names(options: argparse.Namespace, model: Model) -> list[str] | None:
    """Return the names of the classes where each has a file of its own, which in DICOM SEG is a segment; else None."""
    return model.mask_names if options.format is None else None


def recipe(options: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Return what masks depend on besides the image; a run that is like this one continues it."""
    stated = {
        "intensity_range": options.intensity_range,
        "geometry": options.geometry,
        "raw": options.raw or None,
        "precision": None if options.precision == "auto" else options.precision,
    }
    chosen = {name: value for name, value in stated.items() if value is not None}  # masks without are known again
    return {"segzoo": __version__, **model.identity, "tta": options.tta, "overlap": options.overlap, **chosen}
