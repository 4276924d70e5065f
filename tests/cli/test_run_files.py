"""Files that a run goes on from: damaged ones, and a disk without room."""

import logging
import re
import resource
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import processes
from segzoo import cli
from segzoo.cli.run_files import BEST, LAST, PREVIOUS, STATE, ReplacingCheckpointIO, damage
from segzoo.cli.run_folder import resume_file
from segzoo.errors import SegzooError

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"]
QUIET += ["false", "--trainer.num_sanity_val_steps", "0", "--trainer.limit_train_batches", "1"]
QUIET += ["--trainer.limit_val_batches", "1", "--trainer.logger", "false"]
FIT = ["fit", *QUIET, "--pictures", "0"]  # drawing takes a fifth of so short a run


def command(samples: Path, run: Path, epochs: int, *options: Any) -> list[str]:
    data = ["--data", "BUSI", "--data.root", samples, "--data.split", "all", "--data.image_size", 32]
    arguments = [*FIT, "--model", "cmunext_s", *data, "--data.batch_size", 4, "--trainer.max_epochs", epochs]
    return [str(argument) for argument in (*arguments, "--trainer.default_root_dir", run, *options)]


def state_of(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def finished(samples, tmp_path_factory) -> Path:
    """Three epochs."""
    run = tmp_path_factory.mktemp("runs") / "run"
    assert cli.main(command(samples, run, 3)) == 0
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy to damage."""
    return shutil.copytree(finished, tmp_path / "run")


def flipped(contents: bytes, place: int | None = None, bits: int = 1) -> bytes:
    """One byte is another; in the middle of a file of ours that is one of the weights."""
    place = len(contents) // 2 if place is None else place
    return contents[:place] + bytes([contents[place] ^ bits]) + contents[place + 1 :]


def without_optimizer(file: Path) -> None:
    state = state_of(file)
    del state["optimizer_states"]
    torch.save(state, file)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda file: file.write_bytes(b""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "cut": lambda file: file.write_bytes(file.read_bytes()[:100_000]),
    "flipped": lambda file: file.write_bytes(flipped(file.read_bytes())),
    "no optimizer": without_optimizer,
    "no state": lambda file: torch.save([1, 2], file),
}


# ---- damage


def test_the_last_two_epochs_are_kept(finished):
    assert [state_of(finished / name)["epoch"] for name in (LAST, PREVIOUS)] == [2, 1]
    assert [damage(finished / name, STATE) for name in (LAST, PREVIOUS, BEST)] == [None] * 3


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_falls_back(name, run):
    remaining = [LAST, PREVIOUS, BEST]
    while remaining:
        assert resume_file("fit", run, "last") == str(run / remaining[0])
        DAMAGES[name](run / remaining.pop(0))
    with pytest.raises(SegzooError, match=r"last\.ckpt .*previous\.ckpt .*best\.ckpt"):
        resume_file("fit", run, "last")


def test_a_damaged_file_that_is_asked_for_is_named(run):
    for given in ("best", str(run / PREVIOUS)):
        file = run / (BEST if given == "best" else PREVIOUS)
        file.write_bytes(flipped(file.read_bytes()))
        for verb in ("fit", "test"):
            with pytest.raises(SegzooError, match=file.name):
                resume_file(verb, run, given)


def test_a_run_goes_on_from_the_file_before_a_damaged_one(run, samples, caplog):
    DAMAGES["flipped"](run / LAST)
    before = (run / PREVIOUS).read_bytes()
    caplog.set_level(logging.INFO, "lightning.pytorch")
    assert cli.main(command(samples, run, 3, "--ckpt_path", "last")) == 0
    assert caplog.text.count(f"{run / LAST} is damaged") == 1
    assert state_of(run / LAST)["epoch"] == 2
    assert (run / PREVIOUS).read_bytes() == before  # no damaged file takes its place


def test_any_changed_byte_is_noticed_or_means_nothing(tmp_path):
    saved = {"weights": torch.arange(40.0), "epoch": 3, "name": "a"}
    file = tmp_path / "a.ckpt"
    ReplacingCheckpointIO().save_checkpoint(saved, file)
    contents = file.read_bytes()
    random = np.random.default_rng(0)
    noticed = 0
    for place in random.choice(len(contents), 300, replace=False):
        file.write_bytes(
            contents[:place] + bytes([contents[place] ^ (1 << random.integers(8))]) + contents[place + 1 :]
        )
        if damage(file, saved) is not None:
            noticed += 1
            continue
        found = state_of(file)
        assert torch.equal(found.pop("weights"), saved["weights"])
        assert found == {"epoch": 3, "name": "a"}
    assert noticed > 50


# ---- no room


def with_little_room(arguments: list[str], most: int) -> None:
    warnings.simplefilter("ignore")  # what is printed goes to files, too
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.exit(cli.main(arguments))


@pytest.mark.parametrize(
    ("epochs", "most", "what"),
    [(5, 100_000, "best.ckpt|last.ckpt"), (3, 2000, "checkpoint"), (5, 1000, "train.yaml")],
)
def test_a_run_without_room_can_go_on(run, samples, epochs, most, what):
    again = command(samples, run, epochs, "--ckpt_path", "last")
    kept = {name: (run / name).read_bytes() for name in (LAST, PREVIOUS, BEST, "split.json")}
    kept |= {"train.yaml": (run / "train.yaml").read_bytes()} if what == "train.yaml" else {}
    kept |= {file: (run / file).read_bytes() for file in ("checkpoint/config.json", "checkpoint/model.safetensors")}
    done = processes.call(with_little_room, again, most)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("segzoo: error")]
    assert re.search(rf"({what}) .*File too large", line)
    assert {name: (run / name).read_bytes() for name in kept} == kept
    assert not [*run.glob("*.part"), *run.glob(".*")]
    assert cli.main(again) == 0
    assert state_of(run / LAST)["epoch"] == epochs - 1


def test_drafts_of_a_killed_training_are_removed(run, samples):
    for name in ("best.ckpt", "train.yaml", "split.json"):
        (run / f"{name}.part").write_bytes(b"half")
    (run / ".checkpoint-abc").mkdir()
    (run / ".checkpoint-abc" / "model.safetensors").write_bytes(b"half")
    assert cli.main(command(samples, run, 3, "--ckpt_path", "last")) == 0
    assert not [*run.glob("*.part"), *run.glob(".*")]
