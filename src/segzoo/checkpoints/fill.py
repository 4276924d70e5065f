"""Tensors of a checkpoint go into a model, and a report says what became of each."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from segzoo.checkpoints.config import Config
from segzoo.checkpoints.files import read_listed
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.names import WEIGHTS
from segzoo.checkpoints.weights import parse_safetensors
from segzoo.errors import SegzooError
from segzoo.nn.adapt import adapt_input_channels

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.network import SegmentationNetwork


@dataclass
class LoadReport:
    """Report of what loading a checkpoint did to each tensor of the model.

    Attributes:
        source: the folder it was read from.
        loaded: taken as stored.
        adapted: the first layer, changed to another number of input channels.
        initialised: new, at random: the head, for another number of classes, and heads of deep supervision that
            were not stored.
        ignored: stored, and not used: heads of deep supervision that the model does without.
        trust: what the files were compared with.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    trust: str = ""

    def __str__(self) -> str:
        """Return one line; the tensors that are not as stored are named."""
        parts = [self.taken()]
        for what, names in (
            ("adapted to the new in_channels", self.adapted),
            ("newly initialised", self.initialised),
            ("not used", self.ignored),
        ):
            if names:
                parts.append(f"{', '.join(names)} {what}")
        parts += [self.trust] if self.trust else []
        return "; ".join(parts)

    def log(self) -> None:
        """Tell the logger "segzoo": as a warning where the model is not all as stored, for nothing changes unsaid."""
        level = logging.WARNING if self.adapted or self.initialised else logging.INFO
        logging.getLogger("segzoo").log(level, "%s", self)

    def taken(self) -> str:
        """Return how many tensors came from where."""
        return f"{len(self.loaded)} tensors loaded from {self.source}"


def read_weights(folder: Path, config: Config, file: str = WEIGHTS) -> "dict[str, Tensor]":
    """Return a checkpoint's tensors, or a member's, floating ones in at least float32.

    Raises:
        SegzooError: they are not those that the config lists, or no safetensors.
    """
    stored = parse_safetensors(read_listed(folder, config, file), folder / file)
    return {name: at_least_float32(value) for name, value in stored.items()}


def at_least_float32(value: "Tensor") -> "Tensor":
    """Return a tensor as a model is given it, whatever it is stored in."""
    return value.float() if value.is_floating_point() and value.itemsize < 4 else value


def fill(
    model: "SegmentationNetwork",
    stored: "dict[str, Tensor]",
    report: LoadReport,
    num_classes: int | None,
    in_channels: int | None,
) -> None:
    """Load ``stored`` into ``model``; only what another head or first layer asks for, or only training, may differ.

    Raises:
        SegzooError: something else differs, or is no finite number.
    """
    state = model.state_dict()
    for name, own in state.items():
        given = stored.get(name)
        if given is not None and given.is_floating_point() != own.is_floating_point():  # or rounded without a word
            raise SegzooError(
                f"the weights in {report.source} do not fit their config: {name} holds {kind(given)} instead of "
                f"{kind(own)}; fetch the checkpoint again"
            )
        spared = given is None and model.is_training_only(name)
        if given is not None and given.shape == own.shape:
            state[name] = given.to(own.dtype)
            report.loaded.append(name)
        elif given is not None and in_channels is not None and differs_only_in(1, given, own):
            state[name] = adapt_input_channels(given, own.shape[1]).to(own.dtype)
            report.adapted.append(name)
        elif spared or (given is not None and num_classes is not None and differs_only_in(0, given, own)):
            report.initialised.append(name)
        else:
            found = "is missing" if given is None else f"has shape {tuple(given.shape)} instead of {tuple(own.shape)}"
            raise SegzooError(
                f"the weights in {report.source} do not fit their config: {name} {found}; fetch the checkpoint again"
            )
    report.ignored = [name for name in stored if name not in state]
    unknown = [name for name in report.ignored if not model.is_training_only(name)]
    if unknown:
        raise SegzooError(f"the weights in {report.source} do not fit their config: {unknown[0]} is not in the model")
    require_finite({**stored, **state}, f"the checkpoint {report.source}")  # as it is, and in the model's type
    model.load_state_dict(state)


def kind(tensor: "Tensor") -> str:
    """Return the type of a tensor's values in a word."""
    return str(tensor.dtype).removeprefix("torch.")


def differs_only_in(axis: int, one: "Tensor", other: "Tensor") -> bool:
    """Return whether two tensors' shapes agree but for one axis."""
    shapes = [list(tensor.shape) for tensor in (one, other)]
    return one.ndim == other.ndim > axis and all(shape.pop(axis) for shape in shapes) and shapes[0] == shapes[1]
