"""Training and testing on volumes: from the shell, with a MedNeXt, on the six real cases of the repository."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from monai.metrics import compute_hausdorff_distance
from PIL import Image
from torch import nn
from torch.testing import assert_close

import segzoo
from segzoo import cli
from segzoo.cli.train_pictures import SIDE, RunPictures
from segzoo.data import Decathlon, VolumeAugmentation
from segzoo.errors import SegzooError
from segzoo.imaging.volumes import read_volume_mask
from segzoo.metrics.metric import HausdorffDistance95
from segzoo.models.mednext import MedNeXt
from segzoo.module import SegmentationModule

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}
PATCH = (24, 24, 16)


@pytest.fixture(scope="module")
def task(samples: Path) -> Path:
    return samples / "Task04_Hippocampus"


def small(**arguments: Any) -> MedNeXt:
    seed_everything(0, verbose=False)
    return MedNeXt(num_classes=3, width=4, depths=1, **arguments)


def trainer(folder: Path, **options: Any) -> Trainer:
    return Trainer(default_root_dir=folder, logger=False, enable_checkpointing=False, **QUIET | options)


class TwoLayers(SegmentationModule):
    """The smallest network of three classes; as it starts, its masks hold all of them."""

    spatial_dims = 3

    def __init__(self) -> None:
        super().__init__(in_channels=1, num_classes=3)
        generator = torch.Generator().manual_seed(1)
        self.layers = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv3d(4, 3, 1))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def compute_logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)


def test_training_lowers_the_loss(task, tmp_path):
    model = small(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2))
    data = Decathlon(task, split="all", patch_size=(16, 24, 16), augmentation=VolumeAugmentation(mirror_axes=(2,)))
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 4, "callbacks": [RunPictures()]}
    options["limit_val_batches"] = 3  # the windows of a whole volume take longer than its patches
    runner = trainer(tmp_path, max_epochs=4, **options)
    before = runner.validate(model, data, verbose=False)[0]["val/loss"]
    runner.fit(model, data)
    assert runner.callback_metrics["val/loss"] < 0.75 * before
    assert model.preprocessing.patch_size == (16, 24, 16)
    assert model.preprocessing.mirror_axes == (2,)
    assert Image.open(tmp_path / "examples.png").height > 3 * SIDE
    assert model.class_names == ("background", "Anterior", "Posterior")
    assert model.data["dataset"] == "Task04_Hippocampus"


def test_validation_loss_is_that_of_the_whole_volume(task, tmp_path):
    model = small().eval()
    model.preprocessing = Decathlon(task, patch_size=(64, 64, 64)).preprocessing  # a window holds them all
    data = Decathlon(task)
    found = trainer(tmp_path).validate(model, data, verbose=False)[0]["val/loss"]
    (batch,) = data.val_dataloader()
    with torch.inference_mode():
        assert found == pytest.approx(model.compute_loss(model(batch["image"]), batch["label"]).item(), rel=1e-4)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_logits_of_probabilities(num_classes):
    model = segzoo.create_model("mednext", num_classes=num_classes, multilabel=False)
    logits = 5 * torch.randn(1, num_classes, 4, 4, 4)
    probabilities = model.activate(logits)
    assert_close(model.activate(model.logits_of(probabilities)), probabilities)
    certain = torch.zeros(1, num_classes, 1, 1, 1)
    certain[:, 0] = 1
    assert model.logits_of(certain).isfinite().all()


def test_scores_are_those_of_the_predicted_masks(task, tmp_path):
    model = TwoLayers().eval()
    data = Decathlon(task, split="all", spacing=(2, 1, 1), patch_size=(16, 32, 32))
    model.metric_names = ("dice", "hd95")
    model.preprocessing = data.preprocessing
    runner = trainer(tmp_path)
    results = runner.test(model, data, verbose=False)[0]
    expected = []
    for sample in data.samples():
        prediction = torch.from_numpy(model.predict(sample.image).mask.astype(np.int64))
        stored, geometry = read_volume_mask(sample.masks[0])
        found, target = (torch.stack([m == 1, m == 2])[None] for m in (prediction, torch.from_numpy(stored)))
        axes = (0, 2, 3, 4)
        overlap = 2 * (found & target).sum(axes) / (found.sum(axes) + target.sum(axes))
        distance = compute_hausdorff_distance(
            found, target, include_background=True, percentile=95, spacing=list(geometry.spacing)
        )
        expected.append([*overlap.tolist(), *distance[0].tolist()])
    means = np.mean(expected, axis=0)
    assert (means > 0).all()
    assert [results[f"test/{name}"] for name in ("dice_1", "dice_2", "hd95_1", "hd95_2")] == pytest.approx(means, 1e-4)
    assert results["test/dice"] == pytest.approx(means[:2].mean(), 1e-4)
    assert results["test_resized/dice"] != results["test/dice"]  # on the network's grid, of thicker slices
    assert "test_resized/dice_1" not in results
    with (tmp_path / "test_per_image.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["dice_2"]) for row in rows] == pytest.approx([row[1] for row in expected], 1e-4)
    assert "mean in mm," in model.test_metrics["hd95"].protocol
    for sample, (one,) in zip(data.samples(), runner.predict(model, data), strict=True):
        alone = model.predict(sample.image)
        assert one.geometry.shape == one.mask.shape
        np.testing.assert_array_equal(one.mask, alone.mask)


def test_distances_are_in_millimetres():
    metric = HausdorffDistance95()
    prediction, target = torch.zeros(1, 4, 4, 8, dtype=torch.long), torch.zeros(1, 4, 4, 8, dtype=torch.long)
    prediction[..., 1], target[..., 3] = 1, 1
    for spacing, expected in (((1, 1, 1), 2.0), ((1, 1, 3), 6.0)):
        metric.update(prediction, target, spacing=spacing)
        assert metric.compute() == expected
        metric.reset()
    assert metric.protocol.startswith("per-image mean in mm,")


def test_a_large_volume_is_validated_in_windows(task, monkeypatch, tmp_path):
    sizes = []
    model = TwoLayers()
    model.preprocessing = Decathlon(task, patch_size=PATCH).preprocessing
    compute = model.compute_logits
    monkeypatch.setattr(model, "compute_logits", lambda x: sizes.append(tuple(x.shape[2:])) or compute(x))
    trainer(tmp_path).validate(model, Decathlon(task), verbose=False)
    assert set(sizes) == {PATCH}


# ---- from the shell


def shell(verb: str, *options: Any) -> None:
    quiet = [f"--trainer.{name}={str(value).lower()}" for name, value in QUIET.items()]
    assert cli.main([verb, *quiet, *map(str, options)]) == 0


def test_from_the_shell(task, tmp_path, capsys):
    run = tmp_path / "run"
    data = ["--data", "Decathlon", "--data.root", task, "--data.patch_size", "[32,32,32]"]
    model = ["--model", "mednext_s_k3", "--model.num_classes", 3, "--model.width", 4]
    mirror = ["--data.augmentation", "VolumeAugmentation", "--data.augmentation.mirror_axes", "[2]"]
    limits = ["--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1, "--trainer.default_root_dir", run]
    shell("fit", *model, *data, *mirror, *limits)
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    assert config["preprocessing"]["patch_size"] == [32, 32, 32]
    assert config["data"]["split"] == "grouped"
    capsys.readouterr()
    tested = ["--data", "Decathlon", "--data.root", task, "--trainer.default_root_dir", tmp_path / "test"]
    shell("test", "--model", run / "checkpoint", *tested, "--record", "true")
    printed = capsys.readouterr().out
    config = json.loads((run / "checkpoint" / "config.json").read_text())
    card = (run / "checkpoint" / "README.md").read_text()
    for number, name in ((1, "Anterior"), (2, "Posterior")):
        dice = config["metrics"]["original"][f"dice_{number}"]
        assert f"segzoo: {name}: dice {dice:.4f}" in printed
        assert f"| {name} | {dice:.4f} |" in card
        assert f"name: Dice ({name})" in card
    assert "split `grouped`, fold 0: 3 images to train" in card
    assert "not the split" not in printed


def test_an_image_model_is_not_trained_on_volumes(task, tmp_path, refused):
    model = segzoo.create_model("cmunext_s", in_channels=1, num_classes=3)
    with refused(SegzooError):
        trainer(tmp_path, max_epochs=1).fit(model, Decathlon(task))


def test_a_volume_model_is_not_trained_on_images(samples, tmp_path, refused):
    with refused(SegzooError):
        trainer(tmp_path, max_epochs=1).fit(small(), segzoo.data.BUSI(samples, split="all"))
