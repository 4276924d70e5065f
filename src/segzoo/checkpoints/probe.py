"""Probe of a checkpoint: a small image, and the logits that its model gave for it where it was published.

That of a checkpoint with post-processing holds the mask, too, [*S] or [K, *S] on the network's grid.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segzoo import limits
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.files import read_listed
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.weights import parse_safetensors, write_safetensors
from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.network import SegmentationNetwork


def read_probe(folder: Path, config: Config) -> "dict[str, Tensor]":
    """Return "image", uint8 [H, W, C] or a volume [C, D, H, W], "logits" [K, *S] and, where there is one, "mask".

    Raises:
        SegzooError: the file is not the one that the config lists, or holds something else.
    """
    file, dims = folder / PROBE, config.spatial_dims
    probe = parse_safetensors(read_listed(folder, config, PROBE), file)
    if set(probe) - {"mask"} != {"image", "logits"}:
        raise SegzooError(f"{file} must hold an image and its logits, not {', '.join(sorted(probe)) or 'nothing'}")
    image, logits = probe["image"], probe["logits"]
    if image.ndim != dims + 1 or logits.ndim != dims + 1 or not image.numel() or str(image.dtype) == "torch.bfloat16":
        raise SegzooError(f"{file} holds {tuple(image.shape)} and {tuple(logits.shape)}, no image and its logits")
    limits.NETWORK_INPUT.check(math.prod(image.shape), f"{file} holds an image of")
    return probe


def write_probe(folder: Path, model: "SegmentationNetwork", image: "Tensor") -> None:
    """Write a probe.

    Args:
        folder: the checkpoint's.
        model: as it is loaded from there.
        image: uint8 [H, W, C], or a volume [C, D, H, W].
    """
    write_safetensors({"image": image, "logits": compute_logits(model, image)}, folder / PROBE)


def compute_logits(model: "SegmentationNetwork", image: "Tensor") -> "Tensor":
    """Compute the logits [K, *S] of a raw image [H, W, C] (uint8) or volume [C, D, H, W], in one piece, on the CPU."""
    preprocessing = model.preprocessing
    given = preprocessing.read(image.numpy())
    with torch.inference_mode():
        logits: Tensor = model.cpu().eval()(preprocessing(given)[None])[0]
    return logits.contiguous()
