"""Distance between two tensors."""

from torch import Tensor


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, in units of the largest value expected."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())
