"""``segzoo`` command: verbs to functions. Nothing heavy is imported before a verb needs it."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from segzoo import __version__
from segzoo.cli.output import Parser, log_on_stderr, sentence, show_any_name
from segzoo.errors import NO_ROOM, SegzooError, one_line

# their options are read by what reads those of models and datasets, not here
TRAINING_VERBS = {
    "fit": "train a model, or train a checkpoint further",
    "validate": "score a model on the validation images",
    "test": "score a model on the held-out images",
    "tune": "choose a checkpoint's post-processing on the validation images",
}
# what input can lead to wherever it is read, and no place that knows the file has caught
LAST_RESORTS: dict[type[Exception], str] = {
    MemoryError: "there is not enough memory for this; close other programs, or take a machine with more",
    RecursionError: "a file that this command reads is nested too deeply; fetch it again, or leave it out",
    UnicodeError: "a name or a file holds characters that are no text; rename it, or save the file as UTF-8",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2 for bad input, 130 for Ctrl+C, with one sentence on stderr)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    show_any_name()
    try:
        with log_on_stderr():
            if arguments and arguments[0] in TRAINING_VERBS:
                imported(f"segzoo.cli.{'tune' if arguments[0] == 'tune' else 'train'}:main")(arguments)
            else:
                options = build_parser().parse_args(arguments)
                imported(options.run)(options)
        sys.stdout.flush()
    except SegzooError as error:
        print(f"segzoo: error: {sentence(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads the output, such as head, has read enough
        drop_output()
        return 1
    except OSError as error:  # of a file or a folder: not allowed, no space, no such device
        if error.errno in NO_ROOM and error.filename is None:  # of what is printed, mostly
            print(f"segzoo: error: nothing more can be written ({error.strerror}); make room", file=sys.stderr)
            drop_output()
            return 2
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"segzoo: error: {one_line(where + (error.strerror or str(error)))}", file=sys.stderr)
        return 2
    except tuple(LAST_RESORTS) as error:
        advice = next(advice for kind, advice in LAST_RESORTS.items() if isinstance(error, kind))
        print(f"segzoo: error: {advice} ({sentence(error) or type(error).__name__})", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segzoo: stopped; every file that is written is complete", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def drop_output() -> None:
    """Write nothing more to stdout, or Python complains when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def imported(path: str) -> Callable[..., None]:
    """Import the function that does a verb, which nothing needed before: ``package.module:function``."""
    module, _, name = path.partition(":")
    function: Callable[..., None] = getattr(import_module(module), name)
    return function


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every verb but the training ones, which are listed for ``--help`` alone."""
    parser = Parser("segzoo", description="A model zoo for medical image segmentation.")
    parser.add_argument("--version", action="version", version=f"segzoo {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    listing = verbs.add_parser("list", help="models and checkpoints")
    listing.add_argument("pattern", nargs="?", default="*", help="a shell pattern such as '*unext*'")
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(run="segzoo.cli.listing:run_list")

    info = verbs.add_parser("info", help="what a model takes, or what a checkpoint holds")
    info.add_argument("name", help="a model, a checkpoint or a checkpoint's folder")
    info.set_defaults(run="segzoo.cli.listing:run_info")

    plan = verbs.add_parser("plan", help="sizes of a training that follow from your data, and why")
    plan.add_argument("data", type=Path, metavar="DATA", help="the folder of a dataset")
    plan.add_argument("--model", help="a model, a checkpoint or its folder (default: lv_unet, or mednext_s_k3)")
    plan.set_defaults(run="segzoo.cli.plan:run_plan")

    for verb, text in TRAINING_VERBS.items():
        verbs.add_parser(verb, help=f"{text} (see segzoo {verb} --help)")

    compare = verbs.add_parser("compare", help="scores of several models on the same images: intervals, paired tests")
    compare.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folders of segzoo test, or CSV files of scores by image"
    )
    compare.add_argument("--metric", default="dice", help="column that the models are tested by (default dice)")
    compare.add_argument("--groups", type=Path, metavar="CSV", help="images that belong together: image and group")
    compare.add_argument("--picture", type=Path, metavar="PNG", help="draw the means and intervals")
    compare.set_defaults(run="segzoo.cli.compare:run_compare")

    imports = verbs.add_parser("import", help="make a folder to train on of annotations by COCO, LabelMe or CVAT")
    imports.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="files of annotations, or folders of them"
    )
    imports.add_argument("--output", type=Path, required=True, help="the folder to write, new or empty")
    imports.add_argument("--images", type=Path, help="where the images are (default: beside the annotations)")
    imports.add_argument("--classes", nargs="+", metavar="NAME", help="those to draw, in this order (default: all)")
    imports.add_argument("--multilabel", action="store_true", help="write a mask for each class, which may overlap")
    imports.add_argument(
        "--crowds",
        choices=["ignore", "draw", "skip"],
        default="ignore",
        help="what becomes of COCO's regions of many objects: neither trained nor scored on (default), of their class, "
        "or background",
    )
    imports.set_defaults(run="segzoo.cli.importing:run_import")

    predict = verbs.add_parser("predict", help="segment images and volumes with a checkpoint")
    predict.add_argument("checkpoint", help="a checkpoint's name or folder, or a file of segzoo export: .onnx or .xml")
    predict.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="INPUT",
        help="images, volumes, DICOM, folders of them, or videos; checkpoints before them are averaged with the first",
    )
    predict.add_argument("--output", type=Path, required=True, help="the folder to write masks into")
    predict.add_argument("--overlay", action="store_true", help="also draw each mask over its image or slices")
    predict.add_argument(
        "--measure",
        type=Path,
        metavar="FILE.csv",
        help="add the size, pieces, diameter and brightness of each structure to a table",
    )
    predict.add_argument(
        "--probabilities",
        choices=["files", "npz"],
        nargs="?",
        const="files",
        help="also write probabilities: a file a class (.nii.gz of float32, .png of 16 bits), or one .npz of float16",
    )
    predict.add_argument(
        "--report",
        nargs="?",
        const="",
        metavar="FILE.csv",
        help="list what to look at first, by doubt, and what is unlike the training data (default: OUTPUT/report.csv)",
    )
    predict.add_argument("--tta", action="store_true", help="average over mirrored copies of each image")
    predict.add_argument(
        "--compile", action="store_true", help="compile the network first: a minute, worth it for thousands of images"
    )
    predict.add_argument("--overlap", type=float, default=0.5, help="of a volume's windows, 0 to below 1 (default 0.5)")
    predict.add_argument(
        "--intensity-range",
        nargs=2,
        type=float,
        metavar=("LOW", "HIGH"),
        help="values of 16-bit or float images that are black and white (default: the checkpoint's, or all 16 bits)",
    )
    predict.add_argument("--raw", action="store_true", help="leave out the post-processing of a tuned checkpoint")
    predict.add_argument(
        "--geometry",
        choices=["sform", "qform"],
        help="what says where voxels lie, where a NIfTI file's two forms differ",
    )
    predict.add_argument(
        "--format",
        choices=["dicom-seg"],
        help="write masks of DICOM as DICOM SEG, which names the patient (default: NIfTI, and PNG of pictures)",
    )
    predict.add_argument(
        "--names",
        choices=["folder", "dicom"],
        default="folder",
        help="what masks of DICOM are called by: folder and series number (default), or description and UID, which may "
        "tell who a patient is",
    )
    predict.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one"
    )
    predict.add_argument(
        "--backend", choices=["onnxruntime", "openvino"], help="what runs an exported file (default: what is installed)"
    )
    predict.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="what to compute in: bfloat16 is faster where the processor has instructions for it, of a file by "
        "OpenVINO, and changes masks a little (default: that on a GPU, else float32)",
    )
    predict.add_argument(
        "--engine", choices=["ray"], help="ray: one case after another to a Ray cluster's nodes, which may come and go"
    )
    predict.add_argument(
        "--devices",
        type=positive,
        metavar="N",
        help="processes that share the work, with --engine on each node (default: 1; with --engine 1 for each GPU)",
    )
    predict.add_argument("--nodes", type=positive, default=1, metavar="N", help="machines with as many processes each")
    predict.set_defaults(run="segzoo.cli.predict:run_predict")

    export = verbs.add_parser("export", help="write a checkpoint as one file that runs without segzoo")
    export.add_argument("checkpoint", help="a checkpoint's name or folder")
    export.add_argument(
        "file", type=Path, help="to write: .onnx, .xml (OpenVINO), .pte (ExecuTorch) or .pt2 (torch.export)"
    )
    export.add_argument(
        "--format",
        help="onnx, openvino, executorch, torch-export, or a package's (default: by suffix)",
    )
    export.add_argument(
        "--precision",
        choices=["float32", "float16", "int8"],
        default="float32",
        help="of the weights: float32 (default), float16 for half the bytes, or int8, which needs --data",
    )
    export.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="the folder of the dataset that the checkpoint was trained on: its training images calibrate int8, and "
        "its test images show what the file loses",
    )
    export.add_argument("--size", type=int, nargs="+", help="fixed sides of the inputs (default: they may vary)")
    export.set_defaults(run="segzoo.cli.export:run_export")

    web = verbs.add_parser("web", help="write a site that segments images in the browser, where they stay")
    web.add_argument(
        "checkpoints", nargs="*", metavar="CHECKPOINT", help="names, folders, or .onnx files of segzoo export"
    )
    web.add_argument(
        "--output", type=Path, required=True, metavar="SITE", help="the folder: new, empty or with an earlier site"
    )
    web.add_argument(
        "--serve",
        type=port,
        nargs="?",
        const=8000,
        metavar="PORT",
        help="then show the site to browsers on this machine (default port: 8000)",
    )
    web.set_defaults(run="segzoo.cli.web:run_web")

    verify = verbs.add_parser("verify", help="check a checkpoint's files, and that it computes here what it should")
    verify.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT", help="names or folders (default: all here)")
    verify.set_defaults(run="segzoo.cli.verify:run_verify")

    pull = verbs.add_parser("pull", help="copy checkpoints into a folder that serves them without a network")
    pull.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="names, or user/repo")
    pull.add_argument("--to", type=Path, required=True, metavar="DIR", help="the mirror; use it with SEGZOO_HUB=DIR")
    pull.add_argument("--revision", help="a tag, branch or commit; the default is what segzoo pins")
    pull.set_defaults(run="segzoo.cli.pull:run_pull")

    push = verbs.add_parser("push", help="publish a checkpoint folder on the Hugging Face Hub")
    push.add_argument("folder", type=Path, help="a checkpoint's folder")
    push.add_argument("repository", nargs="?", help="user/repo; the default is the folder's name under the zoo's own")
    push.add_argument("--version", help="of the checkpoint, written into its config; it becomes the tag v<version>")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--dry-run", action="store_true", help="show what would go up, and stop")
    push.set_defaults(run="segzoo.cli.push:run_push")
    return parser


def positive(text: str) -> int:
    """Return a whole number from 1, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def port(text: str) -> int:
    """Return the number of a port, for argparse; 0 is any that is free."""
    number = int(text)
    if not 0 <= number < 2**16:
        raise ValueError
    return number
