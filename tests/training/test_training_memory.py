"""Memory that a step of training takes, counted."""

import pytest
import torch
from torch import nn

import segzoo
from segzoo.training.memory import kept_for_gradients, training_bytes


def test_what_layers_keep_is_counted_once_and_weights_are_not():
    layer = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    pixels = 10 * 10 * 4
    assert kept_for_gradients(layer, (1, 1, 10, 10)) == pixels * (1 + 4)  # the input, and what the ReLU gives


@pytest.mark.parametrize("name", ["cmunext_s", "mednext_s_k3"])
def test_it_grows_with_the_pixels_and_needs_no_values(name):
    with torch.device("meta"):
        model = segzoo.create_model(name)
    sides = (64,) * model.spatial_dims
    weights, pixel = training_bytes(model, (2, model.in_channels, *sides))
    assert weights == 16 * sum(parameter.numel() for parameter in model.parameters())
    twice = training_bytes(model, (4, model.in_channels, *sides))[1]
    assert twice == pytest.approx(pixel, rel=0.01)
    if name == "cmunext_s":
        assert pixel == pytest.approx(training_bytes(segzoo.create_model(name), (2, 3, *sides))[1], rel=0.01)
