"""Batch norm and head in one against the two layers."""

import copy

import pytest
import torch
from torch import nn

from segzoo.nn.normed_product import normed_product


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_outputs_gradients_and_statistics_are_those_of_the_layers(classes, layout):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(5, eps=1e-3), nn.Conv2d(5, classes, 1)).double()
    nn.init.normal_(layers[0].weight)
    nn.init.normal_(layers[0].bias)
    ours, x = copy.deepcopy(layers), torch.randn(3, 5, 7, 6).double().add(2).to(memory_format=layout)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [layers(inputs[0]), normed_product(inputs[1], *ours)]
    assert outputs[1].grad_fn.next_functions[0][0].next_functions[0][0].name() == "NormedProductBackward"
    torch.testing.assert_close(outputs[1], outputs[0])
    gradient = torch.randn_like(outputs[0])
    for output in outputs:
        output.backward(gradient)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for one, other in zip(ours.parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(ours.state_dict(), layers.state_dict())


def test_predictions_and_other_norms_go_through_the_layers():
    norm, head, x = nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1), torch.randn(2, 4, 3, 3)
    with torch.no_grad():
        assert torch.equal(normed_product(x, norm.eval(), head), head(norm(x)))
        assert torch.equal(normed_product(x, nn.Identity(), head), head(x))


@pytest.mark.parametrize(
    "head", [nn.Conv2d(4, 1, 3, padding=1), nn.Sequential(nn.Conv2d(4, 1, 1)), nn.Conv2d(4, 40, 1)]
)
def test_a_layer_in_the_heads_place_is_called(head):
    norm, x = nn.BatchNorm2d(4), torch.randn(2, 4, 3, 3)
    assert torch.equal(normed_product(x, norm, head), head(norm(x)))


def test_half_precision_goes_through_the_layers():
    norm, head, x = nn.BatchNorm2d(4).bfloat16(), nn.Conv2d(4, 1, 1).bfloat16(), torch.randn(2, 4, 3, 3).bfloat16()
    assert torch.equal(normed_product(x, norm, head), head(norm(x)))


def test_many_pixels_lose_no_digits():
    """Sums of half a million float32, one after another, lose four of seven digits: of the loss of a whole step too."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))
    x = torch.randn(8, 4, 256, 256).add(2).to(memory_format=torch.channels_last)
    gradient = x.sum(1, keepdim=True).sub(8).tanh()  # a sum that does not cancel out
    found = []
    for inputs, (norm, head) in ((x.double(), copy.deepcopy(layers).double()), (x, layers)):
        inputs.requires_grad_()
        output = normed_product(inputs, norm, head)
        output.backward(gradient.to(output))
        values = [inputs.grad, norm.weight.grad, norm.bias.grad, head.weight.grad, norm.running_mean, norm.running_var]
        found.append([output.detach(), *values])
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).norm() <= 2e-6 * exact.norm()
