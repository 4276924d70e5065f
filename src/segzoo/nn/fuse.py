"""Exact shortcuts for prediction: batch norms folded into convolutions, and activations worked out with them."""

import copy
import itertools
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segzoo.nn.depthwise import needs_gradient
from segzoo.nn.tiles import eager_on_cpu

ONEDNN_NAMES = {nn.ReLU: "relu", nn.GELU: "gelu", nn.Hardswish: "hardswish"}
WATCHED = (nn.ReLU, nn.Hardswish)  # that make something else of NaN or infinity by oneDNN; GELU does not
LARGEST_SUM = (
    1e36  # of a convolution's terms; the largest float32 is 3.4e38, and some algorithms add before they multiply
)
BOUND = "largest_value"  # attribute of an output: no value in it is larger
UNCOUNTED = itertools.count()
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def fold_norm(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Make a convolution with bias that computes ``norm(conv(x))`` as in eval mode; in float64, on the CPU."""
    # not every GPU has float64
    folded = fuse_conv_bn_eval(copy.deepcopy(conv).cpu().double().eval(), copy.deepcopy(norm).cpu().double().eval())
    return folded.requires_grad_(conv.weight.requires_grad)  # a bias that is new asks for no gradient by itself


@torch.no_grad()
def fold_norm_forwards(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Make a 1x1 convolution compute ``conv(norm(x))`` as in eval mode, in place.

    For an activation that comes before its norm. A larger kernel would not do: the zeros that it is padded with come
    after the norm, and no bias gives them.
    """
    assert conv.kernel_size == (1, 1)
    assert conv.groups == 1
    assert conv.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance, gamma, beta, bias, weight = (
        tensor.cpu().double()  # not every GPU has float64
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias, conv.bias, conv.weight)
    )
    scale = gamma / torch.sqrt(variance + norm.eps)
    matrix = weight.flatten(1)
    conv.bias.copy_(bias + matrix @ (beta - mean * scale))
    conv.weight.copy_((matrix * scale)[..., None, None])


def can_join(conv: nn.Module, activation: nn.Module) -> bool:
    """Tell whether `ActivatedConv2d` takes these two."""
    if type(activation) not in ONEDNN_NAMES:
        return False
    return pads_at_the_end(conv) or (type(conv) is nn.Conv2d and conv.padding_mode == "zeros")


def pads_at_the_end(conv: nn.Module) -> bool:
    """Recognise TensorFlow's way, by timm, to halve even sides with a 3x3 kernel: zeros after the last row."""
    return type(conv) is Conv2dSame and conv.kernel_size == (3, 3) and conv.stride == (2, 2)


@dataclass(frozen=True)
class Kernel:
    """Weights of a joined convolution, ready for use.

    Attributes:
        state: of the weights that it was made of, by which a change is seen.
        weight: padded where the convolution pads at the end alone.
        gain: by what factor an output can be larger than the largest input.
        offset: how much larger still.
    """

    state: tuple[int, ...]
    weight: Tensor
    gain: float
    offset: float


class ActivatedConv2d(nn.Conv2d):
    """Convolution and the activation after it, which on a CPU are one pass over the memory (by oneDNN).

    PyTorch has that operation for its own compiler; nothing is compiled here. On other devices, in other types than
    float32 and where gradients are wanted they are two, and so they are in an exported graph, whose runtime joins them.

    The one pass makes 0 of NaN where the activation is a ReLU, and a plausible mask of weights that diverged; that of
    Hardswish ends elsewhere than PyTorch's. So it is taken only where that cannot show: where sums as large as these
    inputs and weights allow are far from infinity.

    Args:
        conv: whose weights it shares; where it pads at the end alone, the sides must be even.
        activation: nn.ReLU, nn.GELU or nn.Hardswish.
    """

    def __init__(self, conv: nn.Conv2d, activation: nn.Module) -> None:
        super().__init__(1, 1, 1)
        self.__dict__.update({name: value for name, value in vars(conv).items() if not name.startswith("_")})
        self.weight, self.bias = conv.weight, conv.bias
        self.at_the_end = pads_at_the_end(conv)
        self.activation = activation
        self.is_watched = type(activation) in WATCHED
        self.known: Kernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the activated output [B, C', H', W'] of [B, C, H, W]."""
        if not self.is_one_operation(input):
            return self.in_two(input)
        kernel = self.kernel()
        if not self.is_watched:
            return self.in_one(input, kernel.weight)
        largest = getattr(input, BOUND, None)
        if largest is None:
            largest = float(torch.linalg.vector_norm(input))  # no value is larger, and it is half the work of those
        largest = largest * kernel.gain + kernel.offset
        if not largest < LARGEST_SUM:  # NaN included
            return self.in_two(input)
        output = self.in_one(input, kernel.weight)
        setattr(output, BOUND, largest)  # a convolution that follows at once need not go through all values again
        return output

    def in_two(self, input: Tensor) -> Tensor:
        """Compute the convolution and then the activation."""
        # the value said, or ONNX Runtime would not take the zeros into the convolution
        padded = F.pad(input, (0, 1, 0, 1), value=0.0) if self.at_the_end else input
        return cast(Tensor, self.activation(super().forward(padded)))

    def in_one(self, input: Tensor, weight: Tensor) -> Tensor:
        """Compute both in one pass."""
        padding = (1, 1) if self.at_the_end else self.padding
        settings = (padding, self.stride, self.dilation, self.groups)
        name = ONEDNN_NAMES[type(self.activation)]
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(input, weight, self.bias, *settings, name, [], "none")
        return found

    def kernel(self) -> Kernel:
        """Return the weights as they are now; worked out anew only where they have changed."""
        weight, bias = self.weight, self.bias
        state = tuple(part for one in (weight, bias) if one is not None for part in (id(one), version(one)))
        if self.known is None or self.known.state != state:
            gain = float(weight.abs().sum((1, 2, 3)).max())
            offset = 0.0 if bias is None else float(bias.abs().max())
            # zeros before the kernel move it as much as the padding on that side does; the image need not be copied
            padded = F.pad(weight, (1, 0, 1, 0)) if self.at_the_end else weight
            self.known = Kernel(state, padded, gain, offset)
        return self.known

    def is_one_operation(self, input: Tensor) -> bool:
        """Tell whether PyTorch has both together here."""
        of_floats = input.dtype == self.weight.dtype == torch.float32
        return HAS_ONEDNN and of_floats and eager_on_cpu(input) and not needs_gradient(input, self.weight)


def version(tensor: Tensor) -> int:
    """Return how often a tensor has been changed; those made in inference mode do not count it."""
    return next(UNCOUNTED) if tensor.is_inference() else tensor._version
