"""What every architecture of the zoo must do, whichever it is."""

import math
from dataclasses import replace

import pytest
import torch

import segzoo
from segzoo.models import med_urwkv

# the larger sizes of these two are the same code with other numbers, which test_registry and tests/models count
LARGER = ("med_urwkv_", "mednext")
MODELS = [name for name in segzoo.list_models() if not name.startswith(LARGER)] + ["mednext_s_k3"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def grid(model, height: int, width: int) -> tuple[int, ...]:
    """The sides of an image, or of a small volume."""
    return (height, width) if model.spatial_dims == 2 else (max(1, height // 4), max(1, width // 2), 5)


def image(model, height: int, width: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, model.in_channels, *grid(model, height, width))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(33, 57), (150, 97), (1, 1)])
def test_logits_have_the_size_of_the_image(name, size):
    model = segzoo.create_model(name).eval()
    with torch.inference_mode():
        assert model(image(model, *size)).shape == (1, 1, *grid(model, *size))


ENCODERS = [
    *((name, {}) for name in MODELS),
    ("med_urwkv", {"encoder": "plain"}),
    ("mednext_s_k3", {"strides": ((1, 2, 2), 2, 2, 2)}),
    ("mednext_s_k3", {"spatial_dims": 2, "in_channels": 3}),
]


@pytest.mark.parametrize(("name", "arguments"), ENCODERS, ids=str)
@pytest.mark.parametrize("size", [(128, 128), (150, 97)])
def test_an_encoders_maps_are_those_of_feature_info(name, arguments, size):
    model = segzoo.create_model(name, **arguments).eval()
    x = image(model, *size)
    with torch.inference_mode():
        maps = model.encode(x)
    assert len(maps) == len(model.feature_info) >= 4
    for found, (channels, reduction) in zip(maps, model.feature_info, strict=True):
        factors = reduction if isinstance(reduction, tuple) else (reduction,) * model.spatial_dims
        sides = tuple(math.ceil(side / factor) for side, factor in zip(x.shape[2:], factors, strict=True))
        assert found.shape == (1, channels, *sides)


def test_a_fused_encoder_gives_the_same_maps():
    model = segzoo.from_pretrained("lv-unet-busi")
    x = image(model, 100, 130)
    with torch.inference_mode():
        pairs = zip(model.encode(x), model.deploy().encode(x), strict=True)
        assert all((one - other).abs().max() <= 2e-5 * one.abs().max() for one, other in pairs)


def test_gradients_reach_the_encoder_through_its_maps():
    model = segzoo.create_model("cmunext_s").train()
    sum(one.mean() for one in model.encode(image(model, 32, 48, batch=2))).backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


def test_an_architecture_that_has_not_said_what_its_maps_are_is_refused(refused):
    class Bare(segzoo.SegmentationModule):
        def compute_logits(self, x):
            return x[:, :1]

    with refused(segzoo.SegzooError):
        Bare(in_channels=1).encode(torch.zeros(1, 1, 8, 8))
    with refused(segzoo.SegzooError):
        segzoo.create_model("cmunext_s").encode(torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize("name", MODELS)
def test_padding_repeats_the_border_and_changes_nothing_at_full_strides(name):
    model = segzoo.create_model(name).eval()
    strides = model.stride if isinstance(model.stride, tuple) else (model.stride,) * model.spatial_dims
    rows, columns = (2 * stride for stride in strides[:2])  # the last axis of a volume is one stride long
    whole = torch.randn(1, model.in_channels, rows, columns, *strides[2:])
    with torch.inference_mode():
        torch.testing.assert_close(model.compute_logits(whole), model(whole))
        cut = whole[:, :, : rows - 5, : columns - 3]
        further = (0, 0) * (model.spatial_dims - 2)
        padded = torch.nn.functional.pad(cut, (*further, 0, 3, 0, 5), mode="replicate")
        torch.testing.assert_close(model(cut), model(padded)[:, :, : rows - 5, : columns - 3])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("in_channels", "num_classes", "multilabel"), [(1, 1, False), (4, 3, False), (3, 5, True)])
def test_any_channels_and_classes(name, in_channels, num_classes, multilabel):
    model = segzoo.create_model(name, in_channels=in_channels, num_classes=num_classes, multilabel=multilabel).eval()
    size = grid(model, 64, 64)
    with torch.inference_mode():
        logits = model(image(model, 64, 64))
    assert logits.shape == (1, num_classes, *size)
    assert model.mask(model.activate(logits)).shape == ((1, num_classes, *size) if multilabel else (1, *size))
    assert model.preprocessing.channels == in_channels
    assert model.preprocessing.spatial_dims == model.spatial_dims


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model = segzoo.create_model(name, num_classes=2).train()
    label = torch.randint(2, (2, *grid(model, 64, 64)))
    loss = model.compute_loss(model(image(model, 64, 64, batch=2)), label)
    loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_single_image_can_be_trained_on(name):
    model = segzoo.create_model(name).train()
    outputs = model(image(model, 16, 16))
    if isinstance(outputs, torch.Tensor):
        assert outputs.shape == (1, 1, *grid(model, 16, 16))
    label = torch.ones(1, *grid(model, 16, 16), dtype=torch.long)
    assert torch.isfinite(model.compute_loss(outputs, label))


@pytest.mark.parametrize("name", MODELS)
def test_training_steps_with_the_published_optimizer_lower_the_loss(name):
    model = segzoo.create_model(name).train()
    optimizer = model.default_optimizer(model.parameters())
    images = image(model, 64, 64, batch=2)
    label = torch.zeros(2, *images.shape[2:], dtype=torch.long)
    inside = (slice(None), *(slice(side // 4, side - side // 4) for side in images.shape[2:4]))
    label[inside] = 1
    images += 2 * label[:, None]  # something that can be learnt
    losses = []
    for _ in range(4):
        loss = model.compute_loss(model(images), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_models_are_bit_equal(name, tmp_path):
    model = segzoo.create_model(name, in_channels=1, num_classes=3).eval()
    loaded = segzoo.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    images = image(model, 40, 40)
    with torch.inference_mode():
        assert torch.equal(model(images), loaded(images))
    assert type(loaded) is type(model)
    assert loaded.arguments == model.arguments
    assert loaded.preprocessing == model.preprocessing


@pytest.mark.parametrize("name", MODELS)
def test_deploy_gives_an_equal_new_model(name):
    model = segzoo.create_model(name).eval()
    if not model.is_deployable:
        model.deep_training_lambda.fill_(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = model.deploy()
    images = image(model, 128, 128)
    with torch.inference_mode():
        expected = model(images)
        assert (deployed(images) - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    built = segzoo.create_model(name, **{**model.arguments, **deployed.arguments}).eval()
    built.load_state_dict(deployed.state_dict(), strict=True)  # as a saved deployed model is loaded
    with torch.inference_mode():
        assert (built(images) - expected).abs().max() <= 2e-5 * expected.abs().max()
    again = deployed.deploy()
    assert again.state_dict().keys() == deployed.state_dict().keys()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in before.items()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_images_of_other_channels_are_refused_in_one_sentence(name, refused):
    model = segzoo.create_model(name)
    with refused(segzoo.SegzooError):
        model(torch.randn(1, model.in_channels + 1, *grid(model, 32, 32)))


@pytest.mark.parametrize("name", MODELS)
def test_deep_copies_and_exports(name, monkeypatch):
    """What people do with a module besides calling it."""
    # a third of the layers, which are alike: tracing takes its time by the layer
    monkeypatch.setitem(med_urwkv.ENCODERS, "tiny", replace(med_urwkv.ENCODERS["tiny"], depth=4))
    build = {"med_urwkv": lambda: segzoo.MedURWKV(depths=(1, 1, 1, 1))}.get(name, lambda: segzoo.create_model(name))
    model = build().eval()
    exported = torch.export.export(model, (image(model, 128, 128),))
    images = image(model, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(images), model(images))
