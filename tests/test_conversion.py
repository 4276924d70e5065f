"""The original implementations' outputs from their own weights, through segzoo.convert."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import segzoo

GOLDEN = ("cmunext_s", "lv_unet")


@pytest.fixture(scope="module")
def golden(shared):
    """Reference tensors and facts by model name."""

    def load(name: str) -> tuple[dict[str, Tensor], dict]:
        folder: Path = shared / "golden"
        if not (folder / f"{name}.safetensors").is_file():
            pytest.skip(f"the reference outputs of {name} are not in {folder}")
        return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())

    return load


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def converted(name: str, state: dict[str, Tensor], **arguments):
    model = segzoo.create_model(name, **arguments).double().eval()
    model.load_state_dict(segzoo.convert(state, model), strict=True)
    return model


def largest_difference(model, tensors: dict[str, Tensor], outputs: str) -> float:
    """max|a-b| / max|b| over all inputs, in float64."""
    differences = []
    for tag, expected in part(tensors, outputs).items():
        with torch.inference_mode():
            logits = model(tensors[f"input/{tag}"].double())
        differences.append(((logits - expected).abs().max() / expected.abs().max()).item())
    assert len(differences) >= 2
    return max(differences)


def test_cmunext_s_computes_what_the_original_does(golden):
    tensors, _ = golden("cmunext_s")
    assert largest_difference(converted("cmunext_s", part(tensors, "state/")), tensors, "output64/") <= 1e-9


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_lv_unet_computes_what_the_original_does(golden, slope):
    tensors, _ = golden("lv_unet")
    model = converted("lv_unet", part(tensors, "state/"))
    model.deep_training_lambda.fill_(slope)
    assert largest_difference(model, tensors, f"output64/train_structure_lambda{slope}/") <= 1e-9


def test_fused_lv_unet_computes_what_the_original_does(golden):
    tensors, _ = golden("lv_unet")
    fused = converted("lv_unet", part(tensors, "deploy_state/"), deployed=True)
    assert largest_difference(fused, tensors, "output64/deploy/") <= 1e-9
    model = converted("lv_unet", part(tensors, "state/"))
    model.deep_training_lambda.fill_(1)
    assert largest_difference(model.deploy(), tensors, "output64/train_structure_lambda1.0/") <= 1e-9
    # the original fuses in float32
    assert largest_difference(model.deploy(), tensors, "output64/deploy/") <= 5e-6


@pytest.mark.parametrize("name", GOLDEN)
def test_training_mode_computes_the_originals_loss_gradients_and_statistics(golden, name):
    tensors, facts = golden(name)
    model = converted(name, part(tensors, "state/")).train()
    logits = model(tensors["train_mode/input"].double())
    torch.testing.assert_close(logits, tensors["train_mode/output"], rtol=1e-9, atol=1e-9)
    loss = model.compute_loss(logits, (tensors["train_mode/mask"][:, 0] > 0.5).long())
    assert loss.item() == pytest.approx(facts["train_mode"]["loss"], rel=1e-9)
    loss.backward()
    state = part(tensors, "state/")
    names = names_of_originals(state, model)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for original, norm in facts["train_mode"]["grad_norms"].items():
        assert parameters[names[original]].grad.norm().item() == pytest.approx(norm, rel=1e-6, abs=1e-9), original
    for original, norm in facts["train_mode"]["running_stats_l2_after"].items():
        assert buffers[names[original]].norm().item() == pytest.approx(norm, rel=1e-9), original


def names_of_originals(state: dict[str, Tensor], model) -> dict[str, str]:
    """Original name -> ours, found by converting a state dict whose tensors are all numbered."""
    numbered = {
        key: torch.full_like(value, index, dtype=torch.float64) for index, (key, value) in enumerate(state.items())
    }
    keys = list(state)
    ours = {key: value for key, value in segzoo.convert(numbered, model).items() if key != "deep_training_lambda"}
    return {keys[int(value.flatten()[0])]: key for key, value in ours.items()}


@pytest.mark.parametrize("name", GOLDEN)
def test_files_and_containers(golden, name, tmp_path):
    state = part(golden(name)[0], "state/")
    save_file(state, tmp_path / "state.safetensors")
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, tmp_path / "state.pth"
    )
    expected = segzoo.convert(state, name)
    for file in ("state.safetensors", "state.pth"):
        read = segzoo.convert(tmp_path / file, name)
        assert read.keys() == expected.keys()
        assert all(torch.equal(read[key], value) for key, value in expected.items())


class Dangerous:
    def __reduce__(self):
        return (print, ("code from a pickle ran",))


def test_refusals(tmp_path, capsys):
    torch.save({"state_dict": Dangerous()}, tmp_path / "evil.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    for source, message in (
        (tmp_path / "evil.pth", "can run code"),
        (tmp_path / "broken.safetensors", "not a readable"),
        (tmp_path / "none.pth", "no file"),
        ({"stem.conv.0.weight": torch.zeros(8, 3, 3, 3)}, "not the weights of this CMUNeXt"),
    ):
        with pytest.raises(segzoo.SegzooError, match=message):
            segzoo.convert(source, "cmunext_s")
    assert "ran" not in capsys.readouterr().out
