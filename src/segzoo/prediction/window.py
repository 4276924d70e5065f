"""Sliding window. Torch is imported when it slides, since an image in an exported file needs none."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from segzoo.errors import MissingPackageError, SegzooError

if TYPE_CHECKING:
    from torch import Tensor, device

BATCH_VOXELS = 128**3  # on a GPU, small windows run together until they hold as many; a CPU gains nothing by it


def require_overlap(overlap: float) -> None:
    """Refuse what windows cannot share of their length.

    Raises:
        SegzooError: saying so.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")


def slide(
    run: "Callable[[Tensor], Any]",
    batch: "Tensor",
    patch: Sequence[int],
    *,
    overlap: float = 0.5,
    device: "device | str" = "cpu",
    progress: bool = False,
) -> "Tensor":
    """Return probabilities of a preprocessed batch, in one piece or by a sliding window.

    Windows have the patch's size, or the batch's own along axes where that is smaller. They weigh most at their centre
    (a Gaussian, its standard deviation an eighth of the window) and are averaged after the activation, as in nnU-Net.
    Each is put in place on the CPU, so that the memory needed beyond the result does not depend on how many there are.

    Args:
        run: from windows ``[B, C, *S]`` to their probabilities ``[B, K, *S]``, tensors or arrays.
        batch: ``[B, C, *S]`` on any device.
        patch: the window's sides.
        overlap: part of its length that a window shares with the next one along each axis, at least 0 and below 1.
        device: where windows run.
        progress: show a bar on stderr that counts the batches of windows.

    Returns:
        ``[B, K, *S]`` on the CPU.

    Raises:
        MissingPackageError: monai is not installed and windows have to be put together, as under torch.hub may be.
        SegzooError: ``overlap`` is out of range.
    """
    import torch

    require_overlap(overlap)
    device = torch.device(device)
    size = tuple(batch.shape[2:])
    window = tuple(min(sides) for sides in zip(patch, size, strict=True))
    if window == size:
        return torch.as_tensor(run(batch)).cpu()
    try:
        from monai.inferers.utils import sliding_window_inference
    except ImportError:
        raise MissingPackageError(
            "volumes larger than the model's window need another package: pip install monai"
        ) from None
    stitched = sliding_window_inference(
        batch.float(),  # in which windows are added up
        window,
        1 if device.type == "cpu" else max(1, BATCH_VOXELS // math.prod(window)),
        lambda windows: torch.as_tensor(run(windows)),
        overlap=overlap,
        roi_weight_map=window_weights(window),  # MONAI's own is flat far from the centre along more than one axis
        sw_device=device,
        device="cpu",
        progress=progress,
    )
    assert isinstance(stitched, torch.Tensor)  # as is what run gives
    return stitched


def window_weights(size: Sequence[int]) -> "Tensor":
    """Return a Gaussian over a window, 1 at its centre, its standard deviation an eighth of each side."""
    import torch

    weights = torch.ones(())
    for side in size:
        offset = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-((offset / (side / 8)) ** 2) / 2)
    return weights
