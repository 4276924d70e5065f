"""Refusals and warnings of a training or a test, before it starts."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

import segzoo.data as data_modules
from segzoo.checkpoints.members import NOT_TRAINED
from segzoo.checkpoints.names import RECIPE
from segzoo.checkpoints.provenance import listed, other_splits, parts_of, same_names, same_split
from segzoo.cli.train_names import LOADER
from segzoo.cli.train_plan import WHERE
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.module import SegmentationModule
from segzoo.registry import models

LOGGED = ("val/dice", "val/iou", "val/loss", "val/dataset_dice", "val/dataset_iou", "train/loss")  # by every model
UNWRITABLE = "Unable to serialize instance "  # what jsonargparse writes in the place of a value it cannot write


def refuse_what_is_not_utf8(arguments: list[str]) -> None:
    """Refuse a command line that a recipe could not hold; names of files may hold bytes that are no characters.

    Raises:
        SegzooError: naming the argument.
    """
    if unwritable := [one for one in arguments if one.encode(errors="ignore").decode() != one]:
        raise SegzooError(
            f"{unwritable[0]} is not UTF-8, as a run's {RECIPE} has to be; rename that folder, or start in it"
        )


def refuse_unwritable(recipe: str) -> None:
    """Refuse to train by a configuration that could not be read again.

    Raises:
        SegzooError: naming the option.
    """
    line = next((line for line in recipe.splitlines() if UNWRITABLE in line), None)
    if line is not None:
        raise SegzooError(
            f"{RECIPE} cannot hold {line.strip().replace(UNWRITABLE, '')}, so nobody could train so again; give that "
            "option as a number, a text, or a class_path with its init_args"
        )


def refuse_wrong_monitors(model: SegmentationModule, callbacks: list[Callback], scheduler: Any) -> None:
    """Refuse to watch a score that nobody logs, which would end the training after its first epoch, or for its worst.

    A model or a callback of somebody's own may log others.
    """
    packages = {type(part).__module__.partition(".")[0] for part in (model, *callbacks)}
    watched = [("--trainer.callbacks", getattr(one, "monitor", None), getattr(one, "mode", None)) for one in callbacks]
    if scheduler:
        watched.append(("--lr_scheduler", scheduler.init_args.get("monitor"), scheduler.init_args.get("mode")))
    for option, name, mode in watched:
        unknown = name is not None and name.startswith(("train/", "val/")) and name not in LOGGED
        if unknown and packages <= {"segzoo", "lightning"}:
            raise SegzooError(f"there is no {name!r} to monitor; there are {', '.join(LOGGED)}")
        best, worst = ("min", "max") if str(name).endswith("loss") else ("max", "min")
        if name in LOGGED and mode == worst:
            raise SegzooError(
                f"what monitors {name} would take its worst for the best (mode {mode}); add {option}.mode {best}"
            )


def refuse_random_weights(options: Any) -> None:
    """Refuse to score a model of the zoo that nothing has trained; classes of somebody's own may load weights."""
    builders = {known.builder for known in models().values()}
    if options.ckpt_path is None and options.model.class_path in builders:
        raise SegzooError(
            "this model has random weights: name a trained one by --model FOLDER/checkpoint, or add --ckpt_path best "
            "to the command of its run"
        )


def refuse_ensemble(options: Any) -> None:
    """Refuse to start from several networks.

    Raises:
        SegzooError: the checkpoint is an ensemble.
    """
    if options.model.class_path == LOADER:
        start = options.model.init_args
        where = {name: start[name] for name in WHERE if start.get(name) is not None}
        if open_checkpoint(start.name_or_path, **where).config.members:
            raise SegzooError(f"{start.name_or_path} cannot be fitted: {NOT_TRAINED}")


def refuse_other_preprocessing(data: data_modules.SegmentationDataModule, model: SegmentationModule) -> None:
    """Refuse to record what a checkpoint scores on images that are prepared otherwise than `predict` does it."""
    used, stored = data.preprocessing.to_dict(), model.preprocessing.to_dict()
    of_training = ("patch_size", "mirror_axes")  # these may differ, since they say how it was trained
    differing = [key for key in {**stored, **used} if key not in of_training and used.get(key) != stored.get(key)]
    if differing:
        raise SegzooError(
            f"--record is for what a checkpoint scores as it predicts, and {differing[0]} is {used.get(differing[0])} "
            f"here and {stored.get(differing[0])} there: leave that option out"
        )


def refuse_recording(options: Any) -> None:
    """Refuse --record where there is nothing to write into, or nothing that should be written.

    Raises:
        SegzooError: saying so.
    """
    if options.model.class_path != LOADER or not Path(options.model.init_args.name_or_path).is_dir():
        raise SegzooError("--record writes into a checkpoint folder, so test one by its path: --model FOLDER")
    if options.ckpt_path is not None:
        raise SegzooError("--record is for a checkpoint's own weights: leave --ckpt_path out")
    if options.metrics and not {"dice", "iou"} <= set(options.metrics):
        raise SegzooError("--record replaces all results, and cards show Dice and IoU: add both to --metrics")
    if options.tta:
        raise SegzooError("--record is for what a checkpoint scores without --tta: leave one of the two out")
    if options.raw:
        raise SegzooError("--record is for what a checkpoint scores as it predicts: leave --raw out")


def split_warning(tested: dict[str, Any], trained: dict[str, Any]) -> str | None:
    """Return a warning where the images of a test may be among those that a checkpoint was trained on."""
    known = [part for part in parts_of(trained) if "split_sha256" in part]
    other = [part for part in parts_of(tested) if not any(same_split(part, one) for one in known)]
    if known and other:
        if all(any(same_names(part, one) for one in known) for part in other):
            return "files have changed since the checkpoint was trained (same names, other sizes)"
        return "this is not the split the checkpoint was trained on"
    names = other_splits(tested, trained.get("pretrained_on", []))
    return f"the checkpoint was pretrained on another split of {listed(names)}" if names else None
