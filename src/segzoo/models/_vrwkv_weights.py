"""Vision-RWKV's published weights in the encoder of a Med-URWKV."""

import math
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from segzoo.checkpoints.encoder import read_stored
from segzoo.checkpoints.files import read_listed
from segzoo.checkpoints.fill import LoadReport
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.folder_config import FolderConfig
from segzoo.checkpoints.names import WEIGHTS
from segzoo.checkpoints.state import State, parse_state, unwrapped
from segzoo.checkpoints.weights import read_bytes
from segzoo.errors import MissingError, SegzooError
from segzoo.hub.find import open_stored
from segzoo.hub.listing import list_encoders
from segzoo.models._fetched import fetch_weights
from segzoo.nn.adapt import adapt_input_channels
from segzoo.nn.vrwkv import resize_positions

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


HUB_REPOSITORY = "OpenGVLab/Vision-RWKV"
HUB_FILES = {  # what encoder_weights may name -> file of each size
    "imagenet": {
        "tiny": "vrwkv_t_in1k_224.pth",
        "small": "vrwkv_s_in1k_224.pth",
        "base": "vrwkv_b_in1k_224.pth",
        "large": "vrwkv_l_in22k_192.pth",
    },
    "ade20k": {
        size: f"upernet_vrwkv_adapter_{size}_512_160k_ade20k.pth" for size in ("tiny", "small", "base", "large")
    },
}

FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin", ".ckpt"}  # which no checkpoint's name has
FIRST_LAYERS = ("patch_embed.projection.weight", "spm.stem.0.weight")  # those that see the image
LAYER_SCALE = r"(encoder\.)?layers\.\d+\.gamma[12]"
ADAPTER = r"(spm|interactions|up|norm[1-4])\..*|level_embed"
BACKBONE = rf"(patch_embed|layers|ln1)\..*|pos_embed|{ADAPTER}"


def read_encoder_file(source: str, size: str) -> tuple[Path, bytes, FolderConfig | None]:
    """Read weights of an encoder.

    Args:
        source: a local file, a checkpoint's name or folder, or "imagenet" or "ade20k" for Vision-RWKV's own from the
            Hub or its local cache.
        size: of the encoder, of those on the Hub.

    Returns:
        The file, its content, and the config of the checkpoint that it is part of, whose hash it has; None where it is
        part of none.

    Raises:
        MissingError: there is no such file or checkpoint, or it cannot be fetched.
        SegzooError: the file is not what the Hub holds, or not what its checkpoint was saved with.
    """
    if source in HUB_FILES:
        return (*fetch_weights(HUB_REPOSITORY, HUB_FILES[source][size]), None)
    file = Path(source)
    if not file.is_file():
        file = file_of_checkpoint(source)
    config = config_beside(file)
    content = read_bytes(file) if config is None else read_listed(file.parent, config, file.name)
    return file, content, config


def file_of_checkpoint(source: str) -> Path:
    """Return the weights of a checkpoint: an encoder's, or a whole Med-URWKV's.

    Raises:
        MissingError: there is none of that name.
        SegzooError: it is damaged.
    """
    if Path(source).suffix in FILE_SUFFIXES:
        raise MissingError(
            f"encoder_weights: there is no file {source}; give a file of Vision-RWKV's weights, or one of "
            f"{', '.join([*HUB_FILES, *list_encoders()])}"
        )
    try:
        return open_stored(source).folder / WEIGHTS
    except MissingError as error:
        raise MissingError(
            f"encoder_weights: {error}; a file of Vision-RWKV's weights does, too, or {' or '.join(HUB_FILES)}"
        ) from error


def config_beside(file: Path) -> FolderConfig | None:
    """Read the config of the checkpoint that this file of weights is part of; None where it is part of none."""
    with suppress(SegzooError):
        config = read_stored(file.parent)
        if file.name in config.sha256:
            return config
    return None


@dataclass
class EncoderReport(LoadReport):
    """Report of filling a model's encoder; the names are the model's, but those of ``ignored`` the file's.

    ``adapted`` are first layers for other channels and positions for another grid, ``initialised`` the encoder's
    tensors that the file lacks, ``ignored`` the file's heads.
    """

    def __str__(self) -> str:
        """Say it in one line; the tensors that are not as stored are counted by the part they belong to."""
        lists = (("adapted", self.adapted), ("not in it", self.initialised), ("not used", self.ignored))
        parts = [f"{what}: {count_by_part(names)}" for what, names in lists if names]
        return "; ".join([f"{len(self.loaded)} tensors of the encoder loaded from {self.source}", *parts])


def count_by_part(names: Iterable[str]) -> str:
    """Count the tensors of each part, as in ``3 decode_head, 1 level_embed``."""
    counts = Counter(name.removeprefix("encoder.").split(".")[0] for name in names)
    return ", ".join(f"{count} {part}" for part, count in counts.items())


def vrwkv_backbone(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """Take a file's Vision-RWKV by the original's bare names, and the names of what else there is (heads)."""
    for prefix in ("backbone.", "encoder."):  # OpenMMLab's, and that of our own checkpoints
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own:
            return own, [key for key in state if not key.startswith(prefix)]
    heads = [key for key in state if not re.fullmatch(BACKBONE, key)]
    return {key: value for key, value in state.items() if key not in heads}, heads


def vrwkv_names(state: State, expected: State, prefix: str = "") -> dict[str, Tensor]:
    """Take a file's Vision-RWKV under the names of ``expected``; the layer scales of a file without any are 1."""
    ours = {prefix + name: value for name, value in vrwkv_backbone(state)[0].items()}
    if has_layer_scales(ours):
        return ours
    return ours | {name: one.new_ones(one.shape) for name, one in expected.items() if re.fullmatch(LAYER_SCALE, name)}


def has_layer_scales(state: State) -> bool:
    """Tell whether a Vision-RWKV scales its layers: the original's blocks all do, or none."""
    return any(re.fullmatch(LAYER_SCALE, name) for name in state)


def load_vrwkv_encoder(model: "SegmentationNetwork", path: Path, content: bytes) -> EncoderReport:
    """Fill the encoder of ``model`` from a file of Vision-RWKV weights, and say what was used.

    Where the file has only the trunk (ImageNet weights), the adapter keeps its own values.

    Args:
        model: its ``encoder`` is filled, in place.
        path: safetensors, or a PyTorch file (read as plain tensors only), in any of the original's containers.
        content: of the file.

    Raises:
        SegzooError: the file cannot be read safely, holds something else, another size or form, or is not finite.
    """
    stored, heads = vrwkv_backbone(unwrapped(parse_state(content, path)))
    encoder: Any = model.encoder
    own = encoder.state_dict()
    refuse_other_encoders(stored, own, path)
    report = EncoderReport(str(path), ignored=heads + [name for name in stored if name not in own])
    for name, value in own.items():
        given = stored.get(name)
        if given is None:
            report.initialised.append(f"encoder.{name}")
            own[name] = value.new_ones(value.shape) if re.fullmatch(LAYER_SCALE, name) else value
            continue
        fitted = fitted_to_images(name, given, value)
        (report.loaded if fitted is given else report.adapted).append(f"encoder.{name}")
        if fitted.shape != value.shape:
            raise SegzooError(
                f"encoder_weights: {path} does not fit this encoder, since {name} is {list(given.shape)} there and "
                f"{list(value.shape)} here; give a file of the model's own form and size"
            )
        own[name] = fitted
    encoder.load_state_dict(own)
    require_finite(encoder.state_dict(), f"encoder_weights: {path}")  # in the encoder's type
    if report.adapted or report.initialised or report.ignored:
        report.log()
    return report


def refuse_other_encoders(stored: State, own: State, path: Path) -> None:
    """Refuse a file that is not of the encoder's size, or has parts that the encoder lacks."""
    if not all(isinstance(value, Tensor) for value in stored.values()) or vrwkv_size(stored) is None:
        raise SegzooError(f"encoder_weights: {path} holds no Vision-RWKV weights; give one of its checkpoints")
    if vrwkv_size(stored) != vrwkv_size(own):
        there, here = ("{} channels and {} blocks".format(*vrwkv_size(state) or ()) for state in (stored, own))
        raise SegzooError(
            f"encoder_weights: {path} holds a Vision-RWKV of {there}, and this model's has {here}; give the file or "
            "build the model (med_urwkv_t, _s or _b) of the other size"
        )
    adapter = any(re.fullmatch(ADAPTER, name) for name in stored)
    if adapter and "level_embed" not in own:
        raise SegzooError(
            f"encoder_weights: {path} holds the adapter form of Vision-RWKV, and this model's encoder is plain; build "
            "it with encoder='adapter', or give an ImageNet classification checkpoint"
        )
    may_lack = r".*\.num_batches_tracked" + ("" if adapter else f"|{ADAPTER}")
    may_lack += "" if has_layer_scales(stored) else f"|{LAYER_SCALE}"
    wrong = [name for name in own if name not in stored and not re.fullmatch(may_lack, name)]
    wrong += [
        name for name in stored if name not in own and not name.startswith("ln1.")
    ]  # the adapter has no last norm
    if wrong:
        raise SegzooError(
            f"encoder_weights: {path} does not fit this encoder: {len(wrong)} tensors are missing or unknown, the "
            f"first {wrong[0]}; give a file of the model's own form and size"
        )


def vrwkv_size(state: State) -> tuple[int, int] | None:
    """Channels and blocks of a Vision-RWKV; None where it is not one."""
    if "pos_embed" not in state or "patch_embed.projection.weight" not in state:
        return None
    return state["pos_embed"].shape[-1], sum(bool(re.fullmatch(r"layers\.\d+\.ln1\.weight", key)) for key in state)


def fitted_to_images(name: str, given: Tensor, own: Tensor) -> Tensor:
    """Change a tensor that belongs to images of other channels or another size to ours; else return it as it is."""
    if name in FIRST_LAYERS:
        return adapt_input_channels(given, own.shape[1])
    if name == "pos_embed" and given.shape != own.shape:
        old, new = (math.isqrt(positions.shape[1]) for positions in (given, own))
        if given.shape[1] == old * old:  # else the grid is anybody's guess, and the file is refused
            return resize_positions(given.float(), (old, old), (new, new))
    return given
