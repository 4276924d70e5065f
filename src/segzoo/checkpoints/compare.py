"""Distance between two tensors."""

from torch import Tensor

ROUNDING = 1e-4  # of the largest value: processors round differently, and networks are tens of layers deep


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors, in units of the largest value expected."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


def equal_words(difference: float) -> str:
    """Say how equal two tensors are whose relative difference is rounding."""
    return "equal" if difference == 0 else f"equal up to rounding ({difference:.1e})"
