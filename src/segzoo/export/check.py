"""Exported files beside Python's network: on one image or volume, or on those that calibrated it."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.checkpoints.compare import relative_difference
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.weights import read_safetensors
from segzoo.errors import SegzooError
from segzoo.export.graph import interpolate
from segzoo.hub.listing import checkpoint_folders
from segzoo.imaging.volumes import Volume
from segzoo.metrics.metric import Dice
from segzoo.prediction.inputs import read_input
from segzoo.preprocessing.volume import VolumePreprocessing

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
    given = read_input(network.preprocessing, raw)
    if isinstance(network.preprocessing, VolumePreprocessing):
        assert isinstance(given, Volume)
        depth, height, width = size or network.preprocessing.patch_size
        window = network.preprocessing(given)[None, :, :depth, :height, :width]
        if size is not None:  # of which the volume may not have as much
            depth, height, width = (side - own for side, own in zip(size, window.shape[2:], strict=True))
            window = F.pad(window, (0, width, 0, height, 0, depth), mode="replicate")
        return window, window
    assert isinstance(given, np.ndarray)
    if size is not None:
        resized = interpolate(torch.from_numpy(given.transpose(2, 0, 1).astype(np.float32))[None], size)
        given = resized[0].permute(1, 2, 0).round().numpy().astype(np.uint8)
    x = torch.from_numpy(given.transpose(2, 0, 1).astype(np.float32))[None]
    return x, network.preprocessing(given)[None]


def sample_for(network: "SegmentationNetwork") -> tuple[str, Any]:
    """Return an image or volume that a shipped checkpoint of the same kind has as its example; else noise."""
    for folder in checkpoint_folders().values():
        file = folder / PROBE
        with suppress(SegzooError):  # a checkpoint that is damaged has no part in this
            config = read_config(folder)
            if file.is_file() and config.preprocessing["channels"] == network.in_channels:
                image = read_safetensors(file)["image"]
                if (image.dtype == torch.uint8) == (network.spatial_dims == 2):
                    source = config.example.source if config.example else None
                    return source or folder.name, image.numpy()
    shape = network.preprocessing.patch_size or (256, 256)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, network.in_channels)).astype(np.uint8)
    return "noise, for lack of an image", noise if network.spatial_dims == 2 else np.moveaxis(noise, -1, 0)
