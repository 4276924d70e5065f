"""Memory that a step of training takes, counted rather than tried out."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

BESIDE = 1.5  # gradients on the way back and what layers need for themselves, as a factor of what is kept for them
OF_WEIGHTS = 4  # each weight, its gradient and two moments of Adam


def kept_for_gradients(model: nn.Module, shape: Sequence[int]) -> int:
    """Count the bytes that a forward pass keeps for the way back, but for the weights.

    Args:
        model: in train mode; on the device "meta" nothing is computed.
        shape: of the input, ``[B, C, *S]``.

    Example:
        >>> import torch
        >>> from segzoo.training.memory import kept_for_gradients
        >>> with torch.device("meta"):
        ...     layer = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 1), torch.nn.ReLU())
        >>> kept_for_gradients(layer, (1, 1, 10, 10))  # the input, and the activations
        2000
    """
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # which are held, or their memory would be given to others

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.zeros(*shape, device=device))
    return sum(storage.nbytes() for place, storage in kept.items() if place not in weights)


def training_bytes(model: nn.Module, shape: Sequence[int]) -> tuple[int, float]:
    """Return the bytes that training takes: of the weights, and for each pixel or voxel of a batch.

    Args:
        model: as of `kept_for_gradients`.
        shape: of the input to count at; other sizes are as much for each pixel.
    """
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return OF_WEIGHTS * weights, BESIDE * kept_for_gradients(model, shape) / (shape[0] * math.prod(shape[2:]))
