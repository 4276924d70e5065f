"""Pushed to a stand-in for the Hub by the real client, and back through every door."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file

import processes
import segzoo
from hub_server import HubServer, client_environment
from segzoo.checkpoints.weights import sha256
from segzoo.hub.publish import pin, plan_upload

ROOT = Path(__file__).parents[2]
NAME = "owner/cmunext-s-tiny"

# in one process: load through the three Python doors, and keep what came
DOORS = """
import sys, numpy, torch, segzoo
from safetensors.torch import save_file
name, root, image, output = sys.argv[1:]
torch.hub.set_dir(output)
doors = {
    "function": lambda: segzoo.from_pretrained(name),
    "class": lambda: segzoo.CMUNeXt.from_pretrained(name),
    "hub": lambda: torch.hub.load(root, "cmunext_s", source="local", pretrained=name),
}
for door, load in doors.items():
    model = load()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, f"{output}/{door}.safetensors")
    numpy.save(f"{output}/{door}.npy", model.predict(image).probabilities)
"""


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def trained(samples, tmp_path_factory):
    """A model that really learned for an epoch."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s")
    data = segzoo.data.BUSI(samples / "BUSI", image_size=32, batch_size=2, num_workers=0)
    folder = tmp_path_factory.mktemp("trained")
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(model, data)
    return model.eval()


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    (tmp_path_factory.getbasetemp() / "train.yaml").write_text("seed_everything: 1\n")
    recipe = tmp_path_factory.getbasetemp() / "train.yaml"
    return trained.save_pretrained(tmp_path_factory.mktemp("push") / "cmunext-s-tiny", train_config=recipe)


def run(server, home, *command, **environment):
    """A process that knows the server alone, and whose cache is its own."""
    return processes.run(command, env=client_environment(server.url, home) | environment)


def shell(server, home, *arguments, **environment):
    return run(server, home, sys.executable, "-m", "segzoo.cli", *arguments, **environment)


@pytest.mark.slow
def test_four_doors_give_the_same_weights_and_predictions(server, trained, folder, samples, tmp_path):
    pushed = shell(server, tmp_path / "home", "push", folder, NAME)
    assert pushed.returncode == 0, pushed.stderr
    image = next((samples / "BUSI").rglob("*[0-9]).png"))
    loaded = run(server, tmp_path / "empty", sys.executable, "-c", DOORS, NAME, ROOT, image, tmp_path)
    assert loaded.returncode == 0, loaded.stderr
    expected = trained.predict(image)
    for door in ("function", "class", "hub"):
        state = load_file(tmp_path / f"{door}.safetensors")
        assert state.keys() == trained.state_dict().keys()
        assert all(torch.equal(state[key], value) for key, value in trained.state_dict().items()), door
        np.testing.assert_array_equal(np.load(tmp_path / f"{door}.npy"), expected.probabilities)
    masks = tmp_path / "masks"
    predicted = shell(server, tmp_path / "another", "predict", NAME, image, "--output", masks)
    assert predicted.returncode == 0, predicted.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(masks / f"{image.stem}.png")), expected.mask)
    assert "its files agree with its own config.json, which nothing else vouches for" in predicted.stderr


def test_a_push_is_one_commit_of_the_listed_files_and_a_tag(server, folder, tmp_path):
    (folder / "notes.txt").write_text("mine alone")
    try:
        pushed = shell(server, tmp_path, "push", folder, NAME, "--private")
    finally:
        (folder / "notes.txt").unlink()
    assert pushed.returncode == 0, pushed.stderr
    repository = server.repositories[NAME]
    assert repository.private
    assert len(repository.commits) == 2  # the repository's own first one, and this
    files = repository.files("v1.0")
    assert set(files) == {".gitattributes", "README.md", "config.json", "model.safetensors", "train.yaml"}
    for name in set(files) - {".gitattributes"}:
        assert repository.blobs[files[name].etag] == (folder / name).read_bytes(), name


def test_nothing_private_is_pushed_where_everybody_reads(server, folder, tmp_path):
    commit = server.add(NAME, {"README.md": b"for all"})
    refused = shell(server, tmp_path, "push", folder, NAME, "--private")
    assert refused.returncode == 2
    assert f"{NAME} is public, and --private is for new repositories" in refused.stderr
    assert server.repositories[NAME].branches == {"main": commit}


def test_pushing_again_changes_nothing_and_other_content_needs_another_version(server, trained, folder, tmp_path):
    for _ in range(2):
        assert shell(server, tmp_path, "push", folder, NAME).returncode == 0
    assert len(server.repositories[NAME].commits) == 2
    other = trained.save_pretrained(tmp_path / "cmunext-s-tiny", metrics=None, licence="MIT")
    refused = shell(server, tmp_path, "push", other, NAME)
    assert refused.returncode == 2
    assert "already has v1.0, with another config.json" in refused.stderr.splitlines()[-1]
    raised = shell(server, tmp_path, "push", other, NAME, "--version", "1.1")
    assert raised.returncode == 0, raised.stderr
    assert set(server.repositories[NAME].tags) == {"v1.0", "v1.1"}
    assert json.loads((other / "config.json").read_text())["version"] == "1.1"


def test_a_version_is_written_into_the_folder_once_it_is_published(server, trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "cmunext-s-tiny")
    (folder / "notes.txt").write_text("mine alone")
    assert shell(server, tmp_path, "push", folder, NAME, "--version", "1.1").returncode == 0
    trained.save_pretrained(folder, licence="MIT")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    refused = shell(server, tmp_path, "push", folder, NAME, "--version", "1.1")
    assert refused.returncode == 2
    assert "already has v1.1, with another config.json" in refused.stderr.splitlines()[-1]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert set(server.repositories[NAME].files("v1.1")) == {".gitattributes", *before} - {"notes.txt"}


@pytest.mark.parametrize("version", ["v1.1", "1.1 beta", "../1", "-"])
def test_a_version_that_makes_no_tag_is_refused_before_anything_goes_up(folder, version, refused):
    with refused(segzoo.SegzooError):
        plan_upload(folder, NAME, version)


def test_pushing_an_older_version_again_leaves_the_newer_ones_card(server, trained, folder, tmp_path):
    newer = trained.save_pretrained(tmp_path / "cmunext-s-tiny", version="1.1", licence="MIT")
    for pushed in (folder, newer, folder):
        assert shell(server, tmp_path, "push", pushed, NAME).returncode == 0
    repository = server.repositories[NAME]
    assert repository.branches["main"] == repository.tags["v1.1"]


def test_a_push_broken_off_before_its_tag_is_finished_by_pushing_again(server, folder, tmp_path):
    assert shell(server, tmp_path, "push", folder, NAME).returncode == 0
    repository = server.repositories[NAME]
    commit = repository.tags.pop("v1.0")
    assert shell(server, tmp_path, "push", folder, NAME).returncode == 0
    assert repository.tags == {"v1.0": commit}


def test_a_card_may_be_reworded_without_another_version(server, trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "cmunext-s-tiny")
    assert shell(server, tmp_path, "push", folder, NAME).returncode == 0
    repository = server.repositories[NAME]
    tagged = repository.tags["v1.0"]
    with (folder / "README.md").open("a") as card:
        card.write("A note.\n")
    for _ in range(2):
        assert shell(server, tmp_path, "push", folder, NAME).returncode == 0
    assert repository.tags == {"v1.0": tagged}
    assert repository.blobs[repository.files("main")["README.md"].etag].endswith(b"A note.\n")
    assert len(repository.commits) == 3


def test_a_dry_run_shows_every_file_and_uploads_none(server, folder, tmp_path):
    shown = shell(server, tmp_path, "push", folder, NAME, "--dry-run", "--version", "7")
    assert shown.returncode == 0, shown.stderr
    assert f"{folder} -> {NAME}, tagged v7:" in shown.stdout
    for file in folder.iterdir():
        if file.name not in ("config.json", "README.md"):  # in which the version changes
            assert f"{file.stat().st_size:,} bytes  {file.name}\n" in shown.stdout
    assert len(shown.stdout.splitlines()) == len(list(folder.iterdir())) + 3  # and what was tried
    assert not server.repositories
    assert json.loads((folder / "config.json").read_text())["version"] == "1.0"


def test_a_damaged_folder_is_not_pushed(server, trained, tmp_path):
    folder = trained.save_pretrained(tmp_path / "damaged")
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    refused = shell(server, tmp_path, "push", folder, NAME)
    assert refused.returncode == 2
    assert "its sha256 differs from config.json" in refused.stderr
    assert not server.repositories


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_TOKEN": HubServer.GUEST}, r"does not let you"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_what_the_hub_does_not_take_is_one_sentence(server, folder, tmp_path, environment, message):
    refused = shell(server, tmp_path, "push", folder, NAME, **environment)
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("segzoo: error: ")]
    assert message in line
    assert "Traceback" not in refused.stderr


def test_a_model_pushes_itself(server, trained, tmp_path, monkeypatch):
    code = (
        "import sys, segzoo; model = segzoo.from_pretrained(sys.argv[1])\n"
        "print(model.push_to_hub('owner/mine', version='2.0', licence='MIT'))"
    )
    folder = trained.save_pretrained(tmp_path / "mine")
    pushed = run(server, tmp_path, sys.executable, "-c", code, folder)
    assert pushed.returncode == 0, pushed.stderr
    repository = server.repositories["owner/mine"]
    assert pushed.stdout.strip() == f"{server.url}/owner/mine/commit/{repository.tags['v2.0']}"
    config = json.loads(repository.blobs[repository.files("v2.0")["config.json"].etag])
    assert (config["name"], config["licences"]["weights"]) == ("mine", "MIT")


def test_the_pins_are_those_of_the_shipped_checkpoints():
    pins = json.loads((ROOT / "src" / "segzoo" / "published.json").read_text(encoding="utf-8"))
    assert pins == pin(ROOT / "model_cards"), "run `python .github/release.py pin`"
    for name, facts in pins.items():
        assert facts["sha256"] == sha256(ROOT / "model_cards" / name / "config.json")
        assert plan_upload(ROOT / "model_cards" / name, f"segzoo/{name}").tag == facts["tag"]
    assert os.environ.get("SEGZOO_HUB") is None
