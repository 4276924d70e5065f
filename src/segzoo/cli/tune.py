"""``segzoo tune``: a checkpoint's post-processing, temperature and doubt, chosen on validation images."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser
from tqdm import tqdm

import segzoo.data as data_modules
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.folder import drafting
from segzoo.checkpoints.opened import Checkpoint
from segzoo.checkpoints.provenance import listed, other_splits, parts_of, same_split, trainings
from segzoo.cli.train_errors import cause_in_input
from segzoo.cli.train_names import spell_out
from segzoo.cli.train_report import quieten
from segzoo.cli.train_types import register_types
from segzoo.data.volumes import source_of
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import load_pipeline
from segzoo.hub.tuned import write_tuned
from segzoo.network import check_classes
from segzoo.prediction.doubt import kinds_of
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend
from segzoo.prediction.tuning import Case, Choice, Tuner, keep
from segzoo.preprocessing.ranges import ranges_of

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

SCORES = (
    ("dice", "Dice", ".4f"),
    ("components", "parts a class and image", ".2f"),
    ("ece", "ECE", ".4f"),
    ("ece_boundary", "ECE near boundaries", ".4f"),
)
DESCRIBED = ("dataset", "split", "fold", "seed", "split_sha256")  # what is kept of the data


def main(arguments: list[str]) -> None:
    """Run ``segzoo tune`` with a command line that starts with the verb.

    Raises:
        SegzooError: the command line or what it names is wrong.
    """
    quieten()
    register_types()
    try:
        parser = build_parser()
        options = parser.instantiate(parser.parse_args(spell_out(arguments[1:])))
        tune(options.checkpoint, options.data, options.output, options.device, options.ranges)
    except Exception as error:
        bad_input = cause_in_input(error, "tune")
        if bad_input is None or bad_input is error:
            raise
        raise bad_input from error


def build_parser() -> ArgumentParser:
    """Return the parser of its options; those of the data are those of a training."""
    parser = ArgumentParser(
        prog="segzoo tune",
        description="Choose a checkpoint's post-processing on the validation images of a dataset.",
        exit_on_error=False,
    )
    parser.add_argument("checkpoint", type=str, help="A checkpoint's name or folder; it stays as it is.")
    parser.add_subclass_arguments(data_modules.SegmentationDataModule, "data", required=True)
    parser.add_argument("--output", type=Path, required=True, help="The folder to write, new.")
    parser.add_argument(
        "--ranges",
        type=bool,
        default=True,
        help="Keep what the training part's images are like, by which segzoo predict --report finds others unlike.",
    )
    parser.add_argument(
        "--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one."
    )
    return parser


def tune(name: str, data: data_modules.SegmentationDataModule, output: Path, device: str, ranges: bool = True) -> None:
    """Choose post-processing, and write the checkpoint with it.

    Args:
        name: of the checkpoint, or its folder.
        data: whose validation part is read.
        output: the new folder.
        device: of the network.
        ranges: whether the images of the training part are read, too, for what they are like.

    Raises:
        SegzooError: the data cannot serve for that, or the folder is there.
    """
    if output.exists():
        raise SegzooError(f"{output} is there already, and a tuned checkpoint goes into a new folder; name another one")
    checkpoint = open_checkpoint(name)
    refuse_what_was_trained_on(checkpoint, data)
    for sentence in data.summary():
        print(f"segzoo: {sentence}")
    if not set(data.split_ids["val"]).isdisjoint(data.split_ids["test"]):
        print("segzoo: images that validate also test here, so their test scores will be too good")
    pipeline = load_pipeline(checkpoint, device, raw=True, intensity_range=getattr(data, "intensity_range", None))
    network = network_of(pipeline)
    check_classes(network, data, "test")
    pipeline = with_doubts(pipeline)
    for sentence in data.check_pixels(["val"], network.preprocessing):
        print(f"segzoo: {sentence}")
    print(f"segzoo: {pipeline.description}")
    choice, count = choose(pipeline, network, data, output.resolve())
    print("\n".join(table(choice)))
    about = {key: value for key, value in data.describe().items() if key in DESCRIBED}
    scores = {"images": count, "before": choice.before, "after": choice.after, "doubt": choice.doubt}
    described = replace(choice.described, tuned={"data": about, **scores}) if choice.described else choice.described
    found = training_ranges(pipeline, data) if ranges else None
    written = write_tuned(checkpoint, network, described, output, found)
    print("\n".join(f"segzoo: {line}" for line in outcome(checkpoint, choice, written, output)))


def choose(
    pipeline: Pipeline, network: "SegmentationNetwork", data: data_modules.SegmentationDataModule, output: Path
) -> tuple[Choice, int]:
    """Choose by the validation part, whose probabilities lie beside the output meanwhile; return by how many images.

    Raises:
        SegzooError: they are too few, or there is no room for them.
    """
    try:
        with drafting(output.parent, f"{output.name}-validation") as folder:
            cases = [*kept(pipeline, data, folder)]
            tuner = Tuner(cases, network.task, network.class_names, network.preprocessing.spatial_dims)
            return tuner.choose(), len(cases)
    except OSError as error:
        if isinstance(error, SegzooError):
            raise
        raise SegzooError(
            f"the probabilities of the validation images cannot be kept in {output.parent} "
            f"({error.strerror or error}); make room there, or name an --output elsewhere"
        ) from error


def with_doubts(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline that also gives every score of doubt that there can be."""
    found = Pipeline(pipeline.backend, raw=True, doubt=kinds_of(pipeline.backend))
    found.contract = pipeline.contract
    return found


def training_ranges(pipeline: Pipeline, data: data_modules.SegmentationDataModule) -> dict[str, Any]:
    """Return what the images of the training part are like, each read once."""
    samples = tqdm(data.part_samples("train"), disable=None)
    contract = pipeline.contract
    return ranges_of(contract.features(contract.read(source_of(sample, data))) for sample in samples)


def kept(pipeline: Pipeline, data: data_modules.SegmentationDataModule, folder: Path) -> Iterator[Case]:
    """Segment the validation part, and yield each image with its truth, both kept on disk."""
    for number, sample in enumerate(tqdm(data.part_samples("val"), disable=None)):  # None: shown on a terminal
        yield keep(folder, number, sample.group, pipeline(source_of(sample, data)), data.label_of(sample))


# ---- refuse


def refuse_what_was_trained_on(checkpoint: Checkpoint, data: data_modules.SegmentationDataModule) -> None:
    """Refuse validation images that a checkpoint has learned from, as far as it says what it was trained on.

    Raises:
        SegzooError: saying so.
    """
    config, described = checkpoint.config, data.describe()
    said = [{**config.data, **member.data} for member in config.members] or [config.data]
    earlier = [training for one in said for training in trainings(one)]
    if names := other_splits(described, earlier):
        raise SegzooError(
            f"{checkpoint.folder} was trained on {listed(names)} split otherwise, or on other files of it, so it may "
            "have learned from the images that validate here; split them as then (--data.split, --data.fold, "
            "--data.seed), or give data it has never seen"
        )
    known = [one for training in earlier for one in parts_of(training)]
    own = any(same_split(part, one) for part in parts_of(described) for one in known)
    if own and not set(data.split_ids["val"]).isdisjoint(data.split_ids["train"]):
        raise SegzooError(
            f"{checkpoint.folder} was trained on the images that validate in the split {described['split']} of "
            f"{data.name}; give data it has never seen"
        )


# ---- say


def table(choice: Choice) -> list[str]:
    """Return what was tried, a line each."""
    rows = [("class", "step", "score", "better by", "95 % interval", "")]
    for trial in choice.trials:
        words = trial.step.replace("_", " ") + ("" if trial.value is True else f" {trial.value:g} {trial.unit}")
        bounds = f"{trial.low:+.4f} to {trial.high:+.4f}"
        taken = "taken" if trial.taken else "left"
        rows.append((trial.name, words.rstrip(), trial.score, f"{trial.mean:+.4f}", bounds, taken))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def outcome(checkpoint: Checkpoint, choice: Choice, written: Config, output: Path) -> list[str]:
    """Return what has come of it, in lines."""
    if not choice.described:
        what = "a copy" if written is checkpoint.config else f"version {written.version}"
        return [f"nothing helps by its interval, so there is no post-processing; {output} is {what}"]
    doubts = ", ".join(f"{kind} {value:+.3f}" for kind, value in choice.doubt.items())
    scores = [
        f"{words} {choice.before[name]:{form}} -> {choice.after[name]:{form}}"
        for name, words, form in SCORES
        if name in choice.before
    ]
    return [
        f"{choice.described}; on the validation images {', '.join(scores)}",
        f"doubt of an image, and its Dice, by rank: {doubts or 'no correlation'}",
        f"{output} is version {written.version}"
        + ("" if written.metrics else f", not scored yet: segzoo test --model {output} --record true ..."),
    ]


def network_of(pipeline: Pipeline) -> "SegmentationNetwork":
    """Return the network of a checkpoint's pipeline."""
    assert isinstance(pipeline.backend, TorchBackend)
    return pipeline.backend.network
