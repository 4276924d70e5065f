"""Weights that are not finite: refused where they come in and go out, and never a plausible mask."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

import segzoo
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.weights import sha256
from segzoo.nn import fuse

SMALLEST = {  # each architecture as small as it gets, on the smallest input that it takes
    "lv_unet": ({}, (32, 32)),
    "cmunext_s": ({}, (32, 32)),
    "med_urwkv": ({"depths": [1, 1, 1, 1], "head_width": 8}, (16, 16)),
    "mednext_s_k3": ({"width": 2}, (16, 16, 16)),
}


@pytest.fixture(scope="module")
def models():
    """One trained-looking model an architecture; its statistics are those of real inputs."""
    made = {}
    for name, (arguments, size) in SMALLEST.items():
        torch.manual_seed(0)
        model = segzoo.create_model(name, in_channels=1, **arguments)
        if name == "lv_unet":
            model.deep_training_lambda.fill_(1)
        with torch.no_grad():
            for _ in range(2):  # batches of two, since batch norm cannot learn of one value
                model.train()(torch.randn(2, 1, *size))
        made[name] = model.eval()
    return made


@pytest.mark.parametrize("name", SMALLEST)
def test_each_poisoned_tensor_is_refused_by_its_name(models, name):
    state = models[name].state_dict()
    require_finite(state, "it")
    for number, (key, value) in enumerate(state.items()):
        if value.is_floating_point():
            poisoned = value.flatten().clone()
            poisoned[-1] = [float("nan"), float("-inf")][number % 2]
            with pytest.raises(segzoo.SegzooError, match=f"in {key}, "):
                require_finite({key: poisoned}, "it")


def test_a_variance_below_0_is_refused(models):
    state = models["cmunext_s"].state_dict()
    with pytest.raises(segzoo.SegzooError, match="running_var"):
        require_finite({**state, "stem.1.running_var": -state["stem.1.running_var"]}, "it")


@pytest.mark.parametrize("name", SMALLEST)
def test_no_tensor_that_is_poisoned_in_memory_makes_a_mask(models, name):
    """The check is gone round: the weights of the deployed network are NaN, one tensor after another of every kind."""
    deployed, (_, size) = models[name].deploy(), SMALLEST[name]
    kinds = {re.sub(r"\d+", "N", key): key for key in deployed.state_dict() if not deployed.is_training_only(key)}
    for key in kinds.values():
        value = deployed.state_dict()[key]
        if value.is_floating_point() and key != "deep_training_lambda":
            kept = value.clone()
            poison_tensor(value, float("nan"))
            assert not probabilities(deployed, size).isfinite().all(), key
            value.copy_(kept)
    assert probabilities(deployed, size).isfinite().all()


@pytest.mark.parametrize("name", ["lv_unet", "cmunext_s"])
def test_weights_too_large_give_what_the_network_gives_unfused(models, name, monkeypatch):
    """Finite weights of 1e38, one tensor after another: sums overflow inside, and infinity less infinity is NaN."""
    deployed, (_, size) = models[name].deploy(), SMALLEST[name]
    outcomes = set()
    for number, value in enumerate(deployed.state_dict().values()):
        if value.is_floating_point():
            kept = value.clone()
            poison_tensor(value, 1e38 * (-1) ** number)
            found = probabilities(deployed, size)
            with monkeypatch.context() as patch:
                patch.setattr(fuse, "HAS_ONEDNN", False)
                plain = probabilities(deployed, size)
            torch.testing.assert_close(found, plain, atol=1e-4, rtol=0, equal_nan=True)
            outcomes.add(bool(plain.isfinite().all()))
            value.copy_(kept)
    assert outcomes == {True, False}


def poison_tensor(tensor, value):
    """In place: its first row, or all of a scalar."""
    (tensor[0] if tensor.ndim else tensor).fill_(value)


def probabilities(network, size):
    """Of an input that is always the same."""
    x = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.activate(network(x))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    return model.eval()


def poison(model, value=float("nan")):
    with torch.no_grad():
        model.head.bias.fill_(value)


def test_it_is_neither_saved_nor_exported(model, tmp_path, refused):
    kept = model.save_pretrained(tmp_path / "mine")
    before = (kept / "model.safetensors").read_bytes()
    poison(model)
    with refused(segzoo.SegzooError):
        model.save_pretrained(kept)
    with refused(segzoo.SegzooError):
        model.export(tmp_path / "mine.onnx")
    assert (kept / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_nor_is_what_float16_cannot_hold(model, tmp_path, refused):
    with torch.no_grad():
        model.head.weight.fill_(1e6)
    model.save_pretrained(tmp_path / "whole")
    with refused(segzoo.SegzooError):
        model.save_pretrained(tmp_path / "half", dtype="float16")
    with refused(segzoo.SegzooError):
        model.export(tmp_path / "half.onnx", precision="float16")


def change(folder, **tensors):
    """A checkpoint whose config agrees with other weights."""
    file = folder / "model.safetensors"
    save_file({**load_file(file), **tensors}, file)
    config = json.loads((folder / "config.json").read_text())
    config["sha256"]["model.safetensors"] = sha256(file)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_it_is_not_loaded(model, tmp_path, value, refused):
    """1e300 is finite where it is stored, in float64, and not in the model."""
    folder = model.save_pretrained(tmp_path / "mine")
    change(folder, **{"head.bias": torch.tensor([value], dtype=torch.float64)})
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder)


def test_it_is_not_converted_and_not_gone_on_from(model, refused):
    poison(model)
    with refused(segzoo.SegzooError):
        segzoo.convert(model.state_dict(), segzoo.create_model("cmunext_s"))
    with refused(segzoo.SegzooError):
        model.on_load_checkpoint({"state_dict": model.state_dict()})


@pytest.mark.parametrize("name", ["lv_unet", "med_urwkv"])
@pytest.mark.parametrize("value", [float("nan"), 1e300])
def test_no_encoder_starts_from_it(models, tmp_path, name, value, refused):
    """Of a file that somebody gives; those of the Hub pass the same place."""
    state = {key: tensor.clone() for key, tensor in models[name].encoder.state_dict().items()}
    first = next(key for key, tensor in state.items() if tensor.is_floating_point())
    state[first] = state[first].double()
    state[first].view(-1)[-1] = value
    save_file(state, tmp_path / "encoder.safetensors")
    with refused(segzoo.SegzooError):
        segzoo.create_model(
            name, in_channels=1, encoder_weights=str(tmp_path / "encoder.safetensors"), **SMALLEST[name][0]
        )


def test_no_network_of_large_kernels_starts_from_it(refused):
    small, large = (segzoo.create_model(f"mednext_s_{kernel}", width=2) for kernel in ("k3", "k5"))
    before = large.state_dict()["head.bias"].clone()
    poison(small)
    with refused(segzoo.SegzooError):
        segzoo.upkern(small, large)
    assert torch.equal(large.state_dict()["head.bias"], before)


def test_a_mask_of_it_is_refused(model, samples, refused):
    poison(model)
    with refused(segzoo.SegzooError):
        model.predict(next((samples / "BUSI").rglob("*[0-9]).png")))
