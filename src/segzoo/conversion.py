"""The original repositories' state dicts, under the names of ours.

Every table below pairs the original's names with ours; nothing is guessed. A conversion ends in a strict
comparison of names and shapes with the model it is for.
"""

import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from torch import Tensor

from segzoo.errors import MissingError, SegzooError
from segzoo.loading import LoadReport
from segzoo.registry import create_model
from segzoo.weights import read_safetensors

if TYPE_CHECKING:
    from torch import nn

    from segzoo.models.med_urwkv import MedURWKV

State = Mapping[str, Tensor]

LAMBDA = "deep_training_lambda"
# Lightning, DataParallel and training scripts wrap a state dict in one of these
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "network")


def convert(source: str | Path | State, model: "str | nn.Module") -> dict[str, Tensor]:
    """An original repository's weights as a state dict that ``model`` loads strictly.

    Args:
        source: a state dict, or a file: safetensors, or a PyTorch file (read as plain tensors only). One of a model of
            ours stays as it is.
        model: the model to convert for, or its name (built with its default arguments). For LV-UNet's fused
            weights give ``create_model("lv_unet", deployed=True)``. Vision-RWKV's weights convert for a Med-URWKV
            whose encoder has the form and size of the file, or for a bare :class:`segzoo.nn.vrwkv.VisionRWKV` or
            :class:`segzoo.nn.vrwkv_adapter.VRWKVAdapter`; heads in the file are left out. For MONAI's MedNeXt-B, M
            and L give a model with their ``down_expansion``: (2, 3, 4, 4), for L (3, 4, 8, 8).

    Returns:
        A new state dict. What the original does not store (LV-UNet's λ, with a warning; all of Med-URWKV but its
        encoder; heads of deep supervision, where a MedNeXt was saved without) is taken from ``model``.

    Raises:
        MissingError: there is no such file or model.
        SegzooError: the file cannot be read safely, or holds other tensors than the model's.
    """
    target = create_model(model) if isinstance(model, str) else model
    state = unwrapped(source if isinstance(source, Mapping) else read_state(Path(source)))
    original = ORIGINALS.get(type(target).__name__)
    if original is None:
        raise SegzooError(f"no original weights are known for {type(target).__name__}")
    expected = target.state_dict()
    ours = state if state.keys() == expected.keys() else original.rename(state, expected)
    converted = {name: ours[name].clone() if name in ours else expected[name].clone() for name in expected}
    optional = {name for name in expected if re.fullmatch(original.lacks, name)}
    spared = optional if optional.isdisjoint(ours) else set()  # a file that holds some of them has lost the others
    missing = [name for name in expected if name not in ours and name not in spared]
    surplus = [name for name in ours if name not in expected]
    reshaped = [name for name in ours if name in expected and ours[name].shape != expected[name].shape]
    if missing or surplus or reshaped:
        raise SegzooError(
            f"these are not the weights of this {type(target).__name__}: {len(missing)} tensors are missing, "
            f"{len(surplus)} unknown, {len(reshaped)} of another shape (the first: "
            f"{(missing + surplus + reshaped)[0]}); build the model with the in_channels, num_classes and form "
            "of the file"
        )
    if LAMBDA in converted and LAMBDA not in ours:
        warnings.warn(
            f"The file does not say how far deep training was: λ stays {converted[LAMBDA].item():g}, as in the model. "
            f"For weights that were trained to the end it is 1: model.{LAMBDA}.fill_(1) after load_state_dict.",
            stacklevel=2,
        )
    return converted


def read_state(path: Path) -> dict[str, Any]:
    """The tensors in a safetensors or PyTorch file; nothing in it is executed."""
    import torch

    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        # weights_only refuses everything but tensors and plain containers
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise SegzooError(
            f"{path} is no PyTorch file, or holds more than tensors and is not read, since a pickle can run code; save "
            "its state dict alone"
        ) from None
    except Exception as error:  # an empty or cut file ends in any of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SegzooError(f"{path} is not a readable {path.suffix} file ({reason})") from None


def unwrapped(state: Any) -> dict[str, Tensor]:
    """The tensors inside a training script's container, without DataParallel's prefix."""
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        kind = f"a {type(state).__name__}" + (" whose keys are no names" if isinstance(state, Mapping) else "")
        raise SegzooError(f"these weights are {kind}, not a state dict; save the state dict")
    for key in CONTAINERS:
        if isinstance(state.get(key), Mapping):
            return unwrapped(state[key])
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}  # and no epochs beside them
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def renamed(state: State, rules: list[tuple[str, str]]) -> dict[str, Tensor]:
    """``state`` with every key's first matching prefix replaced; a key that no rule knows keeps its name."""
    out = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            new, matched = re.subn(rf"^{pattern}(?=\.)", replacement, key)
            if matched:
                key = new
                break
        out[key] = value
    return out


# ---- LV-UNet: torchvision's MobileNetV3 inside the original, timm's inside ours

# the original's groups, layer by layer -> (timm's stage.block, has squeeze-and-excite)
LV_UNET_LAYERS = {
    "encoder1.0": ("0.0", False),
    "encoder1.1": ("1.0", False),
    "encoder2.0": ("1.1", False),
    "encoder2.1": ("2.0", True),
    "encoder2.2": ("2.1", True),
    "encoder3.0": ("2.2", True),
    "encoder3.1": ("3.0", False),
    "encoder3.2": ("3.1", False),
    "encoder3.3": ("3.2", False),
}


def lv_unet_rules() -> list[tuple[str, str]]:
    """Prefixes of the original LV-UNet and ours."""
    from segzoo.models.lv_unet import EXPANDING_PAIRS, SEPARABLE_PAIRS

    rules = [(r"firstconv\.0", "encoder.conv_stem"), (r"firstconv\.1", "encoder.bn1")]
    for original, (block, squeeze) in LV_UNET_LAYERS.items():
        parts = SEPARABLE_PAIRS if original == "encoder1.0" else EXPANDING_PAIRS  # that one layer does not expand
        positions = list(range(len(parts)))
        if squeeze:
            positions[-1] += 1  # squeeze-and-excite stands before the projection
            rules += [
                (rf"{original}\.block\.2\.fc1", f"encoder.blocks.{block}.se.conv_reduce"),
                (rf"{original}\.block\.2\.fc2", f"encoder.blocks.{block}.se.conv_expand"),
            ]
        for position, (conv, norm) in zip(positions, parts, strict=True):
            rules += [
                (rf"{original}\.block\.{position}\.0", f"encoder.blocks.{block}.{conv}"),
                (rf"{original}\.block\.{position}\.1", f"encoder.blocks.{block}.{norm}"),
            ]
    blocks = {f"stages.{index}": f"down.{index}" for index in range(3)}
    blocks |= {f"up_stages1.{index}": f"up.{index}" for index in range(3)}
    blocks |= {f"up_stages2.{index}": f"up.{index + 3}" for index in range(3)}
    blocks["final.0"] = "up.6"
    for original, block in blocks.items():
        rules += [
            (rf"{original}\.conv1\.0", f"{block}.conv.conv1"),
            (rf"{original}\.conv1\.1", f"{block}.conv.norm1"),
            (rf"{original}\.conv2\.0", f"{block}.conv.conv2"),
            (rf"{original}\.conv2\.1", f"{block}.conv.norm2"),
            (rf"{original}\.conv", f"{block}.conv"),  # fused
            (rf"{original}\.act\.bn", f"{block}.activation.norm"),
            (rf"{original}\.act", f"{block}.activation.conv"),
        ]
    return [*rules, (r"final\.1", "head")]


def lv_unet_names(state: State, own: State) -> dict[str, Tensor]:
    """The original LV-UNet under our names; its fused form leaves the MobileNet's norms, which ours folds as well."""
    from torch.nn.utils.fusion import fuse_conv_bn_weights

    from segzoo.models.lv_unet import ENCODER_NORM_EPS

    ours = renamed(state, lv_unet_rules())
    if "encoder.bn1.weight" in own or "deep_training_lambda" in own:
        return ours
    for conv, norm in encoder_pairs():
        parts = [f"{norm}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        if not {f"{conv}.weight", *parts} <= ours.keys():
            continue  # another file's: what is missing is told by who compares
        mean, variance, weight, bias = (ours.pop(part).double() for part in parts)
        ours.pop(f"{norm}.num_batches_tracked", None)
        kernel = ours[f"{conv}.weight"].double()
        folded = fuse_conv_bn_weights(kernel, None, mean, variance, ENCODER_NORM_EPS, weight, bias)
        for part, value in zip(("weight", "bias"), folded, strict=True):
            ours[f"{conv}.{part}"] = value.detach().to(own[f"{conv}.{part}"].dtype)
    return ours


def encoder_pairs() -> list[tuple[str, str]]:
    """Every convolution of LV-UNet's encoder and the norm after it, by our names."""
    from segzoo.models.lv_unet import EXPANDING_PAIRS, SEPARABLE_PAIRS

    pairs = [("encoder.conv_stem", "encoder.bn1")]
    for block, _ in LV_UNET_LAYERS.values():
        names = SEPARABLE_PAIRS if block == "0.0" else EXPANDING_PAIRS
        pairs += [(f"encoder.blocks.{block}.{conv}", f"encoder.blocks.{block}.{norm}") for conv, norm in names]
    return pairs


# ---- CMUNeXt


def cmunext_rules() -> list[tuple[str, str]]:
    """Prefixes of the original CMUNeXt and ours."""
    rules = [(rf"stem\.conv\.{part}", f"stem.{part}") for part in (0, 1)]
    for level in range(5):
        original, stage = rf"encoder{level + 1}", f"encoder.{level}"
        block, ours = rf"{original}\.block\.(\d+)", rf"{stage}.blocks.\1"
        rules += [
            (rf"{block}\.0\.fn\.0", rf"{ours}.depthwise.0"),
            (rf"{block}\.0\.fn\.2", rf"{ours}.depthwise.2"),
            (rf"{block}\.1", rf"{ours}.expand.0"),
            (rf"{block}\.3", rf"{ours}.expand.2"),
            (rf"{block}\.4", rf"{ours}.project.0"),
            (rf"{block}\.6", rf"{ours}.project.2"),
            (rf"{original}\.up\.conv\.0", f"{stage}.widen.0"),
            (rf"{original}\.up\.conv\.1", f"{stage}.widen.1"),
        ]
    for level in range(4):
        number = 5 - level  # the original counts its decoder from the bottom: 5 to 2
        stage = f"decoder.{level}"
        rules += [
            (rf"Up{number}\.up\.1", f"{stage}.reduce.0"),
            (rf"Up{number}\.up\.2", f"{stage}.reduce.1"),
        ]
        for position, layer in zip((0, 2, 3, 5, 6, 8), FUSION_LAYERS, strict=True):
            rules.append((rf"Up_conv{number}\.conv\.{position}", f"{stage}.{layer}"))
    return [*rules, ("Conv_1x1", "head")]


FUSION_LAYERS = ("separate.0", "separate.2", "expand.0", "expand.2", "project.0", "project.2")


# ---- MedNeXt: the original's names, and those of MONAI's port

MEDNEXT_LAYERS = {
    "conv1": "depthwise",
    "conv2": "expand",
    "conv3": "compress",
    "res_conv": "residual",
    "grn_gamma": "grn.gamma",
    "grn_beta": "grn.beta",
    "global_resp_gamma": "grn.gamma",
    "global_resp_beta": "grn.beta",
}


def mednext_parts() -> dict[str, str]:
    """Stages, blocks and heads of both and of ours; the decoder's are counted from the coarsest in ours."""
    parts = {r"bottleneck": "bottleneck", "stem": "stem", r"out_0\.conv_out": "head"}
    for index in range(4):
        from_coarsest = 3 - index
        parts |= {
            rf"enc_block_{index}": f"encoder.{index}",
            rf"down_{index}": f"down.{index}",
            rf"up_{index}": f"up.{from_coarsest}",
            rf"dec_block_{index}": f"decoder.{from_coarsest}",
            rf"out_{index + 1}\.conv_out": f"auxiliary_heads.{from_coarsest}",
            rf"enc_stages\.{index}": f"encoder.{index}",
            rf"down_blocks\.{index}": f"down.{index}",
            rf"up_blocks\.{index}": f"up.{index}",
            rf"dec_stages\.{index}": f"decoder.{index}",
            rf"out_blocks\.{index}\.conv_out": f"auxiliary_heads.{index}",
        }
    return parts


def mednext_names(state: State, own: State) -> dict[str, Tensor]:
    """The original's MedNeXt, or MONAI's, under our names and in our shapes.

    Both have heads and residuals as transposed 1x1 convolutions, which are plain ones with in- and output channels
    swapped. MONAI's has no response normalisation in its down blocks, which is ours at zero.
    """
    ours = {}
    for name, value in renamed(state, list(mednext_parts().items())).items():
        if name == "dummy_tensor":  # of the original; it takes no part in anything
            continue
        name = re.sub(r"(?<=\.)(\w+)(?=\.(weight|bias)$|$)", lambda layer: MEDNEXT_LAYERS.get(layer[1], layer[1]), name)
        if value.ndim > 1 and re.fullmatch(r"(head|auxiliary_heads\.\d|up\.\d\.residual)\.weight", name):
            value = value.transpose(0, 1)
        elif ".grn." in name:
            value = value.flatten()
        ours[name] = value
    ported = any(name.startswith("enc_stages.") for name in state)
    if ported:
        ours |= {name: own[name].new_zeros(own[name].shape) for name in own if re.match(r"down\.\d\.grn\.", name)}
        refuse_other_down_blocks(ours, own)
    if any(name.startswith("auxiliary_heads.") for name in own):
        return ours
    return {name: value for name, value in ours.items() if not name.startswith("auxiliary_heads.")}


def refuse_other_down_blocks(state: State, own: State) -> None:
    """MONAI's MedNeXt-B, M and L are other networks than the original's: say how to build them."""
    names = [f"down.{index}.expand.weight" for index in range(4)]
    if not all(name in state and name in own for name in names):
        return
    ratios = [tuple(tensors[name].shape[0] // tensors[name].shape[1] for name in names) for tensors in (state, own)]
    if ratios[0] != ratios[1]:
        raise SegzooError(
            f"MONAI's MedNeXt expands by {ratios[0]} in its down blocks, and this model by {ratios[1]}; build the "
            f"model with down_expansion={ratios[0]}"
        )


# ---- Vision-RWKV: our names are the original's, so that only containers, prefixes and heads have to go

FIRST_LAYERS = ("patch_embed.projection.weight", "spm.stem.0.weight")  # those that see the image
LAYER_SCALE = r"(encoder\.)?layers\.\d+\.gamma[12]"
ADAPTER = r"(spm|interactions|up|norm[1-4])\..*|level_embed"
BACKBONE = rf"(patch_embed|layers|ln1)\..*|pos_embed|{ADAPTER}"


@dataclass
class EncoderReport(LoadReport):
    """What filling a model's encoder did; the names are the model's, but those of ``ignored`` the file's.

    ``adapted`` are first layers for other channels and positions for another grid, ``initialised`` the encoder's
    tensors that the file lacks, ``ignored`` the file's heads.
    """

    def __str__(self) -> str:
        """One line; the tensors that are not as stored are counted by the part they belong to."""
        lists = (("adapted", self.adapted), ("not in it", self.initialised), ("not used", self.ignored))
        parts = [f"{what}: {count_by_part(names)}" for what, names in lists if names]
        return "; ".join([f"{len(self.loaded)} tensors of the encoder loaded from {self.source}", *parts])


def count_by_part(names: Iterable[str]) -> str:
    """``3 decode_head, 1 level_embed``: how many tensors there are of each part."""
    counts = Counter(name.removeprefix("encoder.").split(".")[0] for name in names)
    return ", ".join(f"{count} {part}" for part, count in counts.items())


def vrwkv_backbone(state: State) -> tuple[dict[str, Tensor], list[str]]:
    """A file's Vision-RWKV by the original's bare names, and the names of what else there is (heads)."""
    for prefix in ("backbone.", "encoder."):  # OpenMMLab's, and that of our own checkpoints
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if own:
            return own, [key for key in state if not key.startswith(prefix)]
    heads = [key for key in state if not re.fullmatch(BACKBONE, key)]
    return {key: value for key, value in state.items() if key not in heads}, heads


def vrwkv_names(state: State, expected: State, prefix: str = "") -> dict[str, Tensor]:
    """A file's Vision-RWKV under the names of ``expected``; the layer scales of a file without any are 1."""
    ours = {prefix + name: value for name, value in vrwkv_backbone(state)[0].items()}
    if has_layer_scales(ours):
        return ours
    return ours | {name: one.new_ones(one.shape) for name, one in expected.items() if re.fullmatch(LAYER_SCALE, name)}


def has_layer_scales(state: State) -> bool:
    """Whether a Vision-RWKV scales its layers: the original's blocks all do, or none."""
    return any(re.fullmatch(LAYER_SCALE, name) for name in state)


def load_vrwkv_encoder(model: "MedURWKV", path: Path) -> EncoderReport:
    """Fill the encoder of ``model`` from a file of Vision-RWKV weights, and say what was used.

    Where the file has only the trunk (ImageNet weights), the adapter keeps its own values.

    Args:
        model: its ``encoder`` is filled, in place.
        path: safetensors, or a PyTorch file (read as plain tensors only), in any of the original's containers.

    Raises:
        SegzooError: the file cannot be read safely, holds something else, or another size or form.
    """
    stored, heads = vrwkv_backbone(unwrapped(read_state(path)))
    own = model.encoder.state_dict()
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
    model.encoder.load_state_dict(own)
    if report.adapted or report.initialised or report.ignored:
        print(report)  # nothing is changed without a word
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
    """Channels and blocks of a Vision-RWKV; None where it is none."""
    if "pos_embed" not in state or "patch_embed.projection.weight" not in state:
        return None
    return state["pos_embed"].shape[-1], sum(bool(re.fullmatch(r"layers\.\d+\.ln1\.weight", key)) for key in state)


def fitted_to_images(name: str, given: Tensor, own: Tensor) -> Tensor:
    """A tensor that belongs to images of other channels or another size, changed to ours; else the same one."""
    from segzoo.nn.adapt import adapt_input_channels
    from segzoo.nn.vrwkv import resize_positions

    if name in FIRST_LAYERS:
        return adapt_input_channels(given, own.shape[1])
    if name == "pos_embed" and given.shape != own.shape:
        old, new = (math.isqrt(positions.shape[1]) for positions in (given, own))
        if given.shape[1] == old * old:  # else the grid is anybody's guess, and the file is refused
            return resize_positions(given.float(), (old, old), (new, new))
    return given


@dataclass(frozen=True)
class Original:
    """How an original repository's state dict becomes ours.

    Attributes:
        rename: called with the original's and our model's state dict.
        lacks: pattern of the names that the original does not store.
    """

    rename: Callable[[State, State], dict[str, Tensor]]
    lacks: str = "(?!)"  # matches nothing


ORIGINALS = {
    "LVUNet": Original(lv_unet_names, lacks=LAMBDA),
    "CMUNeXt": Original(lambda state, _: renamed(state, cmunext_rules())),
    "MedNeXt": Original(mednext_names, lacks=r"auxiliary_heads\..*"),
    "VisionRWKV": Original(vrwkv_names),
    "VRWKVAdapter": Original(vrwkv_names),
    "MedURWKV": Original(lambda state, own: vrwkv_names(state, own, "encoder."), lacks=r"(?!encoder\.).*"),
}
