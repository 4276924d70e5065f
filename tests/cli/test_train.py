"""``segzoo fit`` and ``segzoo test`` on the eight real images that the repository ships."""

import csv
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

import processes
import segzoo
from segzoo import cli
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.provenance import seen_before
from segzoo.checkpoints.save import record
from segzoo.cli import train as training_cli
from segzoo.cli.run_files import ReplacingCheckpointIO
from segzoo.cli.train import TrainingCLI
from segzoo.cli.train_checks import split_warning
from segzoo.cli.train_names import spell_out
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.images import read_image
from segzoo.imaging.masks import read_mask
from segzoo.models.lv_unet import LVUNet
from segzoo.module import SegmentationModule

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"]
QUIET += ["false"]
FIT = ["fit", *QUIET, "--pictures", "0"]  # drawing takes a fifth of so short a run: test_train_report looks at it
BRIEF = ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]  # where an epoch is what counts


def busi(samples: Path, size: int = 32, split: str = "all") -> list[str]:
    data = ["--data", "BUSI", "--data.root", str(samples), "--data.split", split]
    return [*data, "--data.image_size", str(size), "--data.batch_size", "4"]


def fit(root: Path, *options: Any, epochs: int = 2, draw: bool = False) -> Path:
    """Train in this process; returns the run's folder."""
    arguments = [
        *(["fit", *QUIET] if draw else FIT),
        "--trainer.max_epochs",
        epochs,
        "--trainer.default_root_dir",
        root,
    ]
    arguments += ["--trainer.num_sanity_val_steps", 0, *options]
    assert cli.main([str(argument) for argument in arguments]) == 0
    return root


def score(root: Path, *options: Any) -> list[dict[str, str]]:
    """Test in this process; returns the rows of test_per_image.csv."""
    arguments = ["test", *QUIET, "--trainer.default_root_dir", root, *options]
    assert cli.main([str(argument) for argument in arguments]) == 0
    return rows_of(root / "test_per_image.csv")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def logged(run: Path, name: str, version: int = 0) -> dict[int, float]:
    """Epoch -> what was logged under a name."""
    rows = rows_of(run / "csv" / f"version_{version}" / "metrics.csv")
    return {int(row["epoch"]): float(row[name]) for row in rows if row.get(name)}


def state_of(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


def command(*arguments: Any) -> dict[str, Any]:
    """What `processes.run` needs to start a fresh Python with this segzoo, on one thread."""
    path = os.pathsep.join(filter(None, [str(Path(segzoo.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return {"command": [sys.executable, *map(str, arguments)], "env": environment}


@pytest.fixture(scope="module")
def run(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of CMUNeXt-S."""
    root = tmp_path_factory.mktemp("runs") / "small"
    return fit(root, "--model", "cmunext_s", *busi(samples))


def fade(self: SegmentationModule) -> None:
    """Validation scores that are best in the first epoch."""
    self.log("val/dice", 1.0 - self.current_epoch)


# ---- what a run leaves


def test_a_run_leaves_everything_in_its_folder(run, samples):
    assert {path.name for path in run.iterdir()} >= {"best.ckpt", "last.ckpt", "train.yaml", "split.json", "checkpoint"}
    assert not list(run.glob("*.part"))
    assert state_of(run / "last.ckpt")["epoch"] == 1
    losses = logged(run, "train/loss")
    assert list(losses) == [0, 1]
    assert losses[1] < losses[0]
    assert list(logged(run, "val/dice")) == [0, 1]
    split = json.loads((run / "split.json").read_text())
    assert split["split"] == "all"
    assert len(split["ids"]["train"]) == len(split["ids"]["test"]) == 8


def test_its_checkpoint_loads_and_predicts(run, samples):
    model = segzoo.from_pretrained(run / "checkpoint")
    assert model.model_name == "cmunext_s"
    assert model.preprocessing.image_size == (32, 32)
    assert model.class_names == ("background", "lesion")
    assert model.data["dataset"] == "BUSI"
    assert model.data["split_sha256"] == json.loads((run / "split.json").read_text())["sha256"]
    assert json.loads((run / "checkpoint" / "config.json").read_text())["name"] == "small"
    image = next((samples / "BUSI").rglob("benign (9).png"))
    assert set(model.predict(image).mask.ravel().tolist()) <= {0, 1}


@pytest.mark.parametrize(("model", "size", "best"), [("cmunext_s", 32, 0), ("lv_unet", 128, 1)])
def test_only_deployable_weights_compete_for_best(tmp_path, samples, monkeypatch, capsys, model, size, best):
    monkeypatch.setattr(SegmentationModule, "on_validation_epoch_end", fade)
    run = fit(tmp_path / "run", "--model", model, *busi(samples, size), *BRIEF)
    state = state_of(run / "best.ckpt")
    assert state["epoch"] == best
    assert state_of(run / "last.ckpt")["epoch"] == 1
    saved = load_file(run / "checkpoint" / "model.safetensors")
    assert saved.keys() == state["state_dict"].keys()
    assert_close(saved, state["state_dict"], rtol=0, atol=0)
    printed = capsys.readouterr().out
    assert "segzoo: BUSI: 8 images: 8 to train, 8 to validate, 8 to test" in printed
    assert f"{run / 'checkpoint'} is the checkpoint (best weights)" in printed
    if model == "lv_unet":
        assert saved["deep_training_lambda"] == 1
        assert logged(run, "deep_training_lambda") == {0: 0.0, 1: 1.0}
        assert segzoo.from_pretrained(run / "checkpoint").deploy().is_deployable


def test_a_training_that_ends_before_its_weights_can_be_deployed_says_so(tmp_path, samples, monkeypatch, capsys):
    monkeypatch.setattr(SegmentationModule, "on_validation_epoch_end", fade)
    stopping = {"monitor": "val/dice", "mode": "max", "patience": 1}
    options = [*BRIEF, "--trainer.callbacks", "EarlyStopping"]
    options += [part for name, value in stopping.items() for part in (f"--trainer.callbacks.{name}", value)]
    said = "training ended before λ = 1, so"
    run = fit(tmp_path / "run", "--model", "lv_unet", *busi(samples, 128), *options, epochs=10)
    assert f"{said} {run / 'checkpoint'} holds the last epoch rather than the best" in capsys.readouterr().out
    fit(tmp_path / "other", "--model", "cmunext_s", *busi(samples), *options, epochs=10)
    assert said not in capsys.readouterr().out


def test_averaged_weights_are_deployable_and_trained_on(tmp_path, samples):
    averaging = ["--trainer.callbacks", "EMAWeightAveraging", "--trainer.callbacks.decay", "0.9"]
    options = ["--model", "lv_unet", *busi(samples, 128), *BRIEF, *averaging]
    run = fit(tmp_path / "run", *options, epochs=3)
    state = state_of(run / "best.ckpt")
    saved = load_file(run / "checkpoint" / "model.safetensors")
    assert saved["deep_training_lambda"] == 1  # and no average of 0, 0.3 and 1
    assert_close(saved, state["state_dict"], rtol=0, atol=0)
    assert not torch.equal(saved["head.weight"], state["current_model_state"]["head.weight"])
    assert segzoo.from_pretrained(run / "checkpoint").deploy().is_deployable
    fit(run, *options, "--ckpt_path", "last", epochs=4)
    assert logged(run, "deep_training_lambda", 1) == {3: 1.0}


def test_without_validation_the_last_weights_are_kept(tmp_path, samples, capsys):
    run = fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), "--trainer.limit_val_batches", 0, epochs=1)
    assert "(last weights)" in capsys.readouterr().out
    assert_close(load_file(run / "checkpoint" / "model.safetensors"), state_of(run / "last.ckpt")["state_dict"])


def test_train_yaml_trains_the_same_model_again(run, tmp_path):
    recipe = yaml.safe_load((run / "train.yaml").read_text())
    # a recipe says how to train, and neither where to nor from where
    assert (recipe["trainer"]["default_root_dir"], recipe["ckpt_path"]) == (None, None)
    assert recipe["trainer"]["max_epochs"] == 2
    assert (run / "checkpoint" / "train.yaml").read_bytes() == (run / "train.yaml").read_bytes()
    again = tmp_path / "again"
    assert cli.main(["fit", "-c", str(run / "train.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    assert (again / "train.yaml").read_text() == (run / "train.yaml").read_text()
    assert logged(again, "train/loss") == logged(run, "train/loss")  # to the last digit
    assert_close(*(load_file(root / "checkpoint" / "model.safetensors") for root in (again, run)))


def test_train_yaml_holds_numbers_and_devices(tmp_path, samples):
    rotation = {"class_path": "torchvision.transforms.v2.RandomRotation", "init_args": {"degrees": 15}}
    options = ["--model", "cmunext_s", *busi(samples), "--data.augmentation", json.dumps([rotation])]
    averaging = ["--trainer.callbacks", "StochasticWeightAveraging", "--trainer.callbacks.swa_lrs", "0.1"]
    run, again = fit(tmp_path / "run", *options, *averaging, *BRIEF, epochs=1), tmp_path / "again"
    recipe = yaml.safe_load((run / "train.yaml").read_text())
    assert recipe["data"]["init_args"]["augmentation"][0]["init_args"]["degrees"] == 15
    assert recipe["trainer"]["callbacks"][0]["init_args"]["device"] == "cpu"
    assert cli.main(["fit", "-c", str(run / "train.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    assert (again / "train.yaml").read_text() == (run / "train.yaml").read_text()


def test_losses_of_torch_and_monai_train_as_train_yaml_says(tmp_path, samples):
    loss = ["--model.loss", "torch.nn.BCEWithLogitsLoss", "--model.loss.pos_weight"]
    options = ["--model", "cmunext_s", *busi(samples), *BRIEF]
    run, again = fit(tmp_path / "run", *options, *loss, "[3.5]", epochs=1), tmp_path / "again"
    recipe = yaml.safe_load((run / "train.yaml").read_text())
    assert recipe["model"]["init_args"]["loss"]["init_args"]["pos_weight"] == [3.5]
    assert cli.main(["fit", "-c", str(run / "train.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    assert (again / "train.yaml").read_text() == (run / "train.yaml").read_text()
    assert logged(again, "train/loss") == logged(run, "train/loss")
    other = fit(tmp_path / "other", *options, *loss, "1", epochs=1)
    assert logged(other, "train/loss")[0] < logged(run, "train/loss")[0]
    focal = ["--model.loss", "monai.losses.DiceFocalLoss", "--model.loss.gamma", "1.5"]
    assert logged(fit(tmp_path / "focal", *options, *focal, epochs=1), "train/loss")[0] > 0


def test_rare_classes_weigh_more_where_that_is_asked_for(tmp_path, samples, capsys, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    options = ["--model", "cmunext_s", *busi(samples), *BRIEF]
    run = fit(tmp_path / "run", *options, "--data.class_weights", "balanced", epochs=1)
    assert "weights of the classes: background 0.5" in caplog.text
    plain = fit(tmp_path / "plain", *options, epochs=1)
    losses = [logged(root, "train/loss")[0] for root in (run, plain)]
    assert losses[0] != losses[1]
    wrong = ["--model.loss", "monai.losses.BoundaryLoss", "--data.class_weights", "balanced"]
    arguments = [*FIT, *options, *wrong, "--trainer.default_root_dir", tmp_path / "wrong"]
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert "BoundaryLoss" in capsys.readouterr().err


UNTOLD = object()


class Still:
    """An augmentation with an argument that no text stands for."""

    def __init__(self, mark: Any = UNTOLD) -> None:
        self.mark = mark

    def __call__(self, image: Any, label: Any) -> tuple[Any, Any]:
        return image, label


def test_a_run_that_train_yaml_could_not_hold_is_refused(tmp_path, samples, capsys):
    arguments = [*FIT, "--model", "cmunext_s", *busi(samples), "--data.augmentation"]
    arguments += [json.dumps([{"class_path": f"{__name__}.Still"}])]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert "train.yaml cannot hold mark: <object object" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fast_dev_run_leaves_nothing(tmp_path, samples):
    run = fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), "--trainer.fast_dev_run", "true")
    assert not run.exists()


def test_a_run_goes_below_runs_by_default(tmp_path, samples, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", *QUIET, *busi(samples)]
    options += ["--trainer.limit_val_batches", "0"]
    for model, folder in (("cmunext_s", "cmunext_s-busi"), (str(run / "checkpoint"), "small-busi")):
        assert cli.main(["fit", "--model", model, *options]) == 0
        assert (tmp_path / "runs" / folder / "checkpoint" / "config.json").is_file()
    folds = busi(samples, split="grouped")
    assert cli.main(["fit", "--model", "cmunext_s", *options, *folds, "--data.fold", "1"]) == 0
    assert (tmp_path / "runs" / "cmunext_s-busi-fold1" / "checkpoint" / "config.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.loss", "segzoo.training.losses.DiceCELoss", "--model.loss.smooth", "0"], "smooth"),
        (["--model.loss", "torch.nn.CrossEntropyLoss"], "CrossEntropyLoss"),
        (["--model.loss", "torch.nn.BCEWithLogitsLoss", "--model.loss.pos_weight", "[many]"], "pos_weight"),
        (["--model.loss", "torch.nn.BCEWithLogitsLoss", "--model.loss.pos_weight", "[1, 2]"], "BCEWithLogitsLoss"),
        (["--model.frozen_epochs", "always"], "frozen_epochs"),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/Dice"],
            "no 'val/Dice' to monitor; there are val/dice, val/iou, val/loss, ",
        ),
        (
            ["--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/los"],
            "no 'val/los' to monitor; there are val/dice, ",
        ),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "dice"],
            "`dice` which is not available; there are `val/loss`, ",
        ),
        (["--trainer.callbacks", "LearningRateFinder"], "give --optimizer.lr"),
        (
            ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/dice"],
            "would take its worst for the best (mode min); add --trainer.callbacks.mode max",
        ),
        (
            ["--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/iou"],
            "would take its worst for the best (mode min); add --lr_scheduler.mode max",
        ),
    ],
)
def test_a_wrong_part_is_one_sentence(samples, tmp_path, capsys, options, message):
    arguments = [*FIT, "--model", "cmunext_s", *busi(samples), "--trainer.max_epochs", "1", *options]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("segzoo: error")]
    assert message in line


# ---- names


def test_names_are_spelled_out(run, samples, monkeypatch, tmp_path, refused):
    mirror = shutil.copytree(run / "checkpoint", tmp_path / "hub" / "my-net").parent
    monkeypatch.setenv("SEGZOO_HUB", str(mirror))
    builder, loader = "segzoo.models.lv_unet.lv_unet", "segzoo.hub.from_pretrained"
    folder = str(run / "checkpoint")
    for given, spelled in {
        ("--model", "lv_unet"): ["--model", builder],
        ("--model=lv_unet",): ["--model", builder],
        ("--model", "my-net", "--x", "lv_unet"): [
            "--model",
            loader,
            "--model.name_or_path",
            "my-net",
            "--x",
            "lv_unet",
        ],
        ("--model", folder): ["--model", loader, "--model.name_or_path", folder],
        ("--model", "mine.nets.Net"): ["--model", "mine.nets.Net"],
        ("--data", "BUSI", "--data.root", "BUSI"): ["--data", "segzoo.data.BUSI", "--data.root", "BUSI"],
        ("--data=Folder",): ["--data", "segzoo.data.Folder"],
        ("--data", "mine.Data"): ["--data", "mine.Data"],
        ("--model",): ["--model"],
        ("-c", "lv_unet"): ["-c", "lv_unet"],
    }.items():
        assert spell_out(list(given)) == spelled
    with refused(MissingError):
        spell_out(["--model", "lv_unett"])
    with refused(MissingError):
        spell_out(["--data", "Busi"])


# ---- the recipe


@pytest.mark.parametrize(
    ("options", "optimizer", "rate", "scheduler"),
    [
        ([], "SGD", 0.01, "LambdaLR"),
        (["--optimizer", "AdamW", "--optimizer.lr", "1e-4"], "AdamW", 1e-4, "LambdaLR"),
        (["--model.optimizer", "AdamW", "--model.optimizer.lr", "1e-4"], "AdamW", 1e-4, "LambdaLR"),
        (["--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "5"], "SGD", 0.01, "StepLR"),
        (
            ["--lr_scheduler", "ReduceLROnPlateau", "--lr_scheduler.monitor", "val/loss"],
            "SGD",
            0.01,
            "ReduceLROnPlateau",
        ),
    ],
    ids=["published", "optimizer", "model.optimizer", "lr_scheduler", "plateau"],
)
def test_optimizer_and_schedule_are_chosen_apart(tmp_path, samples, options, optimizer, rate, scheduler):
    arguments = [*FIT, "--model", "cmunext_s", *busi(samples), *options, "--trainer.fast_dev_run", "true"]
    trainer = TrainingCLI([*arguments, "--trainer.default_root_dir", str(tmp_path)]).trainer
    assert type(trainer.optimizers[0]).__name__ == optimizer
    assert trainer.optimizers[0].defaults["lr"] == rate
    assert type(trainer.lr_scheduler_configs[0].scheduler).__name__ == scheduler


def test_fine_tuning_a_checkpoint_keeps_lambda_at_one(tmp_path, samples):
    torch.manual_seed(0)
    model = segzoo.create_model("lv_unet")
    model.deep_training_lambda.fill_(1.0)
    model.save_pretrained(tmp_path / "lv-unet-mine")
    options = [
        "--model",
        tmp_path / "lv-unet-mine",
        *busi(samples, 128),
        "--optimizer",
        "SGD",
        "--optimizer.lr",
        "1e-3",
    ]
    run = fit(tmp_path / "run", *options)
    assert logged(run, "deep_training_lambda") == {0: 1.0, 1: 1.0}
    state = state_of(run / "last.ckpt")["state_dict"]
    assert state["deep_training_lambda"] == 1
    before = model.state_dict()["head.weight"]
    assert not torch.equal(state["head.weight"], before)
    assert_close(state["head.weight"], before, rtol=0, atol=0.1)  # it started from these weights
    assert state["encoder.bn1.num_batches_tracked"] == 4  # and trained in train mode


# ---- testing


@pytest.fixture
def checkpoint(run: Path, samples: Path, tmp_path: Path) -> Path:
    """The run's checkpoint, made to find something: after two epochs it does not, and every score would be 0."""
    model = segzoo.from_pretrained(run / "checkpoint")
    image = model.preprocessing(read_image(next((samples / "BUSI").rglob("benign (9).png"))))
    with torch.no_grad():
        model.head.bias -= model(image[None]).quantile(0.8)
    return model.save_pretrained(tmp_path / "checkpoint")


def test_test_prints_the_mean_of_its_per_image_table(checkpoint, samples, tmp_path, capsys):
    rows = score(tmp_path / "test", "--model", checkpoint, *busi(samples))
    printed = capsys.readouterr().out
    assert len({row["id"] for row in rows}) == 8
    for name in ("dice", "iou", "precision", "recall"):
        mean = sum(float(row[name]) for row in rows) / 8
        assert 0.02 < mean < 0.98
        (line,) = [line for line in printed.splitlines() if f" test/{name} " in line]
        assert float(line.strip(" │").split()[-1]) == pytest.approx(mean, abs=1e-6)  # in a box, where rich is there
    assert "segzoo: BUSI: 8 images: 8 to train, 8 to validate, 8 to test" in printed
    assert "segzoo: 8 images; per-image mean, foreground classes" in printed
    assert "not the split" not in printed
    assert json.loads((checkpoint / "config.json").read_text())["metrics"] == {}


def test_recorded_results_stand_in_config_and_card(checkpoint, samples, tmp_path):
    rows = score(tmp_path / "test", "--model", checkpoint, *busi(samples), "--record", "true")
    metrics = json.loads((checkpoint / "config.json").read_text())["metrics"]
    assert metrics["images"] == 8
    assert metrics["protocols"]["dice"].startswith("per-image mean, foreground classes")
    assert metrics["protocols"]["dataset_dice"].startswith("pixels pooled")
    assert set(metrics["original"]) == set(metrics["resized"])
    mean = sum(float(row["dice"]) for row in rows) / 8
    assert metrics["original"]["dice"] == pytest.approx(mean, abs=1e-6)
    card = (checkpoint / "README.md").read_text()
    assert f"{metrics['original']['dice']:.4f} | {metrics['resized']['dice']:.4f}" in card
    assert f"value: {metrics['original']['dice']}" in card
    segzoo.from_pretrained(checkpoint)  # its hashes still hold


def test_only_what_a_checkpoint_folder_scores_on_held_out_images_is_recorded(
    checkpoint, run, samples, tmp_path, capsys
):
    before = (checkpoint / "config.json").read_bytes()
    for model, data, message in (
        (checkpoint, busi(samples, split="grouped"), "this is not the split the checkpoint was trained on"),
        ("lv-unet-busi", busi(samples), "test one by its path"),
        ("cmunext_s", busi(samples), "test one by its path"),
        (checkpoint, [*busi(samples), "--ckpt_path", run / "last.ckpt"], "leave --ckpt_path out"),
        (checkpoint, [*busi(samples), "--metrics", "[hd95]"], "add both to --metrics"),
        (checkpoint, busi(samples, 16), "image_size is [16, 16] here and [32, 32] there"),
    ):
        options = ["test", *QUIET, "--model", model, *data, "--record", "true", "--trainer.default_root_dir", tmp_path]
        assert cli.main([str(option) for option in options]) == 2
        assert message in capsys.readouterr().err
    assert (checkpoint / "config.json").read_bytes() == before


@pytest.mark.parametrize("verb", ["test", "validate"])
def test_random_weights_are_not_scored(verb, samples, tmp_path, capsys):
    options = [verb, *QUIET, "--model", "cmunext_s", *busi(samples), "--trainer.default_root_dir", str(tmp_path)]
    assert cli.main(options) == 2
    assert "this model has random weights" in capsys.readouterr().err


def test_other_metrics_and_another_split(checkpoint, samples, tmp_path, capsys, refused):
    options = ["--model", checkpoint, *busi(samples, split="grouped"), "--metrics", "[dice,hd95]"]
    rows = score(tmp_path / "test", *options)
    assert list(rows[0]) == ["id", "dice", "hd95"]
    assert "this is not the split the checkpoint was trained on" in capsys.readouterr().out
    with refused(SegzooError):
        training_cli.main(["test", "--model", str(checkpoint), *busi(samples), *QUIET, "--metrics", "[dise]"])


def test_a_test_averages_over_mirrored_copies_as_predict_does(checkpoint, samples, tmp_path, capsys):
    rows = score(tmp_path / "test", "--model", checkpoint, *busi(samples), "--tta", "true")
    assert "segzoo: 8 images; averaged over mirrored copies; per-image mean" in capsys.readouterr().out
    model = segzoo.from_pretrained(checkpoint)
    file = next((samples / "BUSI").rglob("benign (9).png"))
    lesion = read_mask(file.with_name("benign (9)_mask.png")) > 0
    (found,) = [float(row["dice"]) for row in rows if "benign (9)" in row["id"]]
    for tta in (True, False):
        mask = model.predict(file, tta=tta).mask > 0
        dice = 2 * (mask & lesion).sum() / (mask.sum() + lesion.sum())
        assert (found == pytest.approx(dice, abs=1e-3)) == tta  # in batches rounding decides otherwise about pixels


def test_what_a_checkpoint_was_pretrained_on_stays_with_it(samples, tmp_path, capsys):
    """Its licence and the images it has seen follow from it."""
    source, polyps = samples / "BUSI" / "Dataset_BUSI_with_GT" / "malignant", tmp_path / "polyps"
    for number in (21, 35, 194):
        for part, suffix in (("images", ""), ("masks", "_mask")):
            (polyps / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / f"malignant ({number}){suffix}.png", polyps / part / f"{number}.png")
    joint = {
        "class_path": "segzoo.data.Joint",
        "init_args": {
            "image_size": 32,
            "datasets": [
                {"class_path": "segzoo.data.KvasirSEG", "init_args": {"root": str(polyps), "split": "all"}},
                {"class_path": "segzoo.data.BUSI", "init_args": {"root": str(samples), "split": "all"}},
            ],
        },
    }
    recipe = tmp_path / "pretrain.yaml"
    recipe.write_text(yaml.safe_dump({"data": joint}))
    first = fit(tmp_path / "first", "-c", recipe, "--model", "cmunext_s", *BRIEF, epochs=1) / "checkpoint"
    tuned = fit(tmp_path / "second", "--model", first, *busi(samples), *BRIEF, epochs=1) / "checkpoint"
    tuned = fit(tmp_path / "third", "--model", tuned, *busi(samples), *BRIEF, epochs=1) / "checkpoint"
    config = json.loads((tuned / "config.json").read_text())
    assert config["data"]["dataset"] == "BUSI"
    assert [part["dataset"] for part in config["data"]["pretrained_on"]] == ["KvasirSEG + BUSI"]
    assert config["licences"]["weights"] == "CC0-1.0 + LicenseRef-research-and-education-only"
    assert config["licences"]["data"] == "CC0-1.0"
    before = (tuned / "README.md").read_text().partition("Before that:")[2].splitlines()[2:4]
    assert [line.split("]")[0] for line in before] == ["- [KvasirSEG", "- [BUSI"]
    capsys.readouterr()
    score(tmp_path / "same", "--model", tuned, *busi(samples))
    assert "may have seen" not in capsys.readouterr().out
    score(tmp_path / "joint", "--model", first, *busi(samples))
    assert "may have seen" not in capsys.readouterr().out
    grouped = [*busi(samples, split="grouped"), "--data.fold"]
    tuned = fit(tmp_path / "fourth", "--model", first, *grouped, 1, *BRIEF, epochs=1) / "checkpoint"
    capsys.readouterr()
    score(tmp_path / "other", "--model", tuned, *grouped, 1)
    assert "pretrained on another split of BUSI, so it may have seen these images" in capsys.readouterr().out


@pytest.fixture
def folders(tmp_path):
    """Two hospitals' folders of the same names and other images, and one of other names."""
    for folder, names, size in (("one", range(10), 8), ("two", range(10), 9), ("three", range(10, 20), 8)):
        for number in names:
            for part in ("images", "masks"):
                (tmp_path / folder / part).mkdir(parents=True, exist_ok=True)
                pixels = np.random.default_rng(number).integers(0, 2, (size, size), np.uint8)
                Image.fromarray(pixels * 255).save(tmp_path / folder / part / f"{number}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    return {path.name: path for path in tmp_path.iterdir()}


def described(folders, name, **options):
    return segzoo.data.Folder(folders[name], **options).describe()


def test_folders_of_ones_own_are_told_apart(folders):
    one, two, three = (described(folders, name) for name in ("one", "two", "three"))
    assert one["split_sha256"] == two["split_sha256"]
    assert "not the split" in split_warning(two, one)
    assert split_warning(described(folders, "copy"), one) is None
    # what another folder was pretrained on is no leak, and another split of this one is
    assert split_warning(three, {**three, "pretrained_on": [one]}) is None
    assert seen_before({**three, "pretrained_on": [one]}) == []
    for again in (described(folders, "one", fold=1), described(folders, "copy", fold=1)):
        assert "pretrained on another split of Folder" in split_warning(one, {**one, "pretrained_on": [again]})
        assert "another split of Folder" in seen_before({**one, "pretrained_on": [again]})[0]
    Image.new("L", (8, 8)).save(folders["one"] / "images" / "1.png")  # as a file that is mended
    assert "files have changed since the checkpoint was trained (same" in split_warning(described(folders, "one"), one)
    shutil.copy(folders["copy"] / "images" / "1.png", folders["one"] / "images" / "1.png")
    shutil.copy(folders["one"] / "images" / "1.png", folders["one"] / "images" / "x.png")
    shutil.copy(folders["one"] / "masks" / "1.png", folders["one"] / "masks" / "x.png")
    grown = described(folders, "one")
    assert "pretrained on another split of Folder" in split_warning(grown, {**grown, "pretrained_on": [one]})


def test_what_is_damaged_in_any_part_is_named_before_the_training(folders, tmp_path, capsys):
    parts = segzoo.data.Folder(folders["one"]).split_ids
    image, mask = (
        folders["one"] / kind / f"{parts[part][0]}.png" for kind, part in (("images", "train"), ("masks", "test"))
    )
    image.write_bytes(image.read_bytes()[:45])  # the header is whole
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(mask)
    arguments = [*FIT, "--model", "cmunext_s", "--data", "Folder", "--data.root", str(folders["one"])]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"({image}, {mask}), the first because: Cannot read {image} as an image" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "ignored"), [([], ""), (["--data.class_names", "[background,one,two]"], r" or is ignored")]
)
def test_masks_without_anything_are_refused_before_the_training(folders, tmp_path, capsys, classes, ignored):
    for mask in (folders["one"] / "masks").iterdir():  # binary ones, given as those of three classes
        Image.fromarray(np.full((8, 8), 255 if classes else 0, np.uint8)).save(mask)
    arguments = [*FIT, "--model", "cmunext_s", "--data", "Folder", "--data.root", str(folders["one"])]
    arguments += ["--trainer.max_epochs", "1", *(["--model.num_classes", "3"] if classes else []), *classes]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert f"all that the masks of the train part hold is background{ignored}" in capsys.readouterr().err


def test_a_new_model_has_the_classes_that_the_data_s_options_name(folders, tmp_path):
    for mask in (folders["one"] / "masks").iterdir():
        Image.fromarray(np.tile(np.array([0, 80, 160, 240], np.uint8), (8, 2))).save(mask)
    arguments = [*FIT, *BRIEF, "--model", "cmunext_s", "--data", "Folder", "--data.root", str(folders["one"])]
    arguments += ["--data.values", "{80: cyst, 160: tumour, 240: ignored}", "--data.image_size", "32"]
    run = tmp_path / "run"
    assert cli.main([*arguments, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(run)]) == 0
    entries = read_config(run / "checkpoint").entries
    assert entries["class_names"] == ["background", "cyst", "tumour"]
    assert entries["data"]["values"] == {"80": "cyst", "160": "tumour", "240": "ignored"}


def test_every_dataset_of_a_joint_test_is_compared(folders):
    data = [described(folders, "one"), described(folders, "three")]
    joint = segzoo.data.Joint([segzoo.data.Folder(folders[name]) for name in ("one", "three")]).describe()
    assert split_warning(joint, joint) is None
    assert split_warning(data[1], joint) is None
    assert "not the split" in split_warning(joint, data[1])
    earlier = described(folders, "one", fold=1)
    assert "pretrained on another split of Folder" in split_warning(joint, {**joint, "pretrained_on": [earlier]})
    assert split_warning(joint, {**joint, "pretrained_on": [joint, *data]}) is None


def test_folders_of_older_checkpoints_go_by_their_splits(folders):
    one, three = (described(folders, name) for name in ("one", "three"))
    older = {key: value for key, value in one.items() if key not in ("folder", "files_sha256")}
    assert split_warning(one, older) is None
    assert "not the split" in split_warning(three, older)
    assert "another split" in split_warning(three, {**three, "pretrained_on": [older]})


# ---- accidents


def die(arguments: list[str]) -> None:
    """Train until the middle of the fourth epoch."""
    trained = SegmentationModule.training_step

    def training_step(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (3, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return trained(self, batch, batch_idx)

    SegmentationModule.training_step = training_step
    cli.main(arguments)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_last_finished_epoch(tmp_path, samples):
    run = tmp_path / "run"
    options = ["--trainer.max_epochs", "6", "--trainer.default_root_dir", str(run), "--model", "lv_unet"]
    options = [*FIT, *options, *busi(samples, 128), "--trainer.limit_val_batches", "1"]
    assert processes.call(die, options).returncode == -signal.SIGKILL
    assert state_of(run / "last.ckpt")["epoch"] == 2
    assert not (run / "checkpoint").exists()

    assert cli.main([*options, "--ckpt_path", "last"]) == 0
    schedule = LVUNet.deep_training_schedule
    planned = {epoch: schedule(None, epoch, 6) for epoch in range(6)}
    before, after = (logged(run, "deep_training_lambda", version) for version in (0, 1))
    assert (list(before), list(after)) == ([0, 1, 2], [3, 4, 5])
    assert before | after == pytest.approx(planned, abs=1e-6)
    state = state_of(run / "last.ckpt")
    assert (state["epoch"], state["global_step"], state["lr_schedulers"][0]["last_epoch"]) == (5, 12, 6)
    assert segzoo.from_pretrained(run / "checkpoint").is_deployable
    assert yaml.safe_load((run / "train.yaml").read_text())["ckpt_path"] is None


def stop(name: str, arguments: list[str]) -> None:
    """Train until the second epoch is validated."""

    def on_validation_end(self: SegmentationModule) -> None:
        if not self.trainer.sanity_checking and self.current_epoch == 1:
            os.kill(os.getpid(), getattr(signal, name))

    SegmentationModule.on_validation_end = on_validation_end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    sys.exit(cli.main(arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_training_that_a_signal_ends_keeps_its_best_epoch(tmp_path, samples, name):
    run = tmp_path / "run"
    options = ["--model", "cmunext_s", *busi(samples)]
    arguments = [*FIT, *options, "--trainer.max_epochs", "6", "--trainer.default_root_dir", str(run)]
    done = processes.call(stop, name, arguments)
    assert done.returncode == 128 + getattr(signal, name)  # and is not taken for a finished one
    assert "go on from the last whole epoch with --ckpt_path last" in done.stderr
    assert "(best weights)" in done.stdout
    saved = load_file(run / "checkpoint" / "model.safetensors")
    assert_close(saved, state_of(run / "best.ckpt")["state_dict"], rtol=0, atol=0)
    fit(run, *options, "--ckpt_path", "last", epochs=3)
    assert list(logged(run, "train/loss", 1))[-1] == 2


def test_lightnings_file_is_not_taken_for_a_checkpoint_folder(run, refused):
    with refused(SegzooError):
        segzoo.from_pretrained(run / "best.ckpt")


def test_last_before_the_first_epoch_has_finished_is_the_beginning(tmp_path, samples):
    run = fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), "--ckpt_path", "last", epochs=1)
    assert list(logged(run, "train/loss")) == [0]


def test_a_run_goes_on_with_the_images_it_had(tmp_path, samples, capsys):
    data = busi(samples, split="random-64-16-20")
    run = fit(tmp_path / "run", "--model", "cmunext_s", *data, epochs=1)
    again = ["--model", "cmunext_s", "--trainer.default_root_dir", str(run), "--ckpt_path", "last"]
    options = [*FIT, *again, *data, "--trainer.max_epochs", "2"]
    written = {name: (run / name).read_text() for name in ("split.json", "train.yaml")}
    assert cli.main([*options, "--data.seed", "1"]) == 2  # another split: some training images would test
    assert "was trained on other images" in capsys.readouterr().err
    assert {name: (run / name).read_text() for name in written} == written
    (run / "split.json").unlink()  # what the checkpoint itself says counts too
    assert cli.main([*options, "--data.seed", "1"]) == 2
    assert "was trained on other images" in capsys.readouterr().err
    (run / "split.json").write_text(written["split.json"])
    assert cli.main([*options, "--data.image_size", "16"]) == 0
    last = state_of(run / "last.ckpt")["segzoo"]
    assert last["preprocessing"]["image_size"] == [16, 16]  # options are those of the command
    assert last["data"]["split_sha256"] == json.loads((run / "split.json").read_text())["sha256"]


def test_the_best_epoch_keeps_the_input_that_it_was_validated_on(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(SegmentationModule, "on_validation_epoch_end", fade)
    options = ["--model", "cmunext_s", *busi(samples)]
    run = fit(tmp_path / "run", *options, epochs=1)
    fit(run, *options, "--data.image_size", "16", "--data.mean", "[0,0,0]", "--ckpt_path", "last")
    assert state_of(run / "best.ckpt")["epoch"] == 0
    model = segzoo.from_pretrained(run / "checkpoint")
    assert (model.preprocessing.image_size, model.data["image_size"]) == ((32, 32), [32, 32])
    assert min(model.preprocessing.mean) > 0


def test_a_run_goes_on_with_the_optimizer_and_the_schedule_it_had(tmp_path, samples, capsys):
    options = ["--model", "cmunext_s", *busi(samples), "--optimizer", "SGD", "--optimizer.lr", "0.01"]
    run = fit(tmp_path / "run", *options, epochs=1)
    written = (run / "train.yaml").read_text()
    again = [*FIT, "--trainer.max_epochs", "2", "--trainer.default_root_dir", str(run), "--ckpt_path", "last"]
    others = {
        "optimizer torch.optim.SGD": ["--optimizer.lr", "0.1"],
        "optimizer torch.optim.SGD ": ["--optimizer", "AdamW", "--optimizer.lr", "0.01"],
        "lr_scheduler as the model has it": ["--lr_scheduler", "StepLR", "--lr_scheduler.step_size", "1"],
    }
    for said, changed in others.items():
        assert cli.main([*again, *options, *changed]) == 2
        assert f"was trained with {said.strip()}" in capsys.readouterr().err
    assert (run / "train.yaml").read_text() == written
    assert cli.main([*again, *options]) == 0


def test_a_run_that_was_finished_keeps_its_results_when_it_is_asked_for_again(tmp_path, samples):
    options = ["--model", "cmunext_s", *busi(samples), "--ckpt_path", "last", "--trainer.limit_val_batches", "0"]
    run = fit(tmp_path / "run", *options, epochs=1)
    record(run / "checkpoint", version="2.0", metrics={"images": 8})
    fit(run, *options, epochs=1)
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    assert (config["version"], config["metrics"]) == ("2.0", {"images": 8})
    fit(run, *options, epochs=2)
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    assert (config["version"], config["metrics"]) == ("1.0", {})


def test_a_run_that_has_only_its_best_epoch_goes_on_from_that(tmp_path, samples):
    options = ["--model", "cmunext_s", *busi(samples), "--ckpt_path", "last"]
    run = fit(tmp_path / "run", *options, epochs=1)
    (run / "last.ckpt").unlink()
    (run / "split.json").write_text('{"name": "BU')  # and was killed while it wrote
    (run / "train.yaml").write_text("model: {")
    arguments = ["test", *QUIET, *options, "--trainer.default_root_dir", run]  # the best epoch is not the last one
    assert cli.main([str(argument) for argument in arguments]) == 2
    fit(run, *options)
    assert list(logged(run, "train/loss", 1)) == [1]


def test_another_run_in_the_same_folder_is_not_taken_for_this_one(tmp_path, samples, monkeypatch, capsys):
    data = busi(samples, split="random-64-16-20")
    other = fit(tmp_path / "other", "--model", "cmunext_s", *data, "--data.seed", "1", epochs=1)
    run = tmp_path / "run"
    monkeypatch.setattr(TrainingCLI, "before_fit", lambda self: run.mkdir())
    monkeypatch.setattr(
        SegmentationModule, "on_fit_end", lambda self: shutil.copy(other / "best.ckpt", run), raising=False
    )
    arguments = [*FIT, "--model", "cmunext_s", *data, "--trainer.max_epochs", "1"]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(run)]) == 2
    assert "best.ckpt is of another run" in capsys.readouterr().err


def test_the_best_epoch_is_remembered_where_a_run_has_moved(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(SegmentationModule, "on_validation_epoch_end", fade)
    run = fit(tmp_path / "here", "--model", "cmunext_s", *busi(samples), epochs=1)
    there = run.rename(tmp_path / "there")
    fit(there, "--model", "cmunext_s", *busi(samples), "--ckpt_path", "last")
    assert [state_of(there / name)["epoch"] for name in ("best.ckpt", "last.ckpt")] == [0, 1]
    # one that branches off into a folder of its own has a best epoch of its own
    branch = ["--model", "cmunext_s", *busi(samples), "--ckpt_path", there / "last.ckpt"]
    other = fit(tmp_path / "other", *branch, epochs=3)
    assert state_of(other / "best.ckpt")["epoch"] == 2


@pytest.mark.parametrize("kept", ["best.ckpt", "last.ckpt", "checkpoint/config.json"])
def test_no_run_starts_in_the_folder_of_another(run, samples, tmp_path, monkeypatch, capsys, kept):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "held"
    (folder / kept).parent.mkdir(parents=True)
    (folder / kept).touch()
    for root, options in ((folder, []), ("~/held", []), (folder, ["--ckpt_path", run / "last.ckpt"])):
        arguments = [*FIT, "--model", "cmunext_s", *busi(samples), *options]
        arguments += ["--trainer.default_root_dir", root]
        assert cli.main([str(argument) for argument in arguments]) == 2
        assert f"{folder} already holds a run" in capsys.readouterr().err
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / kept]


def test_no_run_starts_in_the_folder_where_another_trains(tmp_path, samples, monkeypatch, capsys):
    arguments = [*FIT, "--model", "cmunext_s", *busi(samples), "--trainer.max_epochs", "1"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "run")]
    started: list[int] = []

    def start_another(self: SegmentationModule) -> None:
        if not started:
            started.append(-1)  # which would start a third
            started[0] = cli.main([*arguments, "--optimizer", "AdamW"])

    monkeypatch.setattr(SegmentationModule, "on_validation_end", start_another)  # before the first epoch
    assert cli.main(arguments) == 0
    assert started == [2]
    assert f"{tmp_path / 'run'} is trained in at the moment: give each run a" in capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run" / "train.yaml").read_text())["optimizer"] is None
    monkeypatch.undo()
    assert cli.main([*arguments, "--ckpt_path", "last"]) == 0


def test_steps_are_not_cut_by_epochs_that_nobody_asked_for(tmp_path, samples, monkeypatch):
    monkeypatch.setattr(training_cli, "EPOCHS", 1)
    arguments = [*FIT, "--model", "lv_unet", *busi(samples, 128), "--trainer.default_root_dir", str(tmp_path)]
    assert cli.main([*arguments, "--trainer.max_steps", "5"]) == 0
    assert state_of(tmp_path / "last.ckpt")["global_step"] == 5


def test_a_configuration_cannot_have_pickles_run(tmp_path, samples, capsys):
    (tmp_path / "train.yaml").write_text("weights_only: false\n")
    arguments = ["fit", "--config", str(tmp_path / "train.yaml"), "--model", "cmunext_s", *busi(samples)]
    assert cli.main([*arguments, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert "weights_only: false would run what a pickle holds" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_while_saving_loses_no_checkpoint(tmp_path, monkeypatch, call):
    path = tmp_path / "last.ckpt"
    for epoch in (1, 2):
        ReplacingCheckpointIO().save_checkpoint({"epoch": epoch}, path)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, die)
    with pytest.raises(KeyboardInterrupt):
        ReplacingCheckpointIO().save_checkpoint({"epoch": 3}, path)
    assert [state_of(tmp_path / name) for name in ("last.ckpt", "previous.ckpt")] == [{"epoch": 2}, {"epoch": 1}]
    monkeypatch.undo()
    ReplacingCheckpointIO().save_checkpoint({"epoch": 3}, path)
    assert [state_of(tmp_path / name) for name in ("last.ckpt", "previous.ckpt")] == [{"epoch": 3}, {"epoch": 2}]


def test_runs_save_that_way(run, samples, tmp_path):
    arguments = [*FIT, "--model", "cmunext_s", *busi(samples), "--trainer.fast_dev_run", "true"]
    trainer = TrainingCLI([*arguments, "--trainer.default_root_dir", str(tmp_path)]).trainer
    assert isinstance(trainer.strategy.checkpoint_io, ReplacingCheckpointIO)


# ---- two processes


@pytest.fixture
def seven(samples: Path, tmp_path: Path) -> Iterator[Path]:
    """An odd number of images."""
    folder = shutil.copytree(samples / "BUSI", tmp_path / "seven")
    for path in folder.rglob("benign (9)*"):
        path.unlink()
    return folder


@pytest.mark.slow
def test_two_processes_measure_what_one_does(checkpoint, seven, tmp_path):
    def measure(devices: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
        root = tmp_path / f"on-{devices}"
        model = segzoo.from_pretrained(checkpoint)
        model.data = segzoo.data.BUSI(seven, split="all").describe()  # only of what it was trained on are results kept
        copy = model.save_pretrained(root / "checkpoint")
        # one by one: beside another image one's last bits, and so a pixel at the threshold, may be others
        options = ["test", *QUIET, "--model", copy, *busi(seven), "--data.batch_size", 1, "--record", "true"]
        options += ["--trainer.devices", devices, "--trainer.default_root_dir", root]
        if devices > 1:
            options += ["--trainer.strategy", "ddp"]
            done = processes.run(**command("-m", "segzoo.cli", *options))
            assert done.returncode == 0, done.stderr
        else:
            assert cli.main([str(option) for option in options]) == 0
        return json.loads((copy / "config.json").read_text())["metrics"], rows_of(root / "test_per_image.csv")

    (one, rows_of_one), (two, rows_of_two) = measure(1), measure(2)
    assert one["images"] == two["images"] == 7
    assert one["original"]["dice"] > 0.02
    for part in ("original", "resized"):
        assert two[part] == pytest.approx(one[part], abs=1e-6)
    assert [row["id"] for row in rows_of_two] == sorted({row["id"] for row in rows_of_one})
    assert len(rows_of_two) == 7
    for row, other in zip(rows_of_one, rows_of_two, strict=True):
        assert float(row["dice"]) == pytest.approx(float(other["dice"]), abs=1e-6)


def test_a_resumed_run_and_another_process_draw_otherwise(samples, tmp_path, monkeypatch):
    drawn = []

    class Noting(segzoo.data.BUSI):
        def train_dataloader(self):
            self.augmentation = [lambda image, label: (drawn.append(torch.rand(()).item()), (image, label))[1]]
            return super().train_dataloader()

    def draw(epochs: int, *options: Any) -> list[float]:
        drawn.clear()
        fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), *options, epochs=epochs)
        return list(drawn)

    monkeypatch.setattr(segzoo.data, "BUSI", Noting)
    first, second, third = (draw(epochs, "--ckpt_path", "last") for epochs in (1, 2, 3))
    assert len(first) == len(second) == len(third) == 8
    assert not {*first} & {*second} | {*second} & {*third}
    shutil.rmtree(tmp_path / "run")
    assert draw(1) == first  # what a seed says in one process and one piece
    shutil.rmtree(tmp_path / "run")
    monkeypatch.setattr(Trainer, "global_rank", 1)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    assert not {*first} & {*draw(1)}


@pytest.mark.slow
def test_two_processes_train(seven, tmp_path):
    options = [*FIT, "--model", "cmunext_s", *busi(seven), "--data.batch_size", "2"]
    options += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1"]
    done = processes.run(**command("-m", "segzoo.cli", *options, "--trainer.default_root_dir", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert segzoo.from_pretrained(tmp_path / "run" / "checkpoint").data["counts"]["train"] == 7
    assert done.stdout.count("is the checkpoint") == 1
    # of 7 images each process has 4, so 2 steps
    assert state_of(tmp_path / "run" / "last.ckpt")["global_step"] == 2
