"""``segzoo fit --folds 5`` on the eight real images: a test of the machinery, whatever the scores are."""

import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

import processes
import segzoo
from hub_server import HubServer, client_environment
from segzoo import cli
from segzoo.cli.train import TrainingCLI
from segzoo.errors import SegzooError
from segzoo.hub.verify import verify
from segzoo.module import SegmentationModule

ROOT = Path(__file__).parents[2]
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"]
QUIET += ["false"]
FIT = ["fit", *QUIET, "--pictures", "0"]  # drawing takes a fifth of so short a run
# a rate at which one epoch finds something in some images
LEARN = ["--optimizer", "SGD", "--optimizer.lr", "0.5", "--optimizer.momentum", "0.9", "--trainer.max_epochs", "1"]
LEARN += ["--trainer.num_sanity_val_steps", "0"]


def busi(samples, *options):
    data = ["--data", "BUSI", "--data.root", str(samples), "--data.image_size", "32", "--data.batch_size", "1"]
    return [*data, *map(str, options)]


def train(root, samples, *options):
    arguments = [*FIT, *LEARN, "--trainer.default_root_dir", str(root), "--model", "cmunext_s"]
    return [*arguments, *busi(samples), *map(str, options)]


def said(arguments):
    """What a command prints in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        status = cli.main([str(one) for one in arguments])
    return status, printed.getvalue()


def die(arguments):
    """Train until the middle of the second fold's epoch."""
    trained = SegmentationModule.training_step

    def training_step(self, batch, batch_idx):
        if self.trainer.default_root_dir.endswith("fold1") and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return trained(self, batch, batch_idx)

    SegmentationModule.training_step = training_step
    cli.main(arguments)


@pytest.fixture(scope="module")
def killed(samples, tmp_path_factory):
    """A run that was killed in its second fold."""
    root = tmp_path_factory.mktemp("runs") / "five"
    done = processes.call(die, train(root, samples, "--folds", 5))
    assert done.returncode == -signal.SIGKILL, done.stderr
    return root


@pytest.fixture(scope="module")
def folds(killed, samples):
    """That run, resumed; and what it said."""
    first = (killed / "fold0" / "last.ckpt").stat().st_mtime_ns
    status, printed = said(train(killed, samples, "--folds", 5, "--ckpt_path", "last"))
    assert status == 0, printed
    assert (killed / "fold0" / "last.ckpt").stat().st_mtime_ns == first  # it was finished
    return killed, printed


@pytest.fixture(scope="module")
def ensemble(folds):
    return folds[0] / "checkpoint"


def rows(file):
    with file.open(newline="", encoding="utf-8") as opened:
        return {row["id"]: row for row in csv.DictReader(opened)}


def test_each_fold_is_what_a_run_of_its_own_leaves(folds, samples, tmp_path):
    root, _ = folds
    status, printed = said(train(tmp_path / "alone", samples, "--data.fold", 3))
    assert status == 0, printed
    files = [run / "checkpoint" / "model.safetensors" for run in (root / "fold3", tmp_path / "alone")]
    assert_close(*map(load_file, files), rtol=0, atol=0)
    recipes = [(run / "train.yaml").read_text() for run in (root / "fold3", tmp_path / "alone")]
    assert recipes[0] == recipes[1]
    assert all((root / f"fold{k}" / "best.ckpt").is_file() for k in range(5))  # each has its own best epoch


def test_out_of_fold_scores_are_those_of_each_fold(folds, samples, tmp_path):
    root, printed = folds
    scored = rows(root / "test_per_image.csv")
    ids = [json.loads((root / f"fold{k}" / "split.json").read_text())["ids"]["test"] for k in range(5)]
    assert sorted(scored) == sorted(identifier for fold in ids for identifier in fold)
    assert len(scored) == 8
    means = [np.mean([float(scored[identifier]["dice"]) for identifier in fold]) for fold in ids]
    assert np.std(means) > 0
    assert f"Dice {np.mean(means):.4f} ± {np.std(means, ddof=1):.4f} " in printed
    assert [float(number) for number in re.findall(r"fold \d: Dice ([\d.]+)", printed)] == np.round(means, 4).tolist()
    test = ["test", *QUIET, "--trainer.default_root_dir", tmp_path, "--model", root / "fold2" / "checkpoint"]
    assert said([*test, *busi(samples, "--data.fold", 2)])[0] == 0
    alone = rows(tmp_path / "test_per_image.csv")
    assert {name: float(row["dice"]) for name, row in alone.items()} == pytest.approx(
        {name: float(scored[name]["dice"]) for name in ids[2]}, abs=1e-6
    )
    metrics = json.loads((root / "checkpoint" / "config.json").read_text())["metrics"]
    assert metrics["images"] == 8
    mean = np.mean([float(row["dice"]) for row in scored.values()])
    assert metrics["original"]["dice"] == pytest.approx(mean, abs=1e-6)


def test_the_ensemble_is_the_mean_of_the_folds(folds, ensemble, samples):
    root, _ = folds
    assert verify(ensemble).endswith("its logits are equal")
    image = next((samples / "BUSI").rglob("benign (9).png"))
    model = segzoo.from_pretrained(ensemble)
    of_folds = [segzoo.from_pretrained(root / f"fold{k}" / "checkpoint") for k in range(5)]
    expected = np.mean([member.predict(image).probabilities for member in of_folds], axis=0)
    np.testing.assert_allclose(model.predict(image).probabilities, expected, atol=1e-6)
    assert [member.data for member in model.members] == [member.data for member in of_folds]
    recipe = yaml.safe_load((ensemble / "train.yaml").read_text())
    assert (recipe["folds"], recipe["data"]["init_args"]["fold"]) == (5, 0)


def test_a_test_on_its_data_is_out_of_fold_and_refuses_the_mean(folds, ensemble, samples, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    root, _ = folds
    test = ["test", *QUIET, "--trainer.default_root_dir", tmp_path, "--model", ensemble]
    status, printed = said([*test, *busi(samples, "--data.fold", 4)])  # whichever is named, all are tested
    assert status == 0, printed
    assert "the mean of all is not scored" in caplog.text
    assert rows(tmp_path / "test_per_image.csv") == rows(root / "test_per_image.csv")
    for options in (["--data.split", "all"], ["--data.seed", "7"]):
        status, printed = said([*test, *busi(samples, *options)])
        assert (status, "no honest score" in printed) == (2, True), printed
    status, printed = said(["validate", *test[1:], *busi(samples)])
    assert (status, "no honest score" in printed) == (2, True), printed


@pytest.fixture
def theirs(samples, tmp_path):
    """Options for a folder of somebody else's images."""
    for image in (samples / "BUSI").rglob("* (*).png"):
        for kind, file in (("images", image), ("masks", image.with_name(f"{image.stem}_mask.png"))):
            (tmp_path / "theirs" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, tmp_path / "theirs" / kind / image.name)
    options = ["--data", "Folder", "--data.root", str(tmp_path / "theirs")]
    return [*options, "--data.class_names", '["background","lesion"]']


def test_other_images_are_scored_by_the_mean(ensemble, theirs, tmp_path, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    theirs += ["--data.split", "all"]
    status, printed = said(["test", *QUIET, "--trainer.default_root_dir", tmp_path, "--model", ensemble, *theirs])
    assert status == 0, printed
    assert "out of fold" not in caplog.text
    model, image = segzoo.from_pretrained(ensemble), next((tmp_path / "theirs" / "images").iterdir())
    truth = np.asarray(Image.open(tmp_path / "theirs" / "masks" / image.name).convert("L")) > 0
    mask = model.predict(image).mask > 0
    dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert float(rows(tmp_path / "test_per_image.csv")[image.stem]["dice"]) == pytest.approx(dice, abs=1e-6)


def test_data_that_was_changed_by_a_test_is_as_it_was(ensemble, samples, tmp_path):
    from lightning import Trainer

    data = segzoo.data.BUSI(samples, image_size=32)
    before = {part: list(ids) for part, ids in data.split_ids.items()}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    model = segzoo.from_pretrained(ensemble)
    trainer.test(model, data, verbose=False)
    assert model.tested_images == 8
    assert data.split_ids == before


def options_of_second_fold(monkeypatch, root, arguments):
    """Options by which a run goes on whose first fold is finished."""
    (root / "fold0" / "finished.json").write_text('{"max_epochs": 1, "max_steps": -1}')
    caught = []

    def instantiate_classes(self):
        caught.append(self.options)
        raise SegzooError("far enough")

    with monkeypatch.context() as patch:
        patch.setattr(TrainingCLI, "instantiate_classes", instantiate_classes)
        assert refusal([*arguments, "--folds", 5, "--ckpt_path", "last"]).endswith("far enough")
    assert caught[0].trainer.default_root_dir == str(root / "fold1")
    return caught[0].data.init_args


def test_sizes_are_those_of_the_first_fold(monkeypatch, theirs, tmp_path):
    fit = [*FIT, *LEARN, "--trainer.default_root_dir", tmp_path, "--model", "cmunext_s", *theirs]
    (tmp_path / "fold0").mkdir()
    planned = {"plan": ["image_size 96 x 112: of the images of the first fold"], "folds": None}
    planned["data"] = {"init_args": {"image_size": [96, 112]}}
    (tmp_path / "fold0" / "train.yaml").write_text(yaml.safe_dump(planned))
    assert list(options_of_second_fold(monkeypatch, tmp_path, fit).image_size) == [96, 112]


def test_the_window_is_that_of_the_first_fold(monkeypatch, samples, tmp_path):
    volumes = ["--data", "Decathlon", "--data.root", samples / "Task04_Hippocampus", "--data.intensity", "window"]
    fit = [*FIT, *LEARN, "--trainer.default_root_dir", tmp_path, "--model", "mednext_s_k3", "--plan", "paper"]
    fit += ["--model.num_classes", "3", *volumes, "--data.patch_size", "[16,16,16]"]
    model = segzoo.create_model("mednext_s_k3", num_classes=3, width=4)
    model.preprocessing = segzoo.VolumePreprocessing(intensity="window", window=(1.0, 9.0), mean=4.0, std=2.0)
    model.save_pretrained(tmp_path / "fold0" / "checkpoint")
    found = options_of_second_fold(monkeypatch, tmp_path, fit)
    assert (tuple(found.window), found.mean, found.std) == ((1.0, 9.0), 4.0, 2.0)


def refusal(arguments):
    status, printed = said(arguments)
    assert status == 2, printed
    return printed.strip().splitlines()[-1]


def test_it_is_not_fitted_nor_written_over(folds, ensemble, samples, tmp_path):
    root, _ = folds
    start = [*FIT, "--trainer.default_root_dir", tmp_path / "new", "--model", ensemble, *busi(samples)]
    assert "an ensemble is not trained further" in refusal(start)
    assert "--ckpt_path last" in refusal(train(root, samples, "--folds", 5))
    assert "already holds a run" in refusal(train(root, samples))
    assert not (tmp_path / "new").exists()


def test_what_has_no_five_folds_is_refused_before_the_first(samples, tmp_path):
    for options, word in (
        (["--folds", 3], "--folds 3"),
        (["--folds", 5, "--data.split", "all"], "split is all"),
        (["--folds", 5, "--data.split", "random-70-30"], "--data.split grouped"),
        (["--folds", 5, "--data.fold", 2], "--data.fold"),
        (["--folds", 5, "--ckpt_path", "other.ckpt"], "--ckpt_path last"),
        (["--folds", 5, "--trainer.fast_dev_run", "true"], "fast_dev_run"),
    ):
        assert word in refusal(train(tmp_path / "run", samples, *options))
    assert not (tmp_path / "run").exists()


def test_predict_averages_checkpoints(folds, samples, tmp_path):
    root, _ = folds
    image = next((samples / "BUSI").rglob("benign (9).png"))
    several = [root / f"fold{k}" / "checkpoint" for k in (1, 2, 3)]
    predict = ["--output", tmp_path / "masks", "--device", "cpu"]
    status, printed = said(["predict", *several, image, *predict])
    assert status == 0, printed
    expected = segzoo.Ensemble([segzoo.from_pretrained(one) for one in several]).predict(image).mask
    assert expected.any()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / image.name)), expected)
    assert "1 of 1 were done before" in said(["predict", *several, image, *predict])[1]
    assert "done before" not in said(["predict", several[0], image, *predict])[1]
    found = segzoo.Predictor(several, device="cpu")(image)
    np.testing.assert_array_equal(found.mask, expected)
    line = refusal(["predict", several[0], "lv-unet-busi", image, *predict])
    assert "image_size" in line


def test_members_that_do_not_agree_are_one_sentence(folds, refused):
    with refused(SegzooError):
        segzoo.Predictor([folds[0] / "fold0" / "checkpoint", "lv-unet-busi"])


# through torch.hub, from the Hub by name
DOORS = """
import sys, numpy, torch, segzoo
name, root, image, output = sys.argv[1:]
torch.hub.set_dir(output)
model = torch.hub.load(root, "cmunext_s", source="local", pretrained=name)
assert type(model) is segzoo.Ensemble
numpy.save(f"{output}/hub.npy", model.predict(image).probabilities)
"""


@pytest.mark.slow
def test_the_ensemble_goes_through_the_hub(ensemble, samples, tmp_path):
    image, name = next((samples / "BUSI").rglob("benign (9).png")), "owner/five"

    def run(*command):
        done = processes.run([sys.executable, *command], env=client_environment(server.url, tmp_path / "home"))
        assert done.returncode == 0, done.stderr
        return done

    with HubServer() as server:
        run("-m", "segzoo.cli", "push", ensemble, name)
        files = server.repositories[name].files("v1.0")
        assert {f"member-{number}.safetensors" for number in range(1, 6)} < {*files}
        run("-m", "segzoo.cli", "predict", name, image, "--output", tmp_path / "masks")
        run("-c", DOORS, name, ROOT, image, tmp_path)
        run("-m", "segzoo.cli", "pull", name, "--to", tmp_path / "mirror")
    expected = segzoo.from_pretrained(ensemble).predict(image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / image.name)), expected.mask)
    np.testing.assert_array_equal(np.load(tmp_path / "hub.npy"), expected.probabilities)
    assert verify(tmp_path / "mirror" / name).endswith("its logits are equal")
