"""Weights that compute nothing: NaN, infinities, negative variances."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from torch import Tensor


def require_finite(state: "Mapping[str, Tensor]", where: object) -> None:
    """Refuse weights of which a network makes NaN or, where a layer swallows that, a plausible wrong mask.

    Args:
        state: state dict, buffers included.
        where: it is from, such as a file.

    Raises:
        SegzooError: naming the tensor.
    """
    if (name := first_not_finite(state)) is not None:
        raise SegzooError(
            f"the weights in {where} are not finite: {name} holds NaN, an infinite value or a negative variance, so "
            "that no mask of theirs means anything; take weights of before, or train anew"
        )


def first_not_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor with a value that is NaN or infinite, or a variance below 0; else None.

    Args:
        state: state dict; what in it is no floating tensor counts as finite.
    """
    return next((name for name, value in state.items() if is_floating(value) and not is_finite(name, value)), None)


def is_floating(value: Any) -> bool:
    """Return whether something is a tensor of floating numbers, without importing torch."""
    return bool(getattr(value, "is_floating_point", bool)())


def is_finite(name: str, value: "Tensor") -> bool:
    """Return whether a tensor holds finite values alone and, of batch norm's variances, none below 0."""
    finite = value.isfinite().all()
    if name.endswith("running_var"):
        finite &= (value >= 0).all()
    return bool(finite)
