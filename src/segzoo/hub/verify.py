"""Check that a checkpoint computes on this machine what it computed where it was published."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from segzoo import __version__
from segzoo.checkpoints.compare import ROUNDING, equal_words, relative_difference
from segzoo.checkpoints.names import CARD, PROBE
from segzoo.checkpoints.opened import Checkpoint, StoredEncoder, is_another_card
from segzoo.checkpoints.probe import compute_logits, read_probe
from segzoo.errors import SegzooError, first_line
from segzoo.hub.encoders import computed_features
from segzoo.hub.find import open_stored
from segzoo.hub.load import load
from segzoo.imaging.geometry import Geometry
from segzoo.prediction.torch_backend import finished

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.network import SegmentationNetwork

MASK_TOLERANCE = 1e-2  # of a mask's pixels: rounding may decide which of two parts is the larger one


def verify(name_or_path: str | Path) -> str:
    """Check a checkpoint's files, and that its model computes on this machine what it computed when it was published.

    Args:
        name_or_path: as of :func:`segzoo.from_pretrained`.

    Returns:
        What was found, in one sentence.

    Raises:
        SegzooError: a file is damaged, or the logits or the mask differ by more than rounding.
    """
    checkpoint = open_stored(name_or_path)
    if is_another_card(checkpoint.config, checkpoint.folder / CARD):
        raise SegzooError(
            f"{checkpoint.folder / CARD} is not the card that segzoo {__version__} pins: it was changed, or is of "
            "another version; fetch it anew with `segzoo pull`, or take it away"
        )
    return f"{len(checkpoint.config.sha256)} files intact, {checkpoint.trust}; {computed(checkpoint, name_or_path)}"


def computed(checkpoint: Checkpoint | StoredEncoder, name: object) -> str:
    """Load a checkpoint of whichever kind and compute its probe.

    Args:
        checkpoint: its files checked.
        name: of it, for the sentence.

    Returns:
        What was found, in half a sentence.

    Raises:
        SegzooError: it cannot be loaded, or the logits or the mask differ by more than rounding.
    """
    if isinstance(checkpoint, StoredEncoder):
        return computed_features(checkpoint)
    model = load(checkpoint)
    if PROBE not in checkpoint.config.sha256:
        return f"it has no {PROBE}, so nothing was computed"
    probe = read_probe(checkpoint.folder, checkpoint.config)
    try:
        logits = compute_logits(model, probe["image"])
        difference = relative_difference(logits, probe["logits"])
    except (RuntimeError, TypeError) as error:  # of an image of another type or size than the model's
        raise SegzooError(f"the model of {name} cannot compute its {PROBE} ({first_line(error)})") from error
    if not difference <= ROUNDING:  # NaN included
        raise SegzooError(
            f"{name} computes other logits on this machine than where it was published: they differ by up to "
            f"{difference:.1e} of the largest; do not trust its masks here, or try another torch than "
            f"{torch.__version__}"
        )
    masks = compared_mask(model, logits, probe["mask"], name) if "mask" in probe else ""
    return f"its logits are {equal_words(difference)}{masks}"


def compared_mask(model: "SegmentationNetwork", logits: "Tensor", expected: "Tensor", name: object) -> str:
    """Compare the mask of a probe, with the model's post-processing, with the one that it holds.

    Returns:
        What was found, in words.

    Raises:
        SegzooError: more of it differs than rounding explains.
    """
    found = mask_of_probe(model, logits)
    share = float((found != expected).float().mean()) if found.shape == expected.shape else 1.0
    if share > MASK_TOLERANCE:
        raise SegzooError(
            f"{name} makes another mask on this machine than where it was published: its post-processing "
            f"({model.postprocessing.of_mask}) gives {share:.1%} of it otherwise; do not trust its masks here"
        )
    return f", and its mask ({model.postprocessing.of_mask}) {'too' if share == 0 else f'but for {share:.2%}'}"


def mask_of_probe(model: "SegmentationNetwork", logits: "Tensor") -> "Tensor":
    """Return the mask, uint8, of a probe's logits [K, *S], with the model's post-processing.

    Sizes in millimetres are taken for those of pixels of 1 mm, as the logits lie on the network's grid.
    """
    grid = Geometry.along_axes((1, 1, 1))
    return finished(model, model.activate(logits[None]), grid)[0].to(torch.uint8)
