"""Check that a checkpoint computes on this machine what it computed where it was published."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segzoo.checkpoints.compare import relative_difference
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.weights import read_safetensors
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import from_pretrained

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


TOLERANCE = 1e-4  # of the largest logit: processors round differently, and networks are tens of layers deep


def verify(name_or_path: str | Path) -> str:
    """Check a checkpoint's files, and that its model computes on this machine what it computed when it was published.

    Args:
        name_or_path: as of :func:`segzoo.from_pretrained`.

    Returns:
        What was found, in one sentence.

    Raises:
        SegzooError: a file is damaged, or the logits differ by more than rounding.
    """
    checkpoint = open_checkpoint(name_or_path)
    intact = f"{len(checkpoint.config.sha256)} files intact, {checkpoint.trust}"
    if PROBE not in checkpoint.config.sha256:
        return f"{intact}; it has no {PROBE}, so nothing was computed"
    file = checkpoint.folder / PROBE
    probe = read_safetensors(file)
    if set(probe) != {"image", "logits"}:
        raise SegzooError(f"{file} must hold an image and its logits, not {', '.join(sorted(probe)) or 'nothing'}")
    difference = relative_difference(
        compute_logits(from_pretrained(checkpoint.folder), probe["image"]), probe["logits"]
    )
    if not difference <= TOLERANCE:  # NaN included
        raise SegzooError(
            f"{name_or_path} computes other logits on this machine than where it was published: they differ by up to "
            f"{difference:.1e} of the largest; do not trust its masks here, or try another torch than "
            f"{torch.__version__}"
        )
    return f"{intact}; its logits are {'equal' if difference == 0 else f'equal up to rounding ({difference:.1e})'}"


def compute_logits(model: "SegmentationNetwork", image: Tensor) -> Tensor:
    """Compute the logits [K, *S] of a raw image [H, W, C] (uint8) or volume [C, D, H, W], in one piece, on the CPU."""
    preprocessing = model.preprocessing
    given = preprocessing.read(image.numpy())
    with torch.inference_mode():
        logits: Tensor = model.cpu().eval()(preprocessing(given)[None])[0]
    return logits.contiguous()
