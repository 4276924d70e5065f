"""``segzoo predict``. For an image and an exported file nothing here imports torch, which takes longer than both."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from segzoo import __version__
from segzoo.checkpoints.opened import Checkpoint
from segzoo.cli.output import sentence, show_any_name
from segzoo.errors import SegzooError, attempt
from segzoo.hub.find import open_checkpoint
from segzoo.prediction.files import OutputError, segment_files
from segzoo.prediction.plan import Job, plan, remove_dead_drafts, require_distinct, require_writable
from segzoo.prediction.predictor import Predictor
from segzoo.prediction.resume import unfinished
from segzoo.prediction.runtimes import ExportedModel, open_exported
from segzoo.prediction.window import require_overlap

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Model: TypeAlias = Checkpoint | ExportedModel


def run_predict(options: argparse.Namespace) -> None:
    """``segzoo predict CHECKPOINT INPUT... --output DIR``.

    Raises:
        SegzooError: an input could not be segmented; all others have been by then.
    """
    require_overlap(options.overlap)
    jobs = plan(options.inputs, options.output, options.overlay, options.geometry)
    require_writable(options.output)
    remove_dead_drafts(options.output)
    model = open_model(options)
    require_distinct(jobs, model.mask_names)
    work = options, model, jobs
    if options.devices == options.nodes == 1 and not is_one_of_several():
        outcomes = segment_share(None, *work)
    else:
        from segzoo.prediction.processes import launch  # imports torch and Fabric

        outcomes = launch(segment_share, options.device, options.devices, options.nodes, *work)
    failures: list[str] = []
    for outcome in outcomes:
        if isinstance(outcome, SegzooError):
            raise outcome
        failures += outcome
    if failures:
        which = f"{len(failures)} of {len(jobs)} inputs were not segmented, the first because: "
        raise SegzooError((which if len(jobs) > 1 else "") + failures[0])


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
    if suffix == ".pt2":
        raise SegzooError(f"{name} is a program for torch.export.load; export an .onnx file to predict with segzoo")
    if suffix == ".onnx":
        if options.device == "cuda":
            raise SegzooError(f"{name} runs on the CPU; leave --device cuda out, or predict with the checkpoint")
        options.device = "cpu"  # also where "auto" would find a GPU
        return open_exported(Path(name), options.backend)
    if options.backend:
        raise SegzooError(f"--backend runs .onnx files, and {name} is none; `segzoo export {name} FILE.onnx` writes it")
    return open_checkpoint(name)


def segment_share(
    fabric: "Fabric | None", options: argparse.Namespace, model: Model, jobs: list[Job]
) -> list[list[str] | SegzooError]:
    """Segment what is not done yet, or this process's share of it.

    Args:
        fabric: of the processes that share the work; None for a single one.
        options: of the command line.
        model: to segment with.
        jobs: to do, by all processes together.

    Returns:
        In the first process, and for each: why inputs were not segmented, or what kept it from starting.
    """
    show_any_name()  # also where this process was started by another
    rank, processes = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    todo = unfinished(jobs, recipe(options, model), model.mask_names) if rank == 0 else []
    if rank == 0 and len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} were done before", flush=True)
    if fabric:
        todo = fabric.broadcast(todo)  # one list for all: files are written while other processes still start
    device = str(fabric.device) if fabric else options.device
    outcome = attempt(segment_jobs, todo[rank::processes], options, model, device, rank, len(jobs) > 1)
    if fabric is None:
        return [outcome]
    outcomes = [fabric.broadcast(outcome, src=one) for one in range(processes)]
    return outcomes if rank == 0 else []


def segment_jobs(
    jobs: list[Job],
    options: argparse.Namespace,
    model: Model,
    device: str,
    rank: int,
    several: bool,
) -> list[str]:
    """Segment files and print what was found; return why some could not be.

    Args:
        jobs: to do.
        options: of the command line.
        model: to segment with.
        device: to compute on.
        rank: the first process says what is used.
        several: of one input, `main` tells what went wrong.

    Raises:
        SegzooError: the model cannot be loaded, or nothing more can be written.
    """
    if not jobs:
        return []
    predictor = load_predictor(model, device, options)
    if rank == 0:
        print(predictor.description, file=sys.stderr, flush=True)
    failures = []
    for job, outcome in segment_files(predictor, jobs):
        if not isinstance(outcome, SegzooError):
            # in one piece, newline included, since several processes write here
            print(f"{job.file} -> {job.mask} ({outcome})\n", end="", flush=True)
            continue
        if isinstance(outcome, OutputError):
            raise outcome
        failures.append(sentence(outcome))
        if several:
            print(f"segzoo: not segmented: {failures[-1]}", file=sys.stderr, flush=True)
    return failures


def load_predictor(model: Model, device: str, options: argparse.Namespace) -> Predictor:
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
