"""nnU-Net's raw layout from the shell: a file a channel, and regions, through folds, test and predict.

The cases are real hippocampi; see `layouts.write_nnunet`.
"""

import contextlib
import csv
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segzoo
from layouts import write_nnunet
from segzoo import cli
from segzoo.data import Decathlon
from segzoo.imaging.geometry import same_grid
from segzoo.imaging.volumes import Volume, read_volume, read_volume_mask

QUIET = ["accelerator=cpu", "enable_progress_bar=false", "enable_model_summary=false", "num_sanity_val_steps=0"]
BRIEF = [f"--trainer.{option}" for option in [*QUIET, "max_epochs=1", "limit_train_batches=1"]]
MODEL = ["--model", "mednext_s_k3", "--model.width", "4", "--model.in_channels", "2"]
PATCH = ["--data.patch_size", "[32,48,32]"]
RAISE = ["--optimizer", "SGD", "--optimizer.lr", "1"]


@pytest.fixture(scope="module")
def raw(samples, tmp_path_factory) -> Path:
    """Folder with both datasets; a case in imagesTs of the first one lacks a channel."""
    folder = tmp_path_factory.mktemp("raw")
    write_nnunet(folder, samples)
    images = folder / "Dataset001_Two" / "imagesTs"
    shutil.copy(images / "hippocampus_320_0000.nii.gz", images / "lame_0000.nii.gz")
    return folder


@pytest.fixture(scope="module")
def two(raw) -> Path:
    """Two channels."""
    return raw / "Dataset001_Two"


@pytest.fixture(scope="module")
def regions(raw) -> Path:
    """Regions that lie in each other, and voxels without a label."""
    return raw / "Dataset002_Regions"


def said(*arguments: Any) -> tuple[int, str]:
    """What a command ends with and prints, in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(printed):
        status = cli.main([str(one) for one in arguments])
    return status, printed.getvalue()


@pytest.fixture(scope="module")
def checkpoint(two, tmp_path_factory) -> Path:
    """A checkpoint of a run on two channels."""
    run = tmp_path_factory.mktemp("two") / "run"
    data = ["--data", "Decathlon", "--data.root", two, *PATCH, "--trainer.default_root_dir", run]
    status, printed = said("fit", *MODEL, "--model.num_classes", 3, *data, *BRIEF)
    assert status == 0, printed
    return run / "checkpoint"


def predict(model: Path, *options: Any) -> tuple[int, str]:
    return said("predict", model, *options, "--device", "cpu", "--overlap", 0)


def test_a_channel_a_file_is_tested(checkpoint, two, tmp_path):
    data = ["--data", "Decathlon", "--data.root", two, "--trainer.default_root_dir", tmp_path]
    status, printed = said("test", "--model", checkpoint, *data, *BRIEF[:3])
    assert status == 0, printed
    assert "1 images" in printed


def test_a_case_that_lacks_a_channel_stops_no_other(checkpoint, two, tmp_path):
    status, printed = predict(checkpoint, two / "imagesTs", "--output", tmp_path / "masks", "--overlay")
    assert status == 2
    assert [line for line in printed.splitlines() if "lame_0001.nii.gz" in line], printed
    whole = "hippocampus_320"
    assert sorted(os.listdir(tmp_path / "masks")) == [f"{whole}.nii.gz", f"{whole}_overlay.png"]
    channels = [read_volume(two / "imagesTs" / f"{whole}_000{number}.nii.gz") for number in range(2)]
    both = Volume(np.concatenate([one.array for one in channels]), channels[0].geometry)
    model = segzoo.from_pretrained(checkpoint)
    expected = model.predict(both, overlap=0).mask
    assert len(np.unique(expected)) > 1
    mask, geometry = read_volume_mask(tmp_path / "masks" / f"{whole}.nii.gz")
    np.testing.assert_array_equal(mask, expected)
    assert same_grid(geometry, channels[0].geometry)
    found = model.predict(two / "imagesTs" / f"{whole}_0001.nii.gz", overlap=0)  # any of its files stands for the case
    np.testing.assert_array_equal(found.mask, expected)


def test_a_case_is_one_input_however_its_files_are_given(checkpoint, two, tmp_path):
    files = sorted((two / "imagesTs").glob("hippocampus*"))
    for given in (files, files[1:]):
        output = tmp_path / str(len(given))
        status, printed = predict(checkpoint, *given, "--output", output)
        assert (status, os.listdir(output)) == (0, ["hippocampus_320.nii.gz"]), printed


def test_a_change_of_any_channel_is_seen(checkpoint, two, tmp_path):
    for file in (two / "imagesTs").glob("hippocampus*"):
        shutil.copy(file, tmp_path)

    def again() -> str:
        return predict(checkpoint, *tmp_path.glob("*.gz"), "--output", tmp_path / "masks")[1]

    assert "done before" not in again()
    assert "1 of 1 were done before" in again()
    os.utime(tmp_path / "hippocampus_320_0001.nii.gz", (1, 1))
    assert "done before" not in again()


# ---- regions


@pytest.fixture(scope="module")
def folds(regions, tmp_path_factory) -> Path:
    """Five folds on regions, in two channels of which the second has a window."""
    run = tmp_path_factory.mktemp("regions") / "run"
    data = ["--data", "Decathlon", "--data.root", regions, "--data.intensity", "[zscore,window]", *PATCH]
    classes = ["--model.num_classes", 2, "--model.multilabel", "true"]
    where = ["--trainer.default_root_dir", run, "--folds", 5, "--pictures", 0]
    status, printed = said("fit", *MODEL, *classes, *data, *BRIEF, *RAISE, *where)
    assert status == 0, printed
    return run


def test_regions_are_read_as_masks_that_overlap(regions):
    data = Decathlon(regions, split="all", patch_size=(16, 24, 16))
    assert (data.class_names, data.multilabel, data.region_values) == (("whole", "posterior"), True, (1, 2))
    batch = next(iter(data.test_dataloader()))
    stored, _ = read_volume_mask(regions / "labelsTr" / f"{batch['id'][0]}.nii.gz")
    (found,) = batch["original_label"]
    expected = np.where(stored == 3, -1, np.stack([stored > 0, stored == 2]).astype(int))
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(data.label_of(data.samples()[0]), expected)
    assert next(iter(data.train_dataloader()))["label"].shape == (2, 2, 16, 24, 16)
    assert batch["label"].shape == (1, 2, *stored.shape)


def test_five_folds_are_one_ensemble(folds):
    configs = [json.loads((folds / one / "checkpoint" / "config.json").read_text()) for one in ("fold0", "fold4", ".")]
    contract, *others = (config["preprocessing"] for config in configs)
    assert others == [contract, contract]  # the window is that of the first fold's training part
    assert (contract["intensity"], contract["channels"]) == (["zscore", "window"], 2)
    none, (low, high) = contract["window"]
    assert none is contract["mean"][0] is contract["std"][0] is None
    assert low < contract["mean"][1] < high
    assert [config["region_values"] for config in configs] == 3 * [[1, 2]]
    with (folds / "test_per_image.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 5
    card = (folds / "checkpoint" / "README.md").read_text()
    assert "channel 1 brought to mean 0 and standard deviation 1, channel 2 clipped to " in card


def test_predicted_regions_are_written_as_their_values(folds, regions, tmp_path):
    assert segzoo.from_pretrained(folds / "checkpoint").task.region_values == (1, 2)  # the ensemble
    checkpoint = folds / "fold0" / "checkpoint"
    status, printed = predict(checkpoint, *(regions / "imagesTs").glob("hippocampus*"), "--output", tmp_path / "masks")
    assert status == 0, printed
    assert os.listdir(tmp_path / "masks") == ["hippocampus_320.nii.gz"]
    image = regions / "imagesTs" / "hippocampus_320_0000.nii.gz"
    whole, posterior = segzoo.from_pretrained(checkpoint).predict(image, overlap=0).mask
    assert posterior.any()
    assert f"whole {whole.mean():.1%}, posterior {posterior.mean():.1%}" in printed
    written, _ = read_volume_mask(tmp_path / "masks" / "hippocampus_320.nii.gz")
    np.testing.assert_array_equal(written, np.where(posterior, 2, whole))
    again = ["--output", tmp_path / "masks", "--measure", tmp_path / "table.csv"]  # of masks that overlapped
    assert predict(checkpoint, image, *again)[0] == 0
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = {row["structure"]: float(row["size"]) for row in csv.DictReader(file)}
    assert rows["whole"] == pytest.approx(whole.sum() / 1000, abs=0.01)
    assert rows["posterior"] == pytest.approx(posterior.sum() / 1000, abs=0.01)


def test_regions_are_scored_as_regions(folds, regions, tmp_path):
    data = ["--data", "Decathlon", "--data.root", regions, "--trainer.default_root_dir", tmp_path]
    checkpoint = folds / "fold1" / "checkpoint"
    status, printed = said("test", "--model", checkpoint, *data, "--data.fold", 1, *BRIEF[:3])
    assert status == 0, printed
    (sample,) = Decathlon(regions, fold=1).part_samples("test")
    stored, _ = read_volume_mask(sample.masks[0])
    counted = stored != 3  # which is ignored
    mask = segzoo.from_pretrained(checkpoint).predict(sample.image).mask.astype(bool) & counted
    for name, found, truth in zip(("whole", "posterior"), mask, (stored > 0, stored == 2), strict=True):
        truth = truth & counted
        assert f"segzoo: {name}: dice {2 * (found & truth).sum() / (found.sum() + truth.sum()):.4f}" in printed
