"""The original repositories' state dicts, under the names of ours.

Every table below pairs the original's names with ours; nothing is guessed. A conversion ends in a strict
comparison of names and shapes with the model it is for.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segzoo.errors import MissingError, SegzooError
from segzoo.registry import create_model

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

State = Mapping[str, Tensor]

# Lightning, DataParallel and training scripts wrap a state dict in one of these
CONTAINERS = ("state_dict", "model_state_dict", "model", "network")


def convert(source: str | Path | State, model: "str | SegmentationModule") -> dict[str, Tensor]:
    """An original repository's weights as a state dict that ``model`` loads strictly.

    Args:
        source: a state dict, or a file: safetensors, or a PyTorch file (read as plain tensors only).
        model: the model to convert for, or its name (built with its default arguments). For LV-UNet's fused
            weights give ``create_model("lv_unet", deployed=True)``.

    Returns:
        A new state dict. What the original does not store (LV-UNet's λ) is taken from ``model``.

    Raises:
        MissingError: there is no such file or model.
        SegzooError: the file cannot be read safely, or holds other tensors than the model's.
    """
    target = create_model(model) if isinstance(model, str) else model
    state = unwrapped(source if isinstance(source, Mapping) else read_state(Path(source)))
    rename = RENAMERS.get(type(target).__name__)
    if rename is None:
        raise SegzooError(f"no original weights are known for {type(target).__name__}")
    expected = target.state_dict()
    ours = rename(state)
    converted = {name: ours[name].clone() if name in ours else expected[name].clone() for name in expected}
    missing = [name for name in expected if name not in ours and name not in NOT_IN_ORIGINALS]
    surplus = [name for name in ours if name not in expected]
    reshaped = [name for name in ours if name in expected and ours[name].shape != expected[name].shape]
    if missing or surplus or reshaped:
        raise SegzooError(
            f"these are not the weights of this {type(target).__name__}: {len(missing)} tensors are missing, "
            f"{len(surplus)} unknown, {len(reshaped)} of another shape (the first: "
            f"{(missing + surplus + reshaped)[0]}); build the model with the in_channels, num_classes and form "
            "of the file"
        )
    return converted


def read_state(path: Path) -> dict[str, Any]:
    """The tensors in a safetensors or PyTorch file; nothing in it is executed."""
    import torch

    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only refuses everything but tensors and plain containers
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise SegzooError(f"{path} is not a readable {path.suffix} file ({str(error).splitlines()[0]})") from None
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise SegzooError(
            f"{path} holds more than tensors and is not read, since a pickle can run code; save its state dict alone"
        ) from None


def unwrapped(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict inside a training script's container, without DataParallel's prefix."""
    for key in CONTAINERS:
        if isinstance(state.get(key), Mapping):
            return unwrapped(state[key])
    return {key.removeprefix("module."): value for key, value in state.items()}


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
    rules = [(r"firstconv\.0", "encoder.conv_stem"), (r"firstconv\.1", "encoder.bn1")]
    for original, (block, squeeze) in LV_UNET_LAYERS.items():
        if original == "encoder1.0":  # the only layer without an expanding convolution
            parts = [("conv_dw", "bn1"), ("conv_pw", "bn2")]
        else:
            parts = [("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")]
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

NOT_IN_ORIGINALS = frozenset({"deep_training_lambda"})
RENAMERS: dict[str, Callable[[State], dict[str, Tensor]]] = {
    "LVUNet": lambda state: renamed(state, lv_unet_rules()),
    "CMUNeXt": lambda state: renamed(state, cmunext_rules()),
}
