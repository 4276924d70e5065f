"""LV-UNet: torchvision's MobileNetV3 inside the original, timm's inside ours."""

from torch import Tensor

from segzoo.checkpoints.state import State, renamed
from segzoo.models.lv_unet import ENCODER_NORM_EPS, EXPANDING_PAIRS, SEPARABLE_PAIRS

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
    """List prefixes of the original LV-UNet and ours."""
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
    """Put the original LV-UNet under our names; its fused form leaves the MobileNet's norms, which ours folds too."""
    from torch.nn.utils.fusion import fuse_conv_bn_weights

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
    """List every convolution of LV-UNet's encoder and the norm after it, by our names."""
    pairs = [("encoder.conv_stem", "encoder.bn1")]
    for block, _ in LV_UNET_LAYERS.values():
        names = SEPARABLE_PAIRS if block == "0.0" else EXPANDING_PAIRS
        pairs += [(f"encoder.blocks.{block}.{conv}", f"encoder.blocks.{block}.{norm}") for conv, norm in names]
    return pairs
