"""MedNeXt: the original's names, and those of MONAI's port."""

import re

from torch import Tensor

from segzoo.checkpoints.state import State, renamed
from segzoo.errors import SegzooError

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
    """Map stages, blocks and heads of both to ours; the decoder's are counted from the coarsest in ours."""
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
    """Put the original's MedNeXt, or MONAI's, under our names and in our shapes.

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
    refuse_missing_residuals(ours, own)
    ported = any(name.startswith("enc_stages.") for name in state)
    if ported:
        ours |= {name: own[name].new_zeros(own[name].shape) for name in own if re.match(r"down\.\d\.grn\.", name)}
        refuse_other_down_blocks(ours, own)
    if any(name.startswith("auxiliary_heads.") for name in own):
        return ours
    return {name: value for name, value in ours.items() if not name.startswith("auxiliary_heads.")}


def refuse_missing_residuals(state: State, own: State) -> None:
    """Refuse a MedNeXt whose blocks add nothing to what they take, by the convolutions that would bring it to size.

    Only those between the levels need such convolutions; the original leaves the other residuals out no more often.
    """
    names = [name for name in own if re.fullmatch(r"(up|down)\.\d\.residual\.weight", name)]
    others = [f"{name.removesuffix('residual.weight')}expand.weight" for name in names]
    if names and all(name in state for name in others) and not any(name in state for name in names):
        raise SegzooError(
            "this MedNeXt was made without residual connections between its levels (do_res_up_down=False, as with "
            "do_res=False), which is another network than ours; train it with them, or predict with its own code"
        )


def refuse_other_down_blocks(state: State, own: State) -> None:
    """Refuse MONAI's MedNeXt-B, M and L, which are other networks than the original's; say how to build them."""
    names = [f"down.{index}.expand.weight" for index in range(4)]
    if not all(name in state and name in own for name in names):
        return
    ratios = [tuple(tensors[name].shape[0] // tensors[name].shape[1] for name in names) for tensors in (state, own)]
    if ratios[0] != ratios[1]:
        raise SegzooError(
            f"MONAI's MedNeXt expands by {ratios[0]} in its down blocks, and this model by {ratios[1]}; build the "
            f"model with down_expansion={ratios[0]}"
        )
