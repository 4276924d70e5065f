"""Exact shortcuts for prediction: batch norms folded into convolutions, and activations worked out with them."""

import copy
import itertools
import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from segzoo.nn.depthwise import needs_gradient
from segzoo.nn.tiles import eager_on_cpu

ONEDNN_NAMES = {nn.ReLU: "relu", nn.GELU: "gelu", nn.Hardswish: "hardswish"}
LARGEST_SUM = (
    1e36  # of a convolution's terms; the largest float32 is 3.4e38, and some algorithms add before they multiply
)
SAME = "timm.layers.conv2d_same.Conv2dSame"  # by name: timm takes half a second, and most networks do without it
BOUND = "largest_value"  # attribute of an output: no value in it is larger
UNCOUNTED = itertools.count()
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
JOINED: Any = torch.ops.mkldnn._convolution_pointwise.default if HAS_ONEDNN else None


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
    named = f"{type(conv).__module__}.{type(conv).__qualname__}"
    return named == SAME and conv.kernel_size == (3, 3) and conv.stride == (2, 2)


class Kernel(NamedTuple):
    """Weights of a joined convolution, ready for use.

    Attributes:
        parameters: that it was made of, and how often each had been changed then.
        weight: padded where the convolution pads at the end alone.
        gain: by what factor an output can be larger than the largest input.
        offset: how much larger still.
    """

    parameters: tuple[Any, ...]
    weight: Tensor
    gain: float
    offset: float


class ActivatedConv2d(nn.Conv2d):
    """Convolution and the activation after it, which on a CPU are one pass over the memory (by oneDNN).

    PyTorch has that operation for its own compiler; nothing is compiled here. On other devices, in other types than
    float32 and where gradients are wanted they are two, and so they are in an exported graph, whose runtime joins them.

    The one pass makes 0 of NaN where the activation is a ReLU, and a plausible mask of weights that diverged; that of
    Hardswish ends elsewhere than PyTorch's, and that of GELU, by AVX-512, in NaN before it is infinite. So it is taken
    only where that cannot show: where sums as large as these inputs and weights allow are far from infinity.

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
        self.known: Kernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Return the activated output [B, C', H', W'] of [B, C, H, W]."""
        if not self.is_one_operation(input):
            return self.in_two(input)
        kernel = self.kernel()
        largest = getattr(input, BOUND, None)
        if largest is None:
            largest = length(input)
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
        return cast(Tensor, JOINED(input, weight, self.bias, *settings, name, [], "none"))

    def kernel(self) -> Kernel:
        """Return the weights as they are now; worked out anew only where they have changed."""
        weight, bias = self._parameters["weight"], self._parameters["bias"]
        assert weight is not None
        parameters = (id(weight), version(weight), id(bias), 0 if bias is None else version(bias))
        known = self.known
        if known is None or known.parameters != parameters:
            gain = float(weight.abs().sum((1, 2, 3)).max())
            offset = 0.0 if bias is None else float(bias.abs().max())
            # zeros before the kernel move it as much as the padding on that side does; the image need not be copied
            padded = F.pad(weight, (1, 0, 1, 0)) if self.at_the_end else weight
            known = self.known = Kernel(parameters, padded, gain, offset)
        return known

    def is_one_operation(self, input: Tensor) -> bool:
        """Tell whether PyTorch has both together here."""
        weight = self.weight
        of_floats = input.dtype is weight.dtype is torch.float32
        return HAS_ONEDNN and of_floats and eager_on_cpu(input) and not needs_gradient(input, weight)


def length(x: Tensor) -> float:
    """Return the Euclidean norm, which no value exceeds; a product of two vectors, it takes a third of their time."""
    if x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last):
        values = x.as_strided((x.numel(),), (1,))  # in the order of the memory
        return math.sqrt(torch.dot(values, values))
    return float(torch.linalg.vector_norm(x))


def version(tensor: Tensor) -> int:
    """Return how often a tensor has been changed; those made in inference mode do not count it."""
    try:
        return tensor._version
    except RuntimeError:
        return next(UNCOUNTED)
