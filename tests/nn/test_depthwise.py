"""Depthwise convolutions for CPUs against PyTorch's own."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from segzoo.nn.depthwise import DepthwiseConv3d, DepthwiseConvTranspose3d

CHANNELS = 3
LAYERS = {DepthwiseConv3d: F.conv3d, DepthwiseConvTranspose3d: F.conv_transpose3d}
STRIDES = ((1, 1, 1), (2, 2, 2), (1, 2, 2))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def depthwise(kind, kernel, stride):
    return kind(CHANNELS, CHANNELS, kernel, stride, kernel // 2, groups=CHANNELS).double()


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_outputs_and_gradients_are_those_of_pytorch(kind, stride, kernel):
    layer = depthwise(kind, kernel, stride)
    layouts = (torch.contiguous_format, torch.channels_last_3d)
    # odd and even sides, sides shorter than the kernel, a side of one voxel
    for size, layout in itertools.product(((6, 7, 4), (1, 4, 2)), layouts):
        x = torch.randn(2, CHANNELS, *size, dtype=torch.float64).to(memory_format=layout).requires_grad_()
        expected = LAYERS[kind](x, layer.weight, layer.bias, stride, kernel // 2, groups=CHANNELS)
        found = layer(x)
        gradient = torch.randn_like(expected)
        torch.testing.assert_close(found, expected)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), expected)
        inputs = (x, layer.weight, layer.bias)
        for ours, theirs in zip(
            torch.autograd.grad(found, inputs, gradient), torch.autograd.grad(expected, inputs, gradient), strict=True
        ):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kind", LAYERS)
def test_first_and_second_derivatives_by_finite_differences(kind):
    layer = depthwise(kind, 3, (1, 2, 2))

    def function(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, x)

    x = torch.randn(1, CHANNELS, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = (x, *(parameter.detach().clone().requires_grad_() for parameter in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast(kind):
    layer = depthwise(kind, 5, (2, 2, 2)).float()
    x = torch.randn(1, CHANNELS, 5, 5, 5, requires_grad=True)
    exact = layer(x)
    gradient = torch.randn_like(exact)
    expected = torch.autograd.grad(exact, (x, *layer.parameters()), gradient)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, atol=0.02, rtol=0.02)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, *layer.parameters()), gradient.bfloat16()), expected, strict=True
    ):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_exported_graph_holds_pytorchs_own_layers(kind):
    layer = depthwise(kind, 3, (2, 2, 2)).requires_grad_(False)
    x = torch.randn(1, CHANNELS, 4, 5, 6, dtype=torch.float64)
    program = torch.export.export(layer, (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert len(names) == 1, names
    torch.testing.assert_close(program.module()(x), layer(x))
