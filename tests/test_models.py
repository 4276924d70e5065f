"""What every architecture of the zoo must do, whichever it is."""

import pytest
import torch

import segzoo

MODELS = segzoo.list_models()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(33, 57), (150, 97), (1, 1)])
def test_logits_have_the_size_of_the_image(name, size):
    model = segzoo.create_model(name).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, *size)).shape == (1, 1, *size)


@pytest.mark.parametrize("name", MODELS)
def test_padding_repeats_the_border_and_changes_nothing_at_full_strides(name):
    model = segzoo.create_model(name).eval()
    side = model.stride
    image = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        whole = model(image)
        torch.testing.assert_close(model.compute_logits(image), whole)
        cut = image[..., : side - 5, : side - 3]
        padded = torch.nn.functional.pad(cut, (0, 3, 0, 5), mode="replicate")
        torch.testing.assert_close(model(cut), model(padded)[..., : side - 5, : side - 3])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("in_channels", "num_classes", "multilabel"), [(1, 1, False), (4, 3, False), (3, 5, True)])
def test_any_channels_and_classes(name, in_channels, num_classes, multilabel):
    model = segzoo.create_model(name, in_channels=in_channels, num_classes=num_classes, multilabel=multilabel).eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, in_channels, 64, 64))
    assert logits.shape == (1, num_classes, 64, 64)
    assert model.mask(model.activate(logits)).shape == ((1, num_classes, 64, 64) if multilabel else (1, 64, 64))
    assert model.preprocessing.channels == in_channels


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_gets_a_gradient(name):
    model = segzoo.create_model(name, num_classes=2).train()
    loss = model.compute_loss(model(torch.randn(2, 3, 64, 64)), torch.randint(2, (2, 64, 64)))
    loss.backward()
    without = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_single_image_can_be_trained_on(name):
    model = segzoo.create_model(name).train()
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 1, 16, 16)


@pytest.mark.parametrize("name", MODELS)
def test_training_steps_with_the_published_optimizer_lower_the_loss(name):
    model = segzoo.create_model(name).train()
    optimizer = model.default_optimizer(model.parameters())
    image, label = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    label[:, 16:48, 16:48] = 1
    image[:, :, 16:48, 16:48] += 2  # something that can be learnt
    losses = []
    for _ in range(4):
        loss = model.compute_loss(model(image), label)
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
    image = torch.randn(1, 1, 40, 40)
    with torch.inference_mode():
        assert torch.equal(model(image), loaded(image))
    assert type(loaded) is type(model)
    assert loaded.arguments == model.arguments


@pytest.mark.parametrize("name", MODELS)
def test_deploy_gives_an_equal_new_model(name):
    model = segzoo.create_model(name).eval()
    if not model.is_deployable:
        model.deep_training_lambda.fill_(1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    deployed = model.deploy()
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        expected = model(image)
        assert (deployed(image) - expected).abs().max() <= 2e-5 * expected.abs().max()
    assert not any(parameter.requires_grad for parameter in deployed.parameters())
    again = deployed.deploy()
    assert again.state_dict().keys() == deployed.state_dict().keys()
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in before.items()
    }
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_images_of_other_channels_are_refused_in_one_sentence(name):
    with pytest.raises(segzoo.SegzooError, match="in_channels"):
        segzoo.create_model(name)(torch.randn(1, 2, 32, 32))


@pytest.mark.parametrize("name", MODELS)
def test_deep_copies_and_exports(name):
    """What people do with a module besides calling it."""
    model = segzoo.create_model(name).eval()
    exported = torch.export.export(model, (torch.randn(1, 3, 128, 128),))
    image = torch.randn(1, 3, 128, 128)
    with torch.inference_mode():
        torch.testing.assert_close(exported.module()(image), model(image))
