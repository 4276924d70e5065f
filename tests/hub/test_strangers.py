"""Strangers' checkpoints and folders: nothing leads elsewhere, nothing grows without end, none stops the others."""

import json
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.fill import read_weights
from segzoo.checkpoints.pins import published
from segzoo.checkpoints.weights import sha256
from segzoo.cli.command import main
from segzoo.hub import publish
from segzoo.hub.example import add_example
from segzoo.hub.find import open_checkpoint, pull
from segzoo.hub.listing import checkpoint_folders
from segzoo.hub.publish import plan_upload

PINNED = "lv-unet-busi"


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    return model.eval()


@pytest.fixture
def folder(model, tmp_path):
    return model.save_pretrained(tmp_path / "hub" / "mine")


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


# ---- what is hashed is what is used


def test_weights_that_change_after_they_were_checked_are_not_loaded(folder, refused):
    found = open_checkpoint(folder)
    file = folder / "model.safetensors"
    file.write_bytes(bytes([*file.read_bytes()[:-1], 7]))
    with refused(segzoo.SegzooError):
        read_weights(found.folder, found.config)


def test_a_config_that_changes_after_it_was_read_changes_nothing(folder):
    found = open_checkpoint(folder)
    identity = found.identity
    edit(folder, version="9")
    assert found.identity == identity != open_checkpoint(folder).identity


@pytest.mark.parametrize("path", [True, False], ids=["by its path", "by a name that is pinned"])
def test_what_a_killed_save_has_left_is_looked_at_for_paths_alone(model, tmp_path, monkeypatch, path):
    model.save_pretrained(tmp_path / PINNED).rename(tmp_path / f".{PINNED}.old")
    monkeypatch.chdir(tmp_path)
    found = open_checkpoint(f"./{PINNED}" if path else PINNED)
    assert found.trust.startswith("as published") is not path
    assert os.path.isdir(tmp_path / PINNED) is path


def test_a_folder_that_changes_after_it_was_tried_is_not_pushed(folder, model, refused):
    upload = plan_upload(folder, "owner/name")
    before = upload.content("config.json")
    torch.nn.init.zeros_(model.head.weight)
    model.save_pretrained(folder, name="mine")
    assert upload.content("config.json") == before
    with refused(segzoo.SegzooError):
        upload.content("model.safetensors")


def test_a_link_is_neither_pushed_nor_pulled(folder, tmp_path, refused):
    private = tmp_path / "private.txt"
    private.write_text("private")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(private)
    with refused(segzoo.SegzooError):
        plan_upload(folder, "owner/mine")
    with refused(segzoo.SegzooError):
        pull(str(folder), tmp_path / "mirror")
    assert not (tmp_path / "mirror").exists()


def test_the_links_of_the_clients_cache_are_its_own(folder, tmp_path):
    """Snapshots of links to blobs; what leads out of the blobs is none of these."""
    snapshot, blobs = tmp_path / "cache" / "snapshots" / "abc", tmp_path / "cache" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in folder.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(blobs / file.name)
    made = pull(str(snapshot), tmp_path / "mirror")
    assert not any(file.is_symlink() for file in made.iterdir())
    assert segzoo.from_pretrained(made).model_name == "cmunext_s"


def test_a_card_that_is_not_the_pinned_one_is_told_and_left_behind(tmp_path, monkeypatch, caplog, refused):
    made = pull(PINNED, tmp_path)
    assert sha256(made / "README.md") == published()[PINNED]["card_sha256"]
    with (made / "README.md").open("a") as card:
        card.write("Send us your images.\n")
    monkeypatch.setenv("SEGZOO_HUB", str(tmp_path))
    with refused(segzoo.SegzooError):
        segzoo.hub.verify.verify(PINNED)
    again = pull(PINNED, tmp_path / "again")
    assert not (again / "README.md").exists()
    assert "README.md" in caplog.text


# ---- a push tries what it publishes


def test_a_push_computes_the_probe_and_says_so(folder, refused):
    assert "no probe.safetensors" in str(plan_upload(folder, "owner/mine"))
    add_example(folder, np.zeros((32, 32, 3), np.uint8), source="made up", licence="CC0-1.0")
    assert "its logits are equal" in str(plan_upload(folder, "owner/mine"))
    file = folder / "probe.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "logits": tensors["logits"] + 1}, file)
    edit(folder, sha256={**read_config(folder).sha256, file.name: sha256(file)})
    with refused(segzoo.SegzooError):
        plan_upload(folder, "owner/mine")


def test_a_push_says_that_a_model_which_is_not_here_was_not_tried(folder):
    edit(folder, model={"name": "their_net", "arguments": {}, "package": "their-nets"})
    assert "not tried, since the model 'their_net'" in str(plan_upload(folder, "owner/mine"))


# ---- limits


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (16, "SEGZOO_MAX_PARAMETERS"),
        (60_000, "SEGZOO_MAX_PARAMETERS|makes no model"),
        (-4, "makes no model"),
        (0, "makes no model"),
    ],
)
def test_a_model_that_would_fill_the_memory_or_cannot_be_is_refused(folder, monkeypatch, width, message):
    monkeypatch.setenv("SEGZOO_MAX_PARAMETERS", "100000")
    arguments = {"in_channels": 3, "num_classes": 1, "width": width}
    edit(folder, model={"name": "mednext_s_k3", "arguments": arguments})
    with pytest.raises(segzoo.SegzooError, match=message):
        segzoo.from_pretrained(folder)


class SilentHub:
    """The Hub's client where one of its calls never ends."""

    token = None

    def __init__(self, silent):
        self.silent = silent

    def __getattr__(self, call):
        answers = {
            "create_repo": "address",
            "repo_info": SimpleNamespace(private=True),
            "list_repo_refs": SimpleNamespace(tags=[]),
            "create_commit": SimpleNamespace(oid="1", commit_url="address/commit/1"),
            "create_tag": None,
        }
        return lambda *_, **__: threading.Event().wait(30) if call == self.silent else answers[call]


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        ("create_repo", "ANSWER_SECONDS"),
        ("repo_info", "ANSWER_SECONDS"),
        ("list_repo_refs", "ANSWER_SECONDS"),
        ("create_commit", "UPLOAD_SECONDS"),
        ("create_tag", "ANSWER_SECONDS"),
    ],
)
def test_a_push_that_does_not_end_is_given_up(folder, monkeypatch, call, limit):
    monkeypatch.setattr(publish, "reach", lambda: None)
    upload = publish.plan_upload(folder, "owner/name")
    monkeypatch.setenv(f"SEGZOO_MAX_{limit}", "1")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: SilentHub(call))
    with pytest.raises(segzoo.MissingError, match=rf"owner/name has taken 2 seconds.*SEGZOO_MAX_{limit}"):
        publish.push(upload, private=True)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda **_: SilentHub(None))
    assert publish.push(upload, private=True) == "address/commit/1"


# ---- one does not stop the others


def spoil(root):
    """Every kind of folder that is no checkpoint."""
    for name, content in {
        "no-json": b"{",
        "no-utf8": b"\xff\xfe",
        "deep": 10**6 * b"[",
        "words": json.dumps({"format": 1}).encode(),
    }.items():
        (root / name).mkdir()
        (root / name / "config.json").write_bytes(content)
        (root / name / "model.safetensors").write_bytes(b"")
    (root / "folder" / "config.json").mkdir(parents=True)
    (root / "folder" / "model.safetensors").write_bytes(b"")
    (root / "pipe").mkdir()
    os.mkfifo(root / "pipe" / "config.json")
    (root / "pipe" / "model.safetensors").write_bytes(b"")
    (root / "loop").symlink_to("loop")
    (root / "round").symlink_to(".")
    os.mkdir(os.fsencode(root) + b"/odd-\xff")
    return ["no-json", "no-utf8", "deep", "words", "folder", "pipe"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_list_shows_all_whatever_lies_beside_them(folder, monkeypatch, capsys, form):
    bad = spoil(folder.parent)
    edit(folder, data={"dataset": "BUSI"})
    monkeypatch.setenv("SEGZOO_HUB", str(folder.parent))
    assert main(["list", *form]) == 0
    shown = capsys.readouterr().out
    for name in (*bad, "mine", PINNED):
        assert name in shown
    assert set(bad) < set(checkpoint_folders())


@pytest.mark.parametrize("verb", ["verify", "pull"])
def test_each_checkpoint_is_treated_apart(folder, tmp_path, capsys, verb):
    bad = spoil(folder.parent)
    names = [*(str(folder.parent / name) for name in bad), str(folder)]
    assert main([verb, *names, *(["--to", str(tmp_path / "mirror")] if verb == "pull" else [])]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith(str(folder))
    assert f"{len(bad)} of {len(names)} checkpoints" in shown.err.splitlines()[-1]
    assert len([line for line in shown.err.splitlines() if line.startswith("segzoo: not ")]) == len(bad)


# ---- drafts


@pytest.mark.parametrize("what", ["checkpoint", "export"])
def test_drafts_of_yesterday_are_cleared_up(model, tmp_path, what):
    name = "mine" if what == "checkpoint" else "mine.pt2"
    dead, young, other = (
        tmp_path / draft for draft in (f".{name}-dead.writing", f".{name}-young.writing", ".other-dead.writing")
    )
    for draft in (dead, young, other):
        draft.mkdir()
        (draft / "model.safetensors").write_bytes(b"half")
    for draft in (dead, other):
        os.utime(draft, (time.time() - 10**5,) * 2)
    if what == "checkpoint":
        model.save_pretrained(tmp_path / name)
    else:
        model.export(tmp_path / name, size=(32, 32))
    assert {path.name for path in tmp_path.iterdir()} == {name, young.name, other.name}
