"""Examples of checkpoints, and `segzoo verify`, which computes them anew."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import segzoo
from segzoo.checkpoints.weights import sha256
from segzoo.cli.command import main
from segzoo.data.samples import read_label
from segzoo.hub.example import add_example
from segzoo.hub.verify import verify
from segzoo.imaging.images import read_image


@pytest.fixture
def image_folder(samples, tmp_path):
    """A model for images with an example: a real image larger than what is kept of it."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(48, 64))
    folder = model.save_pretrained(tmp_path / "images")
    sample = segzoo.data.BUSI(samples / "BUSI").samples()[0]
    image, truth = read_image(sample.image, 3), read_label(sample, 2, False)
    add_example(folder, image, truth, source="BUSI, " + sample.id, licence="CC0-1.0")
    return folder


@pytest.fixture
def volume_folder(samples, tmp_path):
    torch.manual_seed(0)
    model = segzoo.create_model("mednext_s_k3", num_classes=3, width=4)
    model.preprocessing = segzoo.VolumePreprocessing(patch_size=(16, 32, 16))
    folder = model.save_pretrained(tmp_path / "volumes")
    volume = np.random.default_rng(0).normal(size=(1, 20, 24, 18)).astype(np.float32)
    truth = (volume[0] > 1).astype(np.int16)
    add_example(folder, volume, truth, source="made up", licence="CC0-1.0")
    return folder


def change_probe(folder, change):
    """Another probe under a config that agrees with it."""
    file = folder / "probe.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    config = json.loads((folder / "config.json").read_text())
    config["sha256"]["probe.safetensors"] = sha256(file)
    (folder / "config.json").write_text(json.dumps(config))


def test_an_example_is_a_small_image_its_logits_and_a_picture(image_folder, samples):
    probe = load_file(image_folder / "probe.safetensors")
    assert probe["image"].dtype == torch.uint8
    assert max(probe["image"].shape[:2]) == 256
    assert probe["logits"].shape == (1, 48, 64)
    model = segzoo.from_pretrained(image_folder)
    with torch.no_grad():
        expected = model(model.preprocessing(probe["image"].numpy())[None])[0]
    assert torch.equal(probe["logits"], expected)
    picture = Image.open(image_folder / "example.png")
    assert picture.height == 256
    assert picture.width > 2 * picture.height  # three panels
    config = json.loads((image_folder / "config.json").read_text())
    assert config["example"] == {"source": "BUSI, " + segzoo.data.BUSI(samples / "BUSI").samples()[0].id} | {
        "licence": "CC0-1.0"
    }
    assert {"probe.safetensors", "example.png"} <= set(config["sha256"])


def test_a_volumes_example_is_cut_to_the_patch(volume_folder):
    probe = load_file(volume_folder / "probe.safetensors")
    assert probe["image"].shape == (1, 16, 24, 16)
    assert probe["logits"].shape == (3, 16, 24, 16)
    assert Image.open(volume_folder / "example.png").height == 256


def test_without_the_truth_there_is_no_picture(image_folder, samples):
    model = segzoo.from_pretrained(image_folder)
    folder = model.save_pretrained(image_folder.parent / "bare")
    image = read_image(segzoo.data.BUSI(samples / "BUSI").samples()[0].image, 3)
    add_example(folder, image, source="BUSI", licence="CC0-1.0")
    assert (folder / "probe.safetensors").is_file()
    assert not (folder / "example.png").exists()


def test_an_image_that_may_not_be_passed_on_is_refused(image_folder, refused):
    before = sorted(path.name for path in image_folder.iterdir())
    with refused(segzoo.SegzooError):
        add_example(image_folder, np.zeros((8, 8, 3), np.uint8), source="clinic", licence="research only")
    assert sorted(path.name for path in image_folder.iterdir()) == before


@pytest.mark.parametrize("kind", ["image_folder", "volume_folder"])
def test_verify_says_equal(kind, request, capsys):
    folder = request.getfixturevalue(kind)
    assert main(["verify", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{folder}: 3 files intact, its files agree with its own config.json")
    assert out.endswith("its logits are equal\n")


def test_verify_tells_rounding_from_another_result(image_folder, refused):
    def by(amount):
        def change(tensors):
            tensors["logits"] += amount * tensors["logits"].abs().max()

        return change

    change_probe(image_folder, by(1e-5))
    assert "equal up to rounding (1.0e-05)" in verify(image_folder)
    change_probe(image_folder, by(1e-2))
    with refused(segzoo.SegzooError):
        verify(image_folder)
    change_probe(image_folder, lambda tensors: tensors["logits"].fill_(float("nan")))
    with refused(segzoo.SegzooError):
        verify(image_folder)


def test_verify_without_a_probe_checks_the_files_alone(tmp_path, refused):
    folder = segzoo.create_model("cmunext_s").save_pretrained(tmp_path / "bare")
    assert verify(folder).endswith("it has no probe.safetensors, so nothing was computed")
    (folder / "model.safetensors").write_bytes(b"0" * 100)
    with refused(segzoo.SegzooError):
        verify(folder)


def test_verify_goes_on_after_a_damaged_one(image_folder, volume_folder, capsys):
    (image_folder / "probe.safetensors").write_bytes(b"")
    assert main(["verify", str(image_folder), str(volume_folder)]) == 2
    printed = capsys.readouterr()
    assert "its logits are equal" in printed.out
    assert "1 of 2 checkpoints could not be verified" in printed.err.splitlines()[-1]


def test_a_strange_probe_is_one_sentence(image_folder, refused):
    change_probe(image_folder, lambda tensors: tensors.pop("image"))
    with refused(segzoo.SegzooError):
        verify(image_folder)
