import math

import pytest
import torch
from safetensors.torch import save_file

import segzoo
from segzoo.models.lv_unet import LVUNet


@pytest.fixture(scope="module")
def model() -> LVUNet:
    return segzoo.create_model("lv_unet")


def test_the_schedule_is_the_papers_cosine_and_ends_at_exactly_one(model):
    slopes = [model.deep_training_schedule(epoch, 300) for epoch in range(300)]
    assert slopes[0] == 0
    assert slopes[135] == pytest.approx(1 - math.cos(math.pi / 4))  # half of the 270 epochs in which it rises
    assert slopes == sorted(slopes)
    assert max(slopes[:270]) < 1
    assert set(slopes[270:]) == {1.0}


@pytest.mark.parametrize("epochs", [1, 2, 3, 7])
def test_short_trainings_end_at_one_too(model, epochs):
    assert model.deep_training_schedule(epochs - 1, epochs) == 1


def test_the_slope_is_a_scalar_buffer_that_is_saved(model):
    assert model.state_dict()["deep_training_lambda"].shape == ()
    assert model.deep_training_lambda == 0


def test_below_one_the_model_is_neither_fused_nor_best(refused):
    model = segzoo.create_model("lv_unet")
    model.deep_training_lambda.fill_(0.9999)
    assert not model.competes_for_best
    with refused(segzoo.SegzooError):
        model.deploy()
    model.deep_training_lambda.fill_(1)
    assert model.competes_for_best
    assert model.deploy().deployed


def test_without_deep_training_every_epoch_competes():
    assert segzoo.create_model("lv_unet", deep_training=False).competes_for_best


def test_the_deployed_form_is_the_published_size_and_can_be_loaded():
    model = segzoo.create_model("lv_unet")
    model.deep_training_lambda.fill_(1)
    deployed = model.deploy()
    # the paper's 513,585, less one number for each channel of the MobileNet's norms, which it does not fold
    assert sum(parameter.numel() for parameter in deployed.parameters()) == 513_585 - 2600
    assert "deep_training_lambda" not in deployed.state_dict()
    empty = segzoo.create_model("lv_unet", deployed=True)
    assert all(parameter.requires_grad for parameter in empty.parameters())  # it can be trained on
    empty.load_state_dict(deployed.state_dict(), strict=True)


def test_a_deployed_model_is_saved_and_loaded_as_such(tmp_path):
    model = segzoo.create_model("lv_unet")
    model.deep_training_lambda.fill_(1)
    loaded = segzoo.from_pretrained(model.deploy().save_pretrained(tmp_path / "deployed"))
    assert loaded.deployed


def test_encoder_weights_from_a_file_with_and_without_other_channels(tmp_path):
    import timm

    name = "tf_mobilenetv3_large_minimal_100"
    whole = timm.create_model(name)
    save_file(whole.state_dict(), tmp_path / "encoder.safetensors")
    for channels, expected in ((3, whole.conv_stem.weight), (1, whole.conv_stem.weight.sum(1, keepdim=True))):
        model = segzoo.create_model(
            "lv_unet", in_channels=channels, encoder=name, encoder_weights=str(tmp_path / "encoder.safetensors")
        )
        torch.testing.assert_close(model.encoder.conv_stem.weight, expected)
        torch.testing.assert_close(model.encoder.blocks[3][2].conv_pwl.weight, whole.blocks[3][2].conv_pwl.weight)
        assert model.preprocessing.mean == (0.5,) * channels  # what those weights were trained with
        assert "encoder_weights" not in model.arguments


def test_encoder_weights_that_do_not_fit_are_one_sentence(tmp_path, refused):
    save_file({"conv_stem.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04not tensors")
    for file in ("other", "pickle", "none"):
        with refused(segzoo.SegzooError):
            segzoo.create_model("lv_unet", encoder_weights=str(tmp_path / f"{file}.safetensors"))


def test_the_encoder_is_cut_at_the_papers_layers(model):
    sizes = [(x.shape[1], x.shape[2]) for x in model.encoder(torch.randn(1, 3, 128, 128))]
    assert sizes == [(24, 32), (40, 16), (80, 8)]
    norm = model.encoder.blocks[3][2].bn3
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_the_shared_imagenet_weights_load(shared):
    file = shared / "weights" / "mobilenetv3_large_minimal_imagenet.safetensors"
    if not file.is_file():
        pytest.skip("the ImageNet weights are not in the shared folder")
    model = segzoo.create_model("lv_unet", encoder="tf_mobilenetv3_large_minimal_100", encoder_weights=str(file))
    assert model.encoder.conv_stem.weight.std() > 0.05  # ImageNet-trained kernels, not timm's random ones
