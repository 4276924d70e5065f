"""Encoders' checkpoints: written, loaded, and found to compute what they computed where they were published."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segzoo import limits
from segzoo.checkpoints.compare import ROUNDING, equal_words, relative_difference
from segzoo.checkpoints.encoder import Encoder, EncoderConfig
from segzoo.checkpoints.encoder_card import render_encoder_card
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.files import read_listed
from segzoo.checkpoints.fill import at_least_float32
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.folder import replacing
from segzoo.checkpoints.folder_config import FIRST_VERSION
from segzoo.checkpoints.names import CARD, CONFIG, PROBE, RECIPE, WEIGHTS
from segzoo.checkpoints.opened import StoredEncoder
from segzoo.checkpoints.weights import parse_safetensors, sha256, write_safetensors
from segzoo.errors import MissingError, SegzooError, first_line
from segzoo.nn.vrwkv_sizes import ENCODERS
from segzoo.preprocessing.image import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


def build_encoder(encoder: Encoder) -> nn.Module:
    """Return an encoder of an architecture and a size, plain, at random weights and in eval mode.

    Raises:
        MissingError: this version knows no such encoder.
    """
    if encoder.name != "vrwkv" or encoder.size not in ENCODERS:
        raise MissingError(
            f"this version knows no encoder {encoder}, but vrwkv in the sizes {', '.join(ENCODERS)}; update segzoo"
        )
    return ENCODERS[encoder.size].build("plain", 3, drop_path_rate=0.0).eval()


def save_encoder(
    network: nn.Module,
    folder: str | Path,
    encoder: Encoder,
    image: "Tensor",
    *,
    recipe: Path,
    version: str = FIRST_VERSION,
    data: Mapping[str, Any],
    metrics: Mapping[str, Any],
    licences: Licences,
) -> Path:
    """Write an encoder as a checkpoint folder, in float16 but for norms and biases, in place of an older one there.

    Args:
        network: of `build_encoder`, trained.
        folder: where to; its name is the checkpoint's.
        encoder: architecture and size.
        image: for the probe, uint8 [H, W, 3].
        recipe: file that says how it was trained; stored as train.yaml.
        version: of the checkpoint.
        data: images that it has seen.
        metrics: what was measured.
        licences: of code, weights and data.

    Returns:
        The folder.

    Raises:
        SegzooError: a weight is not finite, the folder holds something else, or it cannot be written.
    """
    folder = Path(folder)
    state = {name: value.half() if value.ndim > 1 else value for name, value in network.state_dict().items()}
    require_finite(state, "this encoder in float16")
    stored = build_encoder(encoder)
    stored.load_state_dict({name: at_least_float32(value) for name, value in state.items()})
    with replacing(folder) as draft:
        write_safetensors(state, draft / WEIGHTS)
        write_safetensors({"image": image, "features": compute_features(stored, image)}, draft / PROBE)
        (draft / RECIPE).write_bytes(recipe.read_bytes())
        config = EncoderConfig.of(
            encoder,
            state,
            name=folder.resolve().name,
            version=version,
            data=data,
            metrics=metrics,
            licences=licences,
            sha256={file: sha256(draft / file) for file in (WEIGHTS, PROBE, RECIPE)},
        )
        (draft / CONFIG).write_text(config.text(), encoding="utf-8")
        (draft / CARD).write_text(render_encoder_card(config), encoding="utf-8")
    return folder


def load_encoder(checkpoint: StoredEncoder) -> nn.Module:
    """Return an encoder with the weights of its checkpoint.

    Raises:
        MissingError: this version knows no such encoder.
        SegzooError: the weights are another encoder's, or not finite.
    """
    network, file = build_encoder(checkpoint.config.encoder), checkpoint.folder / WEIGHTS
    stored = parse_safetensors(read_listed(checkpoint.folder, checkpoint.config, WEIGHTS), file)
    try:
        network.load_state_dict({name: at_least_float32(value) for name, value in stored.items()})
    except RuntimeError as error:
        raise SegzooError(
            f"{file} does not hold a {checkpoint.config.encoder} ({first_line(error)}); fetch it again"
        ) from error
    require_finite(network.state_dict(), f"the encoder {checkpoint.folder}")
    return network


def compute_features(network: nn.Module, image: "Tensor") -> "Tensor":
    """Compute an encoder's last map [C, h, w] of an image, uint8 [H, W, 3], on the CPU."""
    prepared = Preprocessing(image_size=None)(image.numpy())
    with torch.inference_mode():
        maps = network.cpu().eval()(prepared[None])
    return maps[-1][0].contiguous()


def computed_features(checkpoint: StoredEncoder) -> str:
    """Load an encoder and compute its probe.

    Returns:
        What was found, in half a sentence.

    Raises:
        SegzooError: it cannot be loaded, or its features differ by more than rounding.
    """
    network, file = load_encoder(checkpoint), checkpoint.folder / PROBE
    if PROBE not in checkpoint.config.sha256:
        return f"it has no {PROBE}, so nothing was computed"
    probe = parse_safetensors(read_listed(checkpoint.folder, checkpoint.config, PROBE), file)
    image, expected = (probe.get(name, torch.empty(0)) for name in ("image", "features"))
    if image.ndim != 3 or image.shape[-1] != 3 or expected.ndim != 3 or min(image.shape) == 0:
        raise SegzooError(f"{file} must hold an image [H, W, 3] and its features; fetch the checkpoint again")
    limits.NETWORK_INPUT.check(image.numel(), f"{file} holds an image of")
    difference = relative_difference(compute_features(network, image), expected)
    if not difference <= ROUNDING:  # NaN included
        raise SegzooError(
            f"{checkpoint.folder} computes other features on this machine than where it was published: they differ by "
            f"up to {difference:.1e} of the largest; do not start from it here, or try another torch than "
            f"{torch.__version__}"
        )
    return f"its features are {equal_words(difference)}"
