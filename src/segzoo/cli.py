"""The ``segzoo`` command: verbs to functions. Nothing heavy is imported before a verb needs it."""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.errors import SegzooError, attempt

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from segzoo.exported import ExportedModel
    from segzoo.hub import Checkpoint
    from segzoo.prediction import Job, Predictor

TRAINING_VERBS = {
    "fit": "train a model, or train a checkpoint further",
    "validate": "score a model on the validation images",
    "test": "score a model on the held-out images",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for bad input, 130 for Ctrl+C, with one sentence on stderr)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_any_name()
    try:
        if arguments and arguments[0] in TRAINING_VERBS:  # their options are LightningCLI's to parse
            from segzoo import training_cli

            training_cli.main(arguments)
        else:
            options = build_parser().parse_args(arguments)
            options.run(options)
        sys.stdout.flush()
    except SegzooError as error:
        print(f"segzoo: error: {sentence(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 1
    except OSError as error:  # of a file or a folder: not allowed, no space, no such device
        if error.filename is None:
            raise
        print(f"segzoo: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segzoo: stopped; every file that is written is complete", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def show_any_name() -> None:
    """Let this process print names of files that its encoding has no characters for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def sentence(error: SegzooError) -> str:
    """What an error says; one from a data loader's process has it at the end of that process's traceback."""
    last_line = str(error).rstrip().rpartition("\n")[2]
    return last_line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")


def build_parser() -> argparse.ArgumentParser:
    """The parser of every verb but the training ones, which are listed for ``--help`` alone."""
    parser = argparse.ArgumentParser("segzoo", description="A model zoo for medical image segmentation.")
    parser.add_argument("--version", action="version", version=f"segzoo {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="models and checkpoints")
    listing.add_argument("pattern", nargs="?", default="*", help="a shell pattern such as '*unext*'")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(run=run_list)

    info = verbs.add_parser("info", help="what a model takes, or what a checkpoint holds")
    info.add_argument("name", help="a model, a checkpoint or a checkpoint's folder")
    info.set_defaults(run=run_info)

    for verb, text in TRAINING_VERBS.items():
        verbs.add_parser(verb, help=f"{text} (see segzoo {verb} --help)")

    predict = verbs.add_parser("predict", help="segment images and volumes with a checkpoint")
    predict.add_argument("checkpoint", help="a checkpoint's name or folder, or an .onnx file that segzoo export wrote")
    predict.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="images, volumes, or folders of them")
    predict.add_argument("--output", type=Path, required=True, help="the folder to write masks into")
    predict.add_argument("--overlay", action="store_true", help="also draw each mask over its image or slices")
    predict.add_argument("--tta", action="store_true", help="average over mirrored copies of each image")
    predict.add_argument("--overlap", type=float, default=0.5, help="of a volume's windows, 0 to below 1 (default 0.5)")
    predict.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one"
    )
    predict.add_argument(
        "--backend", choices=["onnxruntime", "openvino"], help="what runs an .onnx file (default: what is installed)"
    )
    predict.add_argument("--devices", type=positive, default=1, metavar="N", help="processes that share the work")
    predict.add_argument("--nodes", type=positive, default=1, metavar="N", help="machines with as many processes each")
    predict.set_defaults(run=run_predict)

    export = verbs.add_parser("export", help="write a checkpoint as one file that runs without segzoo")
    export.add_argument("checkpoint", help="a checkpoint's name or folder")
    export.add_argument("file", type=Path, help="to write: .onnx, or .pt2 for torch.export")
    export.add_argument("--format", choices=["onnx", "torch-export"], help="default: what the file's suffix says")
    export.add_argument("--precision", choices=["float32", "float16", "int8"], default="float32")
    export.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="the folder of the dataset that the checkpoint was trained on: its training images calibrate int8, and "
        "its test images show what the file loses",
    )
    export.add_argument("--size", type=int, nargs="+", help="fixed sides of the inputs (default: they may vary)")
    export.set_defaults(run=run_export)

    verify = verbs.add_parser("verify", help="check a checkpoint's files, and that it computes here what it should")
    verify.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="names or folders (default: all here)")
    verify.set_defaults(run=run_verify)

    pull = verbs.add_parser("pull", help="copy checkpoints into a folder that serves them without a network")
    pull.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="names, or user/repo")
    pull.add_argument("--to", type=Path, required=True, metavar="DIR", help="the mirror; use it with SEGZOO_HUB=DIR")
    pull.add_argument("--revision", help="a tag, branch or commit; the default is what segzoo pins")
    pull.set_defaults(run=run_pull)

    push = verbs.add_parser("push", help="publish a checkpoint folder on the Hugging Face Hub")
    push.add_argument("folder", type=Path, help="a checkpoint's folder")
    push.add_argument("repository", nargs="?", help="user/repo; the default is the folder's name under the zoo's own")
    push.add_argument("--version", help="of the checkpoint, written into its config; it becomes the tag v<version>")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--dry-run", action="store_true", help="show what would go up, and stop")
    push.set_defaults(run=run_push)
    return parser


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def run_list(options: argparse.Namespace) -> None:
    """``segzoo list``."""
    from segzoo.hub import checkpoint_folders, list_checkpoints, listing
    from segzoo.registry import list_models, models

    names, checkpoints = list_models(options.pattern), list_checkpoints(options.pattern)
    folders = checkpoint_folders()
    listed = {name: listing(name, folders.get(name)) for name in checkpoints}
    if options.json:
        print(json.dumps({"models": {name: vars(models()[name]) for name in names}, "checkpoints": listed}, indent=2))
        return
    print("models")
    for name in names:
        print(f"  {name:<16} {models()[name].parameters / 1e6:>7.2f} M  {models()[name].summary}")
    print("checkpoints")
    for name, facts in listed.items():
        print(f"  {name:<26} {checkpoint_line(facts)}")


def checkpoint_line(facts: dict[str, Any]) -> str:
    """One line on a checkpoint."""
    if "error" in facts:
        return f"not usable: {facts['error']}"
    dice = "not scored" if facts["dice"] is None else f"Dice {facts['dice']:.3f} ({facts['images']} held-out images)"
    weights, data = (facts["licences"].get(key) or "unlicensed" for key in ("weights", "data"))
    return (
        f"{facts['model']:<14} {facts['dataset'] or 'unknown data':<18} {dice}, "
        f"{(facts['parameters'] or 0) / 1e6:.2f} M parameters, "
        f"{facts['bytes'] / 1e6:.1f} MB, weights {weights}, data {data}, {facts['where']}"
    )


def run_info(options: argparse.Namespace) -> None:
    """``segzoo info NAME``."""
    from segzoo.hub import open_checkpoint
    from segzoo.registry import models

    if options.name not in models():
        print(json.dumps(open_checkpoint(options.name).config, indent=2))
        return
    import inspect

    from segzoo.registry import builder

    facts = models()[options.name]
    print(f"{facts.name}: {facts.summary}\n{facts.parameters:,} parameters; {facts.paper}\n")
    built = inspect.signature(builder(options.name)).return_annotation
    print(inspect.getdoc(built))


def run_predict(options: argparse.Namespace) -> None:
    """``segzoo predict CHECKPOINT INPUT... --output DIR``.

    Raises:
        SegzooError: an input could not be segmented; all others have been by then.
    """
    from segzoo.prediction import plan, remove_dead_drafts, require_distinct, require_overlap, require_writable

    require_overlap(options.overlap)
    jobs = plan(options.inputs, options.output, options.overlay)
    require_writable(options.output)
    remove_dead_drafts(options.output)
    model = open_model(options)
    require_distinct(jobs, model.mask_names)
    work = options, model, jobs
    if options.devices == options.nodes == 1 and not is_one_of_several():
        outcomes = segment_share(None, *work)
    else:
        from segzoo.inference import choose_device
        from segzoo.processes import launch

        outcomes = launch(segment_share, choose_device(options.device), options.devices, options.nodes, *work)
    failures: list[str] = []
    for outcome in outcomes:
        if isinstance(outcome, SegzooError):
            raise outcome
        failures += outcome
    if failures:
        which = f"{len(failures)} of {len(jobs)} inputs were not segmented, the first because: "
        raise SegzooError((which if len(jobs) > 1 else "") + failures[0])


def is_one_of_several() -> bool:
    """Whether torchrun, or srun with several tasks, has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"


def open_model(options: argparse.Namespace) -> "Checkpoint | ExportedModel":
    """What `run_predict` is to segment with.

    Raises:
        SegzooError: there is none, it is damaged, or it cannot do what the options ask for.
    """
    name = options.checkpoint
    suffix = Path(name).suffix.lower()
    if suffix == ".pt2":
        raise SegzooError(f"{name} is a program for torch.export.load; export an .onnx file to predict with segzoo")
    if suffix == ".onnx":
        from segzoo.exported import open_exported

        if options.device == "cuda":
            raise SegzooError(f"{name} runs on the CPU; leave --device cuda out, or predict with the checkpoint")
        options.device = "cpu"  # also where "auto" would find a GPU
        return open_exported(Path(name), options.backend)
    if options.backend:
        raise SegzooError(f"--backend runs .onnx files, and {name} is none; `segzoo export {name} FILE.onnx` writes it")
    from segzoo.hub import open_checkpoint

    return open_checkpoint(name)


def segment_share(
    fabric: "Fabric | None", options: argparse.Namespace, model: "Checkpoint | ExportedModel", jobs: "list[Job]"
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
    from segzoo.prediction import unfinished

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
    from segzoo.processes import gather

    outcomes = gather(fabric, outcome)
    return outcomes if rank == 0 else []


def segment_jobs(
    jobs: "list[Job]",
    options: argparse.Namespace,
    model: "Checkpoint | ExportedModel",
    device: str,
    rank: int,
    several: bool,
) -> list[str]:
    """Segment files and print what was found; returns why some could not be.

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
    from segzoo.prediction import OutputError, segment_files

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


def load_predictor(model: "Checkpoint | ExportedModel", device: str, options: argparse.Namespace) -> "Predictor":
    """What segments; for an exported file without importing torch."""
    from segzoo.exported import ExportedModel, ExportedPredictor

    if isinstance(model, ExportedModel):
        return ExportedPredictor(model, tta=options.tta, overlap=options.overlap)
    from segzoo import inference

    return inference.load_predictor(model, device, tta=options.tta, overlap=options.overlap)


def recipe(options: argparse.Namespace, model: "Checkpoint | ExportedModel") -> dict[str, Any]:
    """What masks depend on besides the image; a run that is like this one continues it."""
    return {"segzoo": __version__, **model.identity, "tta": options.tta, "overlap": options.overlap}


def run_export(options: argparse.Namespace) -> None:
    """``segzoo export CHECKPOINT FILE``."""
    from segzoo.export import choose_format, export
    from segzoo.hub import load, open_checkpoint

    format = choose_format(options.file, options.format)  # before anything is loaded
    if options.data and format != "onnx":
        raise SegzooError("--data measures files by ONNX Runtime: end the file in .onnx")
    checkpoint = open_checkpoint(options.checkpoint)
    details = {
        key: checkpoint.config[key] for key in ("name", "version", "licences", "sha256") if key in checkpoint.config
    }
    model = load(checkpoint)
    print(model.load_report, file=sys.stderr)
    data, calibration = None, []
    if options.data:
        from segzoo.comparison import calibration_images, training_data

        data = training_data(model, options.data)
        calibration = calibration_images(data) if options.precision == "int8" else []
    written = export(
        model,
        options.file,
        format=options.format,
        precision=options.precision,
        size=options.size,
        calibration=calibration,
        details={"checkpoint": details},
    )
    print(written)
    if data:
        from segzoo.comparison import measure

        print(measure(model, written.path, data, options.size))


def run_verify(options: argparse.Namespace) -> None:
    """``segzoo verify [CHECKPOINT...]``.

    Raises:
        SegzooError: a checkpoint is damaged, or computes something else here; all others have been verified by then.
    """
    from segzoo.hub import checkpoint_folders
    from segzoo.probe import verify

    names = options.checkpoints or sorted(checkpoint_folders())
    failures: list[str] = []
    for name in names:
        try:
            print(f"{name}: {verify(name)}")
        except SegzooError as error:
            failures.append(sentence(error))
            if len(names) > 1:
                print(f"segzoo: not verified: {failures[-1]}", file=sys.stderr)
    if failures:
        which = f"{len(failures)} of {len(names)} checkpoints could not be verified, the first because: "
        raise SegzooError((which if len(names) > 1 else "") + failures[0])


def run_pull(options: argparse.Namespace) -> None:
    """``segzoo pull CHECKPOINT... --to DIR``."""
    from segzoo.hub import pull

    for name in options.checkpoints:
        print(f"{name} -> {pull(name, options.to, revision=options.revision)}")
    print(f"set SEGZOO_HUB={options.to} to use them where there is no network")


def run_push(options: argparse.Namespace) -> None:
    """``segzoo push FOLDER [REPO]``."""
    from segzoo.checkpoint import recording
    from segzoo.hub import organisation
    from segzoo.publishing import plan_upload, push

    repository = options.repository or f"{organisation()}/{options.folder.resolve().name}"
    upload = plan_upload(options.folder, repository, options.version)
    print(upload)
    if options.dry_run:
        return
    if options.version is not None:
        with recording(options.folder, version=options.version) as draft:  # kept where it could be published
            address = push(replace(upload, folder=draft), private=options.private)
    else:
        address = push(upload, private=options.private)
    print(f"published at {address}")


if __name__ == "__main__":
    sys.exit(main())
