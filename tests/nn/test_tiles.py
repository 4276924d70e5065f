"""Tiles: MedNeXt in many of them against MedNeXt in one, which tests/models/test_mednext.py holds to the original."""

import pytest
import torch
from torch import nn

from segzoo.models.mednext import MedNeXt
from segzoo.nn import tiles
from segzoo.nn.tiles import PointwiseConv2d, PointwiseConv3d

VARIANTS = {
    "volumes": {},
    "images": {"spatial_dims": 2},
    "layer norm": {"norm": "layer"},
    "response norm": {"grn": True, "spatial_dims": 2},
    "anisotropic": {"strides": ((1, 2, 2), 2, 2, 2)},
    "expansion": {"checkpointing": "expansion"},
    "block": {"checkpointing": "block"},
}


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def small(**options):
    return MedNeXt(in_channels=2, num_classes=3, width=4, depths=1, **options).double()


def images_for(model):
    return torch.randn(2, 2, *(16, 32, 32)[-model.spatial_dims :], dtype=torch.float64)


def outputs_and_gradients(model, x):
    """All heads in training and their gradients, and the logits of eval mode, with and without autograd."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    heads = model.train()(x)
    sum(head.square().mean() for head in heads).backward()
    found = [*heads, x.grad, *(parameter.grad.clone() for parameter in model.parameters())]
    found.append(model.eval()(x))
    with torch.no_grad():
        found.append(model(x))
    return [tensor.detach() for tensor in found]


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_tiles_of_any_size_give_the_same(options, monkeypatch):
    model = small(**options)
    x = images_for(model)
    expected = outputs_and_gradients(model, x)
    torch.testing.assert_close(expected[-1], expected[-2])
    monkeypatch.setattr(tiles, "TILE", 10_000)
    monkeypatch.setattr(tiles, "SLAB", 100)
    for ours, theirs in zip(outputs_and_gradients(model, x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_layout_of_the_input_makes_no_difference(dims):
    model = small(spatial_dims=dims).eval()
    x = images_for(model)
    last = x.to(memory_format=torch.channels_last if dims == 2 else torch.channels_last_3d)
    strided = x.repeat_interleave(2, -1)[..., ::2]
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(last), expected)
        torch.testing.assert_close(model(strided), expected)


def test_a_prediction_leaves_its_input_and_the_features_between_as_they_are():
    model = small().eval()
    x = images_for(model)
    before, seen = x.clone(), []
    for part in (model.stem, *model.encoder, *model.down, model.bottleneck):
        part.register_forward_hook(lambda _, __, output: seen.append((output, output.clone())))
    with torch.no_grad():
        model(x)
    assert torch.equal(x, before)
    assert len(seen) == 10
    for after, then in seen:
        assert torch.equal(after, then)


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_as_near_as_it_can_be(autocast):
    model = small().float()
    x = images_for(model).float()
    exact = outputs_and_gradients(model, x)[-2:]
    if not autocast:
        model, x = model.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        rough = outputs_and_gradients(model, x)[-2:]
    for found, expected in zip(rough, exact, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max() < 0.1 * expected.std()


def test_moments_are_exact_in_float32_and_differentiable():
    x = torch.randn(2, 3, 32, 64, 64) + 10
    last = x.to(memory_format=torch.channels_last_3d)
    variance, mean = tiles.Moments.apply(last)
    expected = torch.var_mean(x.double(), (2, 3, 4), correction=0)
    torch.testing.assert_close((variance.double(), mean.double()), expected, rtol=2e-6, atol=0)
    small = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(tiles.Moments.apply, (small,))
    assert torch.autograd.gradgradcheck(tiles.Moments.apply, (small,))


@pytest.mark.parametrize(("kind", "plain"), [(PointwiseConv2d, nn.Conv2d), (PointwiseConv3d, nn.Conv3d)])
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolutions_are_convolutions(kind, plain, stride):
    layer, reference = kind(3, 5, 1, stride), plain(3, 5, 1, stride)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 4, 5, 6)[:, :, : 4 if plain is nn.Conv3d else 1].squeeze(2)
    torch.testing.assert_close(layer(x), reference(x))


def test_the_exported_graph_is_whole_and_plain():
    model = small(deep_supervision=False).eval()
    x = images_for(model)
    program = torch.export.export(model, (x,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    pointwise = sum(isinstance(layer, PointwiseConv3d) for layer in model.modules())
    assert names.count("aten.linear.default") == pointwise  # each once, not for each tile
    assert not any("batch_norm" in name or "conv_transpose" in name for name in names), names
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x))
