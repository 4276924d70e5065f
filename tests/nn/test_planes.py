"""Depthwise convolutions of volumes, put together from those of images, against PyTorch's own."""

import pytest
import torch
from torch.nn import functional as F

from segzoo.nn.planes import conv_by_planes

CHANNELS = 3


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2), (2, 1, 2)])
@pytest.mark.parametrize("size", [(6, 7, 4), (1, 4, 2)])  # odd and even sides, sides shorter than the kernel
def test_the_planes_of_a_kernel_add_up_to_it(size, stride):
    torch.manual_seed(0)
    x = torch.randn(2, CHANNELS, *size, dtype=torch.float64)
    weight, bias = torch.randn(CHANNELS, 1, 5, 5, 5).double(), torch.randn(CHANNELS).double()
    expected = F.conv3d(x, weight, bias, stride, 2, groups=CHANNELS)
    torch.testing.assert_close(conv_by_planes(x, weight, bias, stride), expected)
