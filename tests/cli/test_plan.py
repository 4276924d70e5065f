"""``segzoo plan``, and the plan of ``segzoo fit`` where sizes are not given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from segzoo import cli
from segzoo.checkpoints.config import read_config
from segzoo.cli import train_plan
from segzoo.cli.train import TrainingCLI

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"]
QUIET += ["false", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
QUIET += ["--trainer.num_sanity_val_steps", "0"]
FIT = ["fit", *QUIET, "--pictures", "0"]  # drawing takes a fifth of so short a run


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same memory wherever this runs, and no GPU."""
    monkeypatch.setattr(train_plan, "memory_for_training", lambda accelerator: (2**33, True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of 40 x 60 pixels, with their masks."""
    root = tmp_path_factory.mktemp("mine")
    generator = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(10):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 5 : 20 + 2 * number] = 255
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
        Image.fromarray(generator.integers(0, 120, (40, 60), np.uint8) + mask // 2).save(
            root / "images" / f"{number}.png"
        )
    return root


def fit(root: Path, *options: Any, epochs: int = 1) -> dict[str, Any]:
    """Train in this process; returns the run's train.yaml."""
    words = [*FIT, "--trainer.max_epochs", epochs, "--trainer.default_root_dir", root, *options]
    assert cli.main([str(word) for word in words]) == 0
    return yaml.safe_load((root / "train.yaml").read_text())


def mine(folder: Path) -> list[Any]:
    return ["--model", "cmunext_s", "--data", "Folder", "--data.root", folder]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Options that a run has when it begins; it does not."""
    monkeypatch.setattr(TrainingCLI, "_run_subcommand", lambda self, subcommand: None)
    return lambda *words: TrainingCLI([str(word) for word in [*FIT, *words]]).options


def names(reasons: Any) -> list[str]:
    return [reason.partition(" ")[0] for reason in reasons]


# ---- segzoo plan


@pytest.mark.parametrize(
    ("data", "options", "begin"),
    [
        (".", [], ["image_size 256 x 256", "strides 128 x 128", "batch_size 8"]),
        (".", ["--model", "lv-unet-busi"], ["strides 128 x 128", "batch_size 8"]),
        (".", ["--model", "mednext_s_k3"], ["image_size 208 x 304", "strides 16 x 16", "batch_size 8"]),
        (
            "Task04_Hippocampus",
            [],
            ["spacing 1 x 1 x 1", "patch_size 32 x 56 x 40", "strides 2x2x2, 2x2x2, 2x2x2, 1x1x1", "batch_size 2"],
        ),
    ],
)
def test_plan_says_sizes_and_reasons(samples, capsys, data, options, begin):
    assert cli.main(["plan", str(samples / data), *options]) == 0
    first, *reasons = capsys.readouterr().out.splitlines()
    assert "training images" in first
    assert [reason.partition(":")[0].partition(" in all")[0] for reason in reasons] == begin
    assert all(len(reason.partition(": ")[2]) > 10 for reason in reasons)


@pytest.mark.parametrize(
    "words", [["nowhere"], ["Task04_Hippocampus", "--model", "cmunext"], [".", "--model", "my.Net"]]
)
def test_what_cannot_be_planned_is_one_sentence(samples, capsys, words):
    assert cli.main(["plan", str(samples / words[0]), *words[1:]]) == 2
    assert capsys.readouterr().err.startswith("segzoo: error: ")


def test_thick_slices_and_large_data_are_planned_on_the_whole_datasets(shared, capsys):
    for name, patch in (("ACDC_half", "10 x 128 x 112"), ("Task04_Hippocampus", "40 x 56 x 40")):
        if not (shared / "data" / name).is_dir():
            pytest.skip(f"the dataset {name} is not in {shared / 'data'}")
        assert cli.main(["plan", str(shared / "data" / name)]) == 0
        assert f"patch_size {patch}" in capsys.readouterr().out


# ---- segzoo fit


def test_sizes_that_nobody_gives_follow_from_the_data_and_stay(folder, tmp_path, capsys):
    run = tmp_path / "run"
    recipe = fit(run, *mine(folder))
    chosen = recipe["data"]["init_args"]
    assert (chosen["image_size"], chosen["batch_size"]) == ([48, 64], 8)
    assert names(recipe["plan"]) == ["image_size", "strides", "batch_size"]
    assert f"segzoo: {recipe['plan'][0]}" in capsys.readouterr().out
    assert read_config(run / "checkpoint").entries["preprocessing"]["image_size"] == [48, 64]

    # train.yaml trains the same again, on any machine
    again = tmp_path / "again"
    assert cli.main(["fit", "-c", str(run / "train.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    assert (again / "train.yaml").read_text() == (run / "train.yaml").read_text()


def test_a_run_goes_on_at_the_sizes_it_began_with(folder, tmp_path, monkeypatch):
    run = tmp_path / "run"
    before = fit(run, *mine(folder))
    monkeypatch.setattr(train_plan, "memory_for_training", lambda accelerator: (2**24, True))
    after = fit(run, *mine(folder), "--ckpt_path", "last", epochs=2)
    assert after["data"] == before["data"]
    assert after["plan"] == before["plan"]


def test_a_run_that_had_no_plan_goes_on_without_one(folder, tmp_path):
    run = tmp_path / "run"
    before = fit(run, *mine(folder), "--plan", "paper", "--data.image_size", 32)
    assert before["plan"] == "paper"
    after = fit(run, *mine(folder), "--data.image_size", 32, "--ckpt_path", "last", epochs=2)
    assert after["plan"] == "paper"
    assert after["data"] == before["data"]


def test_what_is_given_is_taken(folder, samples, tmp_path, asked):
    given = asked(*mine(folder), "--data.image_size", 32, "--data.batch_size=4")
    assert (given.data.init_args.image_size, given.data.init_args.batch_size) == (32, 4)
    assert names(given.plan) in ([], ["strides"])
    half = asked(*mine(folder), "--data.image_size", 32)
    assert (half.data.init_args.image_size, half.data.init_args.batch_size) == (32, 8)
    assert names(half.plan) == ["strides", "batch_size"]
    paper = asked(*mine(folder), "--plan", "paper")
    assert (paper.data.init_args.image_size, paper.data.init_args.batch_size) == (None, 8)
    named = asked("--model", "cmunext_s", "--data", "BUSI", "--data.root", samples, "--data.split", "all")
    assert (named.data.init_args.image_size, named.plan) == (None, "paper")
    file = tmp_path / "mine.yaml"
    chosen = {"class_path": "segzoo.data.Folder", "init_args": {"root": str(folder)}}
    file.write_text(yaml.safe_dump({"data": chosen}))
    written = asked("-c", file, "--model", "cmunext_s")
    assert (written.data.init_args.image_size, written.plan) == (None, "paper")


def test_a_checkpoint_is_trained_further_at_its_own_size(folder, asked):
    options = asked("--model", "lv-unet-busi", "--data", "Folder", "--data.root", folder)
    assert options.data.init_args.image_size is None
    assert names(options.plan) == ["strides", "batch_size"]


def test_strides_of_a_new_network_follow_and_a_given_patch_keeps_them(samples, asked):
    words = ["--model", "mednext_s_k3", "--model.num_classes", 3, "--data", "Decathlon", "--data.split", "all"]
    words += ["--data.root", samples / "Task04_Hippocampus"]
    given = asked(*words, "--data.patch_size", "[16,16,16]")
    assert given.model.init_args.strides is None
    assert given.data.init_args.spacing == (1.0, 1.0, 1.0)
    options = asked(*words)
    assert options.model.init_args.strides == [[2, 2, 2]] * 3 + [[1, 1, 1]]
    assert options.data.init_args.patch_size == (40, 48, 40)
    assert names(options.plan) == ["spacing", "patch_size", "strides", "batch_size"]
