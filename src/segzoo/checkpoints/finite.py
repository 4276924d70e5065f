"""Weights that are no numbers: refused wherever a state dict comes in or goes out."""

from collections.abc import Mapping
from typing import Any

from segzoo.errors import SegzooError


def require_finite(state: Mapping[str, Any], where: object) -> None:
    """Refuse a state dict that holds NaN, infinity, or a variance below 0, of which a network makes plausible masks.

    Args:
        state: name -> tensor, buffers included; what is no floating tensor is passed over.
        where: holds it, for the sentence.

    Raises:
        SegzooError: naming the first such tensor.

    Example:
        >>> import torch
        >>> from segzoo.checkpoints.finite import require_finite
        >>> require_finite({"head.bias": torch.zeros(2), "epoch": 3}, "last.ckpt")
    """
    import torch

    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not value.numel() or value.is_meta:
            continue
        values = value.detach()
        least, most = torch.aminmax(values.float() if values.itemsize < 2 else values)  # NaN passes through
        if not (torch.isfinite(least) and torch.isfinite(most)):
            raise SegzooError(
                f"{where} holds NaN or infinity in {name}, as a training that diverged or a damaged file leaves it; "
                "take weights from before that"
            )
        if name.endswith("running_var") and least < 0:
            raise SegzooError(
                f"{where} holds a variance below 0 in {name}, which no training gives; take the weights from where "
                "they were made"
            )
