"""Words of a training on itself: what it starts with, how long it will take, and what it leaves."""

import logging
import shlex
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero

from segzoo.checkpoints.names import RECIPE
from segzoo.cli.run_files import SPLIT
from segzoo.cli.train_names import DATA_OPTION
from segzoo.data import SegmentationDataModule
from segzoo.data.base import class_shares
from segzoo.module import SegmentationModule
from segzoo.prediction.torch_backend import has_bfloat16

# of Lightning: a run's own folder, its own use of torch, and that losses are logged by epoch, as they are here
KNOWN = (".*exists and is not empty", ".*LeafSpec", ".*smaller than the logging interval")
# how Lightning begins to speak of its maker's services, and of what it does anyway
NOISE = ("\N{ELECTRIC LIGHT BULB} Tip: ", "Loading `train_dataloader` to estimate")
STEPS = 20  # by which the time of a long epoch is told


def quieten() -> None:
    """Keep out of the log what says nothing of this training."""
    for message in KNOWN:
        warnings.filterwarnings("ignore", message)
    logger = logging.getLogger(rank_zero.__name__)
    if says_something not in logger.filters:
        logger.addFilter(says_something)


def says_something(record: logging.LogRecord) -> bool:
    """Return whether a record is about this training."""
    return not record.getMessage().startswith(NOISE)


# ---- at the start


def start_lines(trainer: Trainer, model: SegmentationModule, data: SegmentationDataModule) -> list[str]:
    """Say what is trained, on what, and by what means; all labels must have been looked at."""
    augmentation = ", ".join(map(name_of, getattr(data, "augmentation", []))) or "none"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    lines = [
        f"classes, by their share of what is trained on: {class_shares(data)}",
        f"augmentation: {augmentation}",
        f"{type(model).__name__} of {parameters:,} parameters, in {trainer.precision} {device_words(trainer)}",
    ]
    if warning := slow_precision(str(trainer.precision), trainer.strategy.root_device):
        lines.append(warning)
    return lines


def name_of(function: Any) -> str:
    """Return the name of a function, or of an object's class."""
    return str(getattr(function, "__name__", type(function).__name__))


def device_words(trainer: Trainer) -> str:
    """Say what computes."""
    device, processes = trainer.strategy.root_device, trainer.world_size
    several = f", {processes} processes" if processes > 1 else ""
    if device.type == "cuda":
        return f"on {torch.cuda.get_device_name(device)}{several}"
    threads = torch.get_num_threads()
    return (
        f"on the {device.type.upper()}"
        + (f", {threads} thread{'s' * (threads > 1)}" * (device.type == "cpu"))
        + several
    )


def slow_precision(precision: str, device: torch.device) -> str | None:
    """Return a warning where a device would work bfloat16 out in software, which takes many times as long."""
    if "bf16" not in precision or has_bfloat16(device):
        return None
    return (
        f"this {'GPU' if device.type == 'cuda' else 'processor'} has no instructions for bfloat16, so that {precision} "
        "may take many times as long as float32: leave --trainer.precision out"
    )


# ---- while it runs


class ExpectedTime(Callback):
    """Callback that says once how long the training will take.

    By the second epoch, as the first one also reads all files; where epochs are long, by the steps of the first one.
    """

    def __init__(self) -> None:
        self._said = False
        self._epochs = 0
        self._since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Tell the time by the steps of an epoch that has many."""
        if self._said or trainer.num_training_batches <= STEPS:
            return
        if batch_idx == 0:  # takes longer than others
            self._since = time.monotonic()
        elif batch_idx == STEPS:
            epoch = (time.monotonic() - self._since) / STEPS * trainer.num_training_batches
            self.say(trainer, pl_module, epoch, 0, ", validation not counted")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the time by an epoch."""
        self._epochs += 1
        if self._epochs == 2 and not self._said:
            self.say(trainer, pl_module, time.monotonic() - self._since, 1, "")

    def say(self, trainer: Trainer, model: LightningModule, epoch: float, done: int, but: str) -> None:
        """Say how long an epoch takes, and all that are left."""
        self._said = True
        left = (trainer.max_epochs or 0) - trainer.current_epoch - done
        whole = f", all that are left about {time_words(left * epoch)}" if left > 0 else ""
        model.print(f"segzoo: an epoch takes about {time_words(epoch)}{whole}{but}")


def time_words(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> from segzoo.cli.train_report import time_words
        >>> [time_words(seconds) for seconds in (2.345, 250, 9000, 200000)]
        ['2.3 s', '4.2 min', '2.5 h', '2.3 days']
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= 100):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


# ---- at the end


def kept_lines(model: SegmentationModule, folder: Path, root: Path, kept: str) -> list[str]:
    """Say where everything is.

    Args:
        model: with the weights that are kept.
        folder: the checkpoint.
        root: of the run.
        kept: which weights are, "best" or "last".
    """
    lines = [
        f"{folder} is the checkpoint ({kept} weights); {root} also holds the logs, {RECIPE}, {SPLIT} and last.ckpt (to "
        "train on: --ckpt_path last)"
    ]
    if not model.competes_for_best:
        lines.append(
            f"training ended before λ = 1, so {folder} holds the last epoch rather than the best and cannot be "
            "deployed or exported: start from a published checkpoint, or let it run to max_epochs (by --ckpt_path "
            "last, without what ended it)"
        )
    return lines


def best_lines(kept: str, epoch: int | None, curves: Any, pictures: list[Path]) -> list[str]:
    """Say which epoch is kept, how good it is, and what there is to look at.

    Args:
        kept: which weights are, "best" or "last".
        epoch: of these.
        curves: epoch -> name -> value.
        pictures: that were drawn.
    """
    lines = []
    if epoch is not None:
        dice = curves.get(epoch, {}).get("val/dice")
        scored = "" if dice is None else f", Dice {dice:.4f} on the validation images at the size of training"
        lines.append(f"{kept} epoch: {epoch}{scored}")
    if pictures:
        lines.append(f"to look at: {' and '.join(map(str, pictures))}")
        if find_spec("matplotlib") is None:
            lines.append("there are no curves without matplotlib: pip install 'medsegzoo[pictures]'")
    return lines


def next_lines(given: list[str], checkpoint: Path) -> list[str]:
    """Return the commands that test a checkpoint on the data that it was trained with, and use it.

    Args:
        given: the command line of the training.
        checkpoint: its folder.
    """
    folder, data = shlex.quote(str(checkpoint)), shlex.join(data_words(given))
    test = [f"segzoo test --model {folder} {data}"] if data else []  # else a file says what the data is
    commands = [*test, f"segzoo predict {folder} NEW_IMAGES/ --output masks/ --overlay"]
    return [f"next: {command}" for command in commands]


def data_words(given: list[str]) -> list[str]:
    """Return those words of a command line that say what the data is.

    Example:
        >>> from segzoo.cli.train_report import data_words
        >>> data_words(["fit", "--data", "Folder", "--data.root=mine", "--trainer.max_epochs", "3", "--data.fold", "1"])
        ['--data', 'Folder', '--data.root=mine', '--data.fold', '1']
    """
    kept, words = False, []
    for word in given:
        if word.startswith("--") or word == "-c":
            kept = word.split("=")[0] == DATA_OPTION or word.startswith(f"{DATA_OPTION}.")
        if kept:
            words.append(word)
    return words if any(word.split("=")[0] == DATA_OPTION for word in words) else []
