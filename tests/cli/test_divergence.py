"""Trainings that diverge end at once, in a sentence, and lose nothing."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from safetensors.torch import load_file

import segzoo
from segzoo import cli
from segzoo.cli.run_files import BEST, LAST
from segzoo.module import SegmentationModule
from segzoo.steps import Diverged

QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary"]
QUIET += ["false", "--trainer.num_sanity_val_steps", "0", "--trainer.logger", "false"]
FIT = ["fit", *QUIET, "--pictures", "0"]  # drawing takes a fifth of so short a run
TRAINED = SegmentationModule.training_step


def fit(samples: Path, run: Path, *options: Any, epochs: int = 3) -> int:
    data = ["--data", "BUSI", "--data.root", samples, "--data.split", "all", "--data.image_size", 32]
    arguments = [*FIT, "--model", "cmunext_s", *data, "--data.batch_size", 4, "--trainer.max_epochs", epochs]
    return cli.main([str(argument) for argument in (*arguments, "--trainer.default_root_dir", run, *options)])


def error_of(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("segzoo: error")]
    return line


def state_of(file: Path) -> dict[str, Any]:
    return torch.load(file, map_location="cpu", weights_only=True)


def spoil_second_epoch(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
    """Loss whose gradients are NaN in the first step of the second epoch, after which there is no step."""
    loss = TRAINED(self, batch, batch_idx)
    assert (self.current_epoch, batch_idx) != (1, 1)
    return loss * math.nan if self.current_epoch == 1 else loss


def spoil_buffer(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
    """A variance that becomes negative in the second epoch, while losses and weights stay finite."""
    if self.current_epoch == 1:
        next(value for name, value in self.named_buffers() if name.endswith("running_var")).fill_(-1)
    return TRAINED(self, batch, batch_idx)


@pytest.mark.parametrize(("spoil", "step"), [(spoil_second_epoch, "step 3"), (spoil_buffer, "step 4")])
def test_a_training_that_diverges_ends_and_keeps_its_best_epoch(spoil, step, samples, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SegmentationModule, "training_step", spoil)
    run = tmp_path / "run"
    assert fit(samples, run) == 2
    printed = capsys.readouterr()
    said = error_of(printed.err)
    assert "epoch 1" in said
    assert step in said
    for option in ("--optimizer.lr", "--trainer.gradient_clip_val", "--trainer.precision"):
        assert option in said
    assert "(best weights)" in printed.out
    kept = [state_of(run / name) for name in (BEST, LAST)]
    assert [state["epoch"] for state in kept] == [0, 0]
    saved = load_file(run / "checkpoint" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in kept[0]["state_dict"].items())
    assert not list(run.glob("*.part"))
    monkeypatch.undo()
    assert fit(samples, run, "--ckpt_path", "last") == 0  # what it kept can be gone on from
    assert state_of(run / LAST)["epoch"] == 2


def test_a_training_that_diverges_in_its_first_step_leaves_no_checkpoint(samples, tmp_path, capsys):
    assert fit(samples, tmp_path / "run", "--optimizer", "SGD", "--optimizer.lr", "1e38") == 2
    assert "epoch 0" in error_of(capsys.readouterr().err)
    assert not list((tmp_path / "run").glob("*.ckpt*"))
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_a_loss_that_is_not_finite_under_finite_weights_is_a_warning(samples, tmp_path, monkeypatch):
    def spoil(self: SegmentationModule, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = TRAINED(self, batch, batch_idx)
        return loss + (math.nan if (self.current_epoch, batch_idx) == (1, 0) else 0)  # its gradients are finite

    monkeypatch.setattr(SegmentationModule, "training_step", spoil)
    with pytest.warns(UserWarning, match="epoch 1"):
        assert fit(samples, tmp_path / "run") == 0
    assert state_of(tmp_path / "run" / LAST)["epoch"] == 2


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_run_with_weights_that_are_not_finite_is_not_gone_on_from(value, samples, tmp_path, capsys):
    run = tmp_path / "run"
    assert fit(samples, run, "--trainer.limit_train_batches", 1, epochs=1) == 0
    state = state_of(run / LAST)
    state["state_dict"]["head.weight"].view(-1)[3] = value
    torch.save(state, run / LAST)
    assert fit(samples, run, "--ckpt_path", "last") == 2
    said = error_of(capsys.readouterr().err)
    assert str(run / LAST) in said
    assert "head.weight" in said


def test_a_trainer_of_ones_own_ends_too(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(SegmentationModule, "training_step", spoil_second_epoch)
    data = segzoo.data.BUSI(samples, split="all", image_size=32, batch_size=4)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model = segzoo.create_model("cmunext_s")
    with pytest.raises(Diverged):
        trainer.fit(model, data)
    with pytest.raises(Diverged):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not (tmp_path / "a.ckpt").exists()
