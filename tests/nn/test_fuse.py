"""Shortcuts for prediction change nothing but the time."""

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

import segzoo
from segzoo.nn.fuse import ActivatedConv2d, can_join, fold_norm, fold_norm_forwards

ACTIVATIONS = [nn.ReLU(), nn.GELU(), nn.Hardswish()]


def norm_with_statistics(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return norm.eval()


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"groups": 4, "padding": 1, "bias": False}])
def test_a_convolution_joined_with_its_activation_is_both(activation, settings):
    conv = nn.Conv2d(8, 12, 3, **settings)
    joined, x = ActivatedConv2d(conv, activation), torch.randn(2, 8, 9, 11)
    with torch.inference_mode():
        assert joined.is_one_operation(x) or not torch.backends.mkldnn.is_available()
        torch.testing.assert_close(joined(x), activation(conv(x)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(joined.double()(x.double()), activation(conv(x.double())))
    assert joined.state_dict().keys() == conv.state_dict().keys()


def test_where_gradients_are_wanted_they_come():
    joined, x = ActivatedConv2d(nn.Conv2d(3, 4, 1), nn.GELU()), torch.randn(1, 3, 5, 5)
    assert not joined.is_one_operation(x)
    joined(x).sum().backward()
    assert joined.weight.grad is not None
    assert not joined.requires_grad_(False).is_one_operation(x.requires_grad_())


def test_a_norm_is_folded_into_the_convolution_before_it():
    conv, norm, x = nn.Conv2d(3, 5, 3, bias=False), norm_with_statistics(5), torch.randn(2, 3, 8, 8).double()
    with torch.inference_mode():
        torch.testing.assert_close(fold_norm(conv, norm)(x), norm.double()(conv.double()(x)), rtol=1e-12, atol=1e-12)


def test_a_norm_is_folded_into_the_pointwise_convolution_after_it():
    conv, norm = nn.Conv2d(5, 3, 1).double().requires_grad_(False), norm_with_statistics(5).double()
    x = torch.randn(2, 5, 8, 8).double()
    with torch.inference_mode():
        expected = conv(norm(x))
        fold_norm_forwards(norm, conv)
        torch.testing.assert_close(conv(x), expected, rtol=1e-12, atol=1e-12)


def test_timms_convolution_that_pads_at_the_end_is_joined_where_it_halves_even_sides():
    conv, x = Conv2dSame(3, 4, 3, stride=2), torch.randn(2, 3, 10, 14)
    joined = ActivatedConv2d(conv, nn.ReLU())
    with torch.inference_mode():
        torch.testing.assert_close(joined(x), conv(x).relu(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(joined.double()(x.double()), conv(x.double()).relu())


def test_what_can_be_joined():
    assert can_join(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert not can_join(nn.Conv2d(3, 4, 3), nn.Softmax())
    assert can_join(Conv2dSame(3, 4, 3, stride=2), nn.ReLU())
    assert not can_join(Conv2dSame(3, 4, 5, stride=2), nn.ReLU())


def test_deploying_leaves_only_the_norms_that_cannot_be_folded():
    lv_unet = segzoo.create_model("lv_unet")
    lv_unet.deep_training_lambda.fill_(1)
    assert not norms(lv_unet.deploy())
    cmunext = segzoo.create_model("cmunext_s")
    widest = max(norm.num_features for norm in norms(cmunext))
    left = norms(cmunext.deploy())  # before sums and before padded kernels
    assert 0 < len(left) < len(norms(cmunext)) / 2
    assert max(norm.num_features for norm in left) < widest


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


# ---- what is no number stays none


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("trouble", [float("nan"), float("inf"), 1e38])
def test_nan_passes_a_joined_convolution(activation, trouble):
    """By a weight, by a bias, by the input; and by sums of finite numbers that are too large."""
    for place in ("weight", "bias", "input"):
        conv = nn.Conv2d(8, 4, 3).requires_grad_(False)
        x = torch.randn(1, 8, 6, 6)
        target = x if place == "input" else getattr(conv, place)
        target.view(-1)[:2] = torch.tensor([trouble, -trouble])
        with torch.inference_mode():
            plain, joined = activation(conv(x * 10)), ActivatedConv2d(conv, activation)(x * 10)
        assert torch.equal(plain.isnan(), joined.isnan()), place


def test_a_weight_that_changes_is_seen():
    joined, x = ActivatedConv2d(nn.Conv2d(3, 4, 1), nn.ReLU()).requires_grad_(False), torch.randn(1, 3, 5, 5)
    assert joined(x).isfinite().all()
    joined.load_state_dict({"weight": torch.full((4, 3, 1, 1), float("nan")), "bias": torch.zeros(4)})
    assert joined(x).isnan().all()
    with torch.inference_mode():
        made = ActivatedConv2d(nn.Conv2d(3, 4, 1), nn.ReLU()).requires_grad_(False)
        assert made(x).isfinite().all()
        made.weight.fill_(float("nan"))
        assert made(x).isnan().all()


def test_convolutions_one_after_another_look_at_their_input_once(monkeypatch):
    first, second = (ActivatedConv2d(nn.Conv2d(4, 4, 1), nn.ReLU()).requires_grad_(False) for _ in range(2))
    looked = []
    norm = torch.linalg.vector_norm
    monkeypatch.setattr(torch.linalg, "vector_norm", lambda x: looked.append(x) or norm(x))
    x = torch.randn(1, 4, 5, 5)
    second(first(x))
    assert len(looked) == 1
    assert looked[0] is x
