"""Weights of timm's models, from the Hub or a file, for an encoder that is a part of one of them."""

from pathlib import Path

import timm
from torch import nn

from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.weights import parse_safetensors, read_bytes
from segzoo.errors import MissingError, SegzooError
from segzoo.models._fetched import fetch_weights
from segzoo.nn.adapt import adapt_input_channels


def load_encoder_weights(encoder: nn.Module, name: str, source: str, in_channels: int) -> None:
    """Fill the encoder from timm's ImageNet weights ("imagenet") or from a local safetensors file.

    Raises:
        MissingError: no such file, or it cannot be fetched.
        SegzooError: the file is not safetensors, not of this encoder, or not finite.
    """
    if source == "imagenet":
        file, content = fetch_imagenet_weights(name)
    elif (file := Path(source)).is_file():
        content = read_bytes(file)
    else:
        raise MissingError(f"encoder_weights: there is no file {source}; give a safetensors file, or 'imagenet'")
    stored = parse_safetensors(content, file)
    # a published file may leave out how many batches the norms have seen; that is not a weight
    needed = {key: value for key, value in encoder.state_dict().items() if not key.endswith("num_batches_tracked")}
    if "conv_stem.weight" in stored:
        stored["conv_stem.weight"] = adapt_input_channels(stored["conv_stem.weight"], in_channels)
    wrong = [key for key in needed if key not in stored or stored[key].shape != needed[key].shape]
    if wrong:
        raise SegzooError(
            f"encoder_weights: {file} does not hold timm's {name}: {len(wrong)} of {len(needed)} tensors are missing "
            f"or of another shape, the first {wrong[0]}; give the file that belongs to encoder={name!r}"
        )
    encoder.load_state_dict({**encoder.state_dict(), **{key: stored[key] for key in needed}})
    require_finite(encoder.state_dict(), f"encoder_weights: {file}")  # in the encoder's type


def fetch_imagenet_weights(name: str) -> tuple[Path, bytes]:
    """Fetch the default weights that timm names for ``name``, from the Hub or its local cache."""
    pretrained = timm.get_pretrained_cfg(name)
    repository = pretrained.hf_hub_id if pretrained else None
    if repository is None:
        raise MissingError(f"timm names no pretrained weights for {name!r}; give encoder_weights a local file")
    return fetch_weights(repository, "model.safetensors")
