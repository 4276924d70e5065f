"""Exported files beside Python's network: on one image or volume, or on those that calibrated it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from segzoo.checkpoints.compare import relative_difference
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.probe import read_probe
from segzoo.errors import SegzooError
from segzoo.hub.listing import checkpoint_folders
from segzoo.metrics.metric import Dice

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


def compare(
    network: "SegmentationNetwork",
    logits: Callable[[Tensor], Tensor],
    raw: Any,
    size: Sequence[int] | None,
) -> float:
    """Return the largest difference of a file's logits from Python's on an image, of the largest logit.

    Args:
        network: deployed.
        logits: what the file computes of inputs.
        raw: the image, whatever ``predict`` takes.
        size: sides of the inputs that the file takes; None where they vary.
    """
    x, batch = check_inputs(network, raw, size)
    with torch.inference_mode():
        expected = network(batch)
    return relative_difference(logits(x), expected)


def compare_masks(
    network: "SegmentationNetwork",
    logits: Callable[[Tensor], Tensor],
    images: Sequence[Any],
    size: Sequence[int] | None,
) -> float:
    """Return what the mean Dice of a file's masks with Python's lacks of 1, on the network's own grid."""
    dice = Dice(network.num_classes, multilabel=network.multilabel)
    for image in images:
        x, batch = check_inputs(network, image, size)
        with torch.inference_mode():
            expected = network(batch)
        dice.update(*(network.mask(network.activate(found)) for found in (logits(x), expected)))
    return 1 - dice.compute().item()


def check_inputs(network: "SegmentationNetwork", raw: Any, size: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """Return what the file takes of an image, and what Python's network does."""
    contract = network.preprocessing
    return contract.for_graph(contract.read(raw), size)


def sample_for(network: "SegmentationNetwork") -> tuple[str, Any]:
    """Return an image or volume that a shipped checkpoint of the same kind has as its example; else noise."""
    contract = network.preprocessing
    for folder in checkpoint_folders().values():
        with suppress(SegzooError):  # a checkpoint that is damaged has no part in this
            config = read_config(folder)
            kind = type(config.contract), config.contract.channels
            if PROBE in config.sha256 and kind == (type(contract), network.in_channels):
                source = config.example.source if config.example else None
                return source or folder.name, read_probe(folder, config)["image"].numpy()
    return "noise, for lack of an image", contract.noise()
