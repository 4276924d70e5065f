"""State dicts of the original repositories, under the names of ours.

Every table below pairs the original's names with ours; nothing is guessed. A conversion ends in a strict
comparison of names and shapes with the model it is for.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.state import State, read_state, renamed, unwrapped
from segzoo.conversion.cmunext import cmunext_rules
from segzoo.conversion.lv_unet import lv_unet_names
from segzoo.conversion.mednext import mednext_names
from segzoo.errors import SegzooError
from segzoo.models._vrwkv_weights import vrwkv_names
from segzoo.registry import create_model

if TYPE_CHECKING:
    from torch import nn


LAMBDA = "deep_training_lambda"


def convert(source: str | Path | State, model: "str | nn.Module") -> dict[str, Tensor]:
    """Turn an original repository's weights into a state dict that ``model`` loads strictly.

    Args:
        source: a state dict, or a file: safetensors, or a PyTorch file (read as plain tensors only). One of a model of
            ours stays as it is.
        model: the model to convert for, or its name (built with its default arguments). For LV-UNet's fused
            weights give ``create_model("lv_unet", deployed=True)``. Vision-RWKV's weights convert for a Med-URWKV
            whose encoder has the form and size of the file, or for a bare :class:`segzoo.nn.vrwkv.VisionRWKV` or
            :class:`segzoo.nn.vrwkv_adapter.VRWKVAdapter`; heads in the file are left out. For MONAI's MedNeXt-B, M
            and L give a model with their ``down_expansion``: (2, 3, 4, 4), for L (3, 4, 8, 8). A MedNeXt that was made
            without residual connections (``do_res=False``, ``do_res_up_down=False``) is another network than ours and
            is refused.

    Returns:
        A new state dict. What the original does not store (LV-UNet's λ, with a warning; all of Med-URWKV but its
        encoder; heads of deep supervision, where a MedNeXt was saved without) is taken from ``model``.

    Raises:
        MissingError: there is no such file or model.
        SegzooError: the file cannot be read safely, or holds other tensors than the model's.

    Example:
        >>> import segzoo
        >>> model = segzoo.create_model("cmunext_s")
        >>> original = model.state_dict()  # in practice a file: segzoo.convert("cmunext.pth", model)
        >>> model.load_state_dict(segzoo.convert(original, model))
        <All keys matched successfully>
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
    require_finite(converted, source if isinstance(source, str | Path) else "the state dict")
    if LAMBDA in converted and LAMBDA not in ours:
        warnings.warn(
            f"The file does not say how far deep training was: λ stays {converted[LAMBDA].item():g}, as in the model. "
            f"For weights that were trained to the end it is 1: model.{LAMBDA}.fill_(1) after load_state_dict.",
            stacklevel=2,
        )
    return converted


# ---- Vision-RWKV: our names are the original's, so that only containers, prefixes and heads have to go


@dataclass(frozen=True)
class Original:
    """Way from an original repository's state dict to ours.

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
