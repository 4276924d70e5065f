"""``segzoo predict``. For an image and an exported file nothing here imports torch, which takes longer than both."""

import argparse
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from segzoo import __version__
from segzoo.checkpoints.folder import remove_dead_drafts
from segzoo.checkpoints.opened import Checkpoint
from segzoo.cli.output import raise_first, sentence, show_any_name
from segzoo.errors import SegzooError, attempt, first_few, one_line
from segzoo.hub.find import open_checkpoint
from segzoo.imaging.cases import counted
from segzoo.prediction.files import OutputError, segment_files
from segzoo.prediction.plan import DRAFTS, Job, find_inputs, plan, require_distinct, require_writable
from segzoo.prediction.predictor import Predictor
from segzoo.prediction.resume import unfinished
from segzoo.prediction.runtimes import RUN_BY, ExportedModel, open_exported
from segzoo.prediction.window import require_overlap
from segzoo.prediction.workers import share_out

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Model: TypeAlias = Checkpoint | ExportedModel
PROGRAMS = {".pt2": "torch.export.load", ".pte": "ExecuTorch"}  # exported files that segzoo does not run


def run_predict(options: argparse.Namespace) -> None:
    """``segzoo predict CHECKPOINT INPUT... --output DIR``.

    Raises:
        SegzooError: an input could not be segmented; all others have been by then.
    """
    require_overlap(options.overlap)
    inputs, masks, refused = find_inputs(options.inputs)
    if masks:
        say(f"segzoo: {counted(len(masks), 'mask')} beside the images not segmented: {first_few(masks)}")
    jobs = plan(inputs, options.output, options.overlay, options.geometry)
    require_writable(options.output)
    remove_dead_drafts(options.output, DRAFTS)
    model = open_model(options)
    require_distinct(jobs, model.mask_names)
    work = options, model, jobs, refused
    if options.devices == options.nodes == 1 and not is_one_of_several():
        failures = segment(*work)
    else:
        from segzoo.prediction.processes import devices_here, launch, prepare  # imports torch and Fabric

        fabric = prepare(options.device, options.devices, options.nodes)
        devices = devices_here(fabric)
        failures = segment(*work, devices) if devices else launch(fabric, segment_share, *work)
    if isinstance(failures, SegzooError):
        raise failures
    raise_first(failures, len(jobs) + len(refused), "inputs were not segmented")


def is_one_of_several() -> bool:
    """Return whether torchrun, or srun with several tasks, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"


def open_model(options: argparse.Namespace) -> Model:
    """Find what `run_predict` is to segment with.

    Raises:
        SegzooError: there is none, it is damaged, or it cannot do what the options ask for.
    """
    name = options.checkpoint
    suffix = Path(name).suffix.lower()
    if suffix in PROGRAMS:
        raise SegzooError(f"{name} is a program for {PROGRAMS[suffix]}; export an .onnx file to predict with segzoo")
    if suffix in RUN_BY:
        if options.device == "cuda":
            raise SegzooError(f"{name} runs on the CPU; leave --device cuda out, or predict with the checkpoint")
        options.device = "cpu"  # also where "auto" would find a GPU
        return open_exported(Path(name), options.backend)
    if options.backend:
        raise SegzooError(f"--backend runs exported files, and {name} is none; `segzoo export {name} x.onnx` writes it")
    return open_checkpoint(name)


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
    todo, failures = begin(options, model, jobs, refused)
    several = len(jobs) + len(refused) > 1
    if not todo:
        return failures
    if devices:
        load = partial(load_predictor, model, options)
        with closing(share_out(todo, load, devices[: len(todo)], say)) as outcomes:
            return failures + report(outcomes, several)
    predictor = load_predictor(model, options, options.device)
    say(predictor.description)
    return failures + report(segment_files(predictor, todo), several)


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
    todo, failures = begin(options, model, jobs, refused) if rank == 0 else ([], [])
    todo = fabric.broadcast(todo)  # one list for all: files are written while other processes still start

    def share() -> list[str]:
        if not (mine := todo[rank::processes]):
            return []
        predictor = load_predictor(model, options, str(fabric.device))
        if rank == 0:
            say(predictor.description)
        return report(segment_files(predictor, mine), len(jobs) + len(refused) > 1)

    outcome = attempt(share)
    outcomes = [fabric.broadcast(outcome, src=one) for one in range(processes)]
    for outcome in outcomes if rank == 0 else []:
        if isinstance(outcome, SegzooError):
            return outcome
        failures += outcome
    return failures


def begin(
    options: argparse.Namespace, model: Model, jobs: list[Job], refused: list[SegzooError]
) -> tuple[list[Job], list[str]]:
    """Say what was done before and what cannot be done; return what is to be done, and why other inputs cannot."""
    todo = unfinished(jobs, recipe(options, model), model.mask_names)
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} were done before", flush=True)
    failures = [sentence(error) for error in refused]
    for failure in failures:
        say(f"segzoo: not segmented: {failure}")
    return todo, failures


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


def load_predictor(model: Model, options: argparse.Namespace, device: str) -> Predictor:
    """Make what segments."""
    how = {"tta": options.tta, "overlap": options.overlap, "intensity_range": options.intensity_range}
    if isinstance(model, ExportedModel):
        return Predictor(model, **how)
    from segzoo.hub import load  # imports torch

    return load.load_predictor(model, device, **how)


def recipe(options: argparse.Namespace, model: Model) -> dict[str, Any]:
    """Return what masks depend on besides the image; a run that is like this one continues it."""
    stated = {"intensity_range": options.intensity_range, "geometry": options.geometry}
    chosen = {name: value for name, value in stated.items() if value is not None}  # masks without are known again
    return {"segzoo": __version__, **model.identity, "tta": options.tta, "overlap": options.overlap, **chosen}
