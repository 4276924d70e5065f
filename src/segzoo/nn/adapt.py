"""Pretrained first layers for images of another number of channels."""

from torch import Tensor


def adapt_input_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Make a first convolution's kernel one for ``in_channels`` instead of the channels it was trained on.

    To one channel the kernels are summed: a grey image then gives what it gave when repeated over the
    channels. To n channels they are repeated in turn and scaled by old / new, which keeps
    the size of the response.

    Args:
        weight: kernel [out, old, *kernel].
        in_channels: the new number of channels.

    Returns:
        A new kernel [out, in_channels, *kernel]; the same one where the number does not change.
    """
    old = weight.shape[1]
    if old == in_channels:
        return weight
    if in_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [channel % old for channel in range(in_channels)]] * (old / in_channels)
