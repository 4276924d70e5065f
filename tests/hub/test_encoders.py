"""Checkpoints of encoders: what takes them takes them, and what needs classes refuses them by name."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import segzoo
from segzoo.checkpoints.encoder import Encoder, read_stored
from segzoo.checkpoints.encoder_card import card_of
from segzoo.checkpoints.entries import Licences
from segzoo.checkpoints.weights import sha256
from segzoo.cli import main
from segzoo.hub.encoders import build_encoder, save_encoder
from segzoo.hub.publish import pin, plan_upload
from segzoo.nn.vrwkv_sizes import ENCODERS, EncoderSize

NAME = "nano-distilled"
DATA = {
    "datasets": [
        {"dataset": "Photographs", "licence": "CC-BY-4.0", "counts": {"train": 7}},
        {"dataset": "BUSI", "licence": "CC0-1.0", "split": "grouped", "fold": 0, "counts": {"train": 5, "test": 2}},
    ],
    "epochs": 2,
    "of_epochs": 3,
}


@pytest.fixture(autouse=True)
def nano(monkeypatch):
    size = EncoderSize(24, 0.1, plain_scale=None, adapter_scale=1.0, depth=4, img_size=32, deform_num_heads=3)
    monkeypatch.setitem(ENCODERS, "tiny", size)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_encoder(Encoder("vrwkv", "tiny"))


@pytest.fixture
def folder(network, tmp_path, monkeypatch):
    """A mirror with an encoder in it."""
    (tmp_path / "recipe.yaml").write_text("seed: 1\n")
    made = save_encoder(
        network,
        tmp_path / "mirror" / NAME,
        Encoder("vrwkv", "tiny"),
        torch.arange(48 * 40 * 3).remainder(251).to(torch.uint8).view(48, 40, 3),
        recipe=tmp_path / "recipe.yaml",
        data=DATA,
        metrics={"images": 9, "original": {"nearest_neighbour": 0.75}, "protocols": {"nearest_neighbour": "by cosine"}},
        licences=Licences("Apache-2.0", "CC-BY-4.0 + CC0-1.0", "CC-BY-4.0 + CC0-1.0"),
    )
    monkeypatch.setenv("SEGZOO_HUB", str(tmp_path / "mirror"))
    return made


def edited(folder, **changes):
    """Change entries of a config."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---- taken


def test_it_is_listed_apart_from_what_segments(folder, capsys):
    assert NAME in segzoo.list_encoders("nano*")
    assert NAME not in segzoo.list_checkpoints()
    assert main(["list", "nano*"]) == 0
    *_, title, line = capsys.readouterr().out.splitlines()
    assert title == "encoders"
    for part in (NAME, "vrwkv tiny", "nearest neighbour 0.750", "CC-BY-4.0 + CC0-1.0", "here"):
        assert part in line
    assert main(["list", "nano*", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert (list(listed["encoders"]), listed["checkpoints"]) == ([NAME], {})


def test_info_shows_its_config(folder, capsys):
    assert main(["info", NAME]) == 0
    assert json.loads(capsys.readouterr().out)["encoder"] == {"name": "vrwkv", "size": "tiny"}


def test_it_is_pulled_verified_and_pushed(folder, tmp_path, capsys):
    assert main(["pull", NAME, "--to", str(tmp_path / "other")]) == 0
    assert main(["pull", NAME, "--to", str(tmp_path / "other")]) == 0  # over the first
    copied = tmp_path / "other" / NAME
    files = sorted(file.name for file in copied.iterdir())
    assert files == ["README.md", "config.json", "model.safetensors", "probe.safetensors", "train.yaml"]
    capsys.readouterr()
    assert main(["verify", str(copied)]) == 0
    assert "its features are equal" in capsys.readouterr().out
    upload = plan_upload(copied, f"somebody/{NAME}")
    assert sorted(upload.sizes) == files
    assert "its features are equal" in upload.tried


def test_its_pin_tells_that_it_is_an_encoder(folder):
    assert pin(folder.parent)[NAME]["encoder"] == "vrwkv tiny"


def test_the_card_says_what_it_has_seen(folder):
    card = (folder / "README.md").read_text()
    assert card == card_of(read_stored(folder))
    for part in (f'encoder_weights="{NAME}"', "Photographs: 7 images; CC-BY-4.0", "0.7500", "2 of the recipe's 3"):
        assert part in card
    assert "not a medical device" in card


@pytest.mark.parametrize("form", ["plain", "adapter"])
def test_a_model_starts_from_it_by_name(folder, network, form):
    model = segzoo.create_model("med_urwkv", encoder=form, encoder_weights=NAME)
    expected = network.state_dict()
    found = model.encoder.state_dict()
    taken = [name for name in expected if name in found]
    assert len(taken) >= len(expected) - 2  # but for the last norm, which the adapter form has not
    for name in taken:
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-3)
    assert model.data == DATA
    assert model.licence == "CC-BY-4.0 + CC0-1.0"


# ---- refused


@pytest.mark.parametrize(
    "command",
    [
        ["predict", NAME, "scan.png", "--output", "masks"],
        ["export", NAME, "encoder.onnx"],
        ["test", "--model", NAME, "--data", "BUSI"],
        ["tune", NAME, "--data", "BUSI", "--data.root", "busi", "--output", "tuned"],
        ["fit", "--model", NAME, "--data", "BUSI"],
    ],
    ids=lambda command: command[0],
)
def test_what_needs_classes_refuses_it(folder, tmp_path, samples, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((samples / "BUSI").rglob("*.png")), "scan.png")
    assert main(command) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert NAME in said
    assert "encoder_weights" in said


def test_it_is_no_model(folder, refused):
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(NAME)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "vrwkv"},
        {"encoder": {"name": "vrwkv"}},
        {"encoder": {"name": "vrwkv", "size": 3}},
        {"encoder": {"name": "vrwkv", "size": "huge"}},
        {"encoder": {"name": "resnet", "size": "tiny"}},
        {"encoder": {"name": "vrwkv", "size": "small"}},
        {"format": 5},
        {"sha256": {}},
    ],
    ids=str,
)
def test_a_strange_config_is_refused(folder, capsys, changes):
    edited(folder, **changes)
    assert main(["verify", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err or "huge" in str(changes) or "resnet" in str(changes)


def test_other_weights_are_refused(folder, capsys):
    for change in (lambda state: state.pop("pos_embed"), lambda state: state["pos_embed"].fill_(float("nan"))):
        state = load_file(folder / "model.safetensors")
        kept = {name: value.clone() for name, value in state.items()}
        change(state)
        save_file(state, folder / "model.safetensors")
        hashes = json.loads((folder / "config.json").read_text())["sha256"]
        assert main(["verify", str(folder)]) == 2  # not what was saved
        assert "sha256" in capsys.readouterr().err
        edited(folder, sha256={**hashes, "model.safetensors": sha256(folder / "model.safetensors")})
        assert main(["verify", str(folder)]) == 2
        assert str(folder) in capsys.readouterr().err
        save_file(kept, folder / "model.safetensors")
        edited(folder, sha256={**hashes, "model.safetensors": sha256(folder / "model.safetensors")})


def test_other_features_are_refused(folder, capsys):
    probe = load_file(folder / "probe.safetensors")
    save_file({"image": probe["image"], "features": probe["features"] * 1.01}, folder / "probe.safetensors")
    hashes = json.loads((folder / "config.json").read_text())["sha256"]
    edited(folder, sha256={**hashes, "probe.safetensors": sha256(folder / "probe.safetensors")})
    assert main(["verify", str(folder)]) == 2
    assert "other features" in capsys.readouterr().err


def test_a_name_that_is_none_names_those_there_are(folder, refused):
    with refused(segzoo.MissingError):
        segzoo.create_model("med_urwkv", encoder_weights="nano-dstld")
