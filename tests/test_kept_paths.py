"""What stays where it is: import paths that published recipes and documents name, and the files of runs begun before.

``samples/run_before`` holds two runs of two epochs as segzoo 0.1.0 left them when they were killed in the second one:
MedNeXts of two channels, one for images and one for volumes.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import segzoo
from segzoo.cli import main

ROOT = Path(__file__).parents[1]
RECIPES = ("model_cards/*/train.yaml", "benchmarks/recipes/*.yaml", "benchmarks/*.yaml")
BUILDERS = {
    "cmunext": ["cmunext", "cmunext_s", "cmunext_l"],
    "lv_unet": ["lv_unet"],
    "med_urwkv": ["med_urwkv", "med_urwkv_s", "med_urwkv_b"],
    "mednext": [f"mednext_{size}_k{kernel}" for size in "sbml" for kernel in (3, 5)],
}
PATHS = [
    "segzoo.__version__",
    "segzoo.cli.main",
    "segzoo.hub.from_pretrained",
    "segzoo.registry.models",
    *(f"segzoo.models.{file}.{builder}" for file, builders in BUILDERS.items() for builder in builders),
    *(f"segzoo.data.{name}" for name in ("BUSI", "CVCClinicDB", "DSB2018", "Decathlon", "Folder", "ISIC2017", "Joint")),
    *(f"segzoo.data.{name}" for name in ("CHASEDB1", "KvasirSEG", "SegmentationDataModule", "VolumeAugmentation")),
    "segzoo.data.augmentation.RandomFlipRotate90",
    "segzoo.data.volume_augmentation.VolumeAugmentation",
    *(f"segzoo.metrics.{name}" for name in ("Dice", "IoU", "Precision", "Recall", "HausdorffDistance95")),
    *(f"segzoo.metrics.{name}_score" for name in ("dice", "iou", "precision", "recall")),
    *(f"segzoo.metrics.{name}" for name in ("confusion", "hausdorff_distance95", "image_scores", "metric_class")),
    *(f"segzoo.metrics.{name}" for name in ("METRICS", "SegmentationMetric", "write_image_scores")),
    "segzoo.losses.DiceCELoss",
    "segzoo.nn.bi_wkv",
    "segzoo.volumes.Volume",
    "segzoo.volumes.read_volume",
]


def class_paths(configured: Any) -> Iterator[str]:
    """All that a configuration names, at any depth."""
    if isinstance(configured, dict):
        if "class_path" in configured:
            yield configured["class_path"]
        configured = list(configured.values())
    if isinstance(configured, list):
        for part in configured:
            yield from class_paths(part)


def named_in_recipes() -> list[str]:
    files = [path for pattern in RECIPES for path in ROOT.glob(pattern)]
    return sorted({name for path in files for name in class_paths(yaml.safe_load(path.read_text(encoding="utf-8")))})


def resolve(path: str) -> Any:
    """What an import path means to LightningCLI: an attribute of a module."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


# ---- import paths


@pytest.mark.parametrize("path", named_in_recipes())
def test_what_recipes_name_can_be_imported(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)  # for benchmarks.baselines, which are named from the repository
    assert callable(resolve(path))


def test_the_names_are_found_at_every_depth():
    found = named_in_recipes()
    assert {"benchmarks.baselines.BasicUNet", "segzoo.data.Joint", "segzoo.hub.from_pretrained"} <= {*found}
    assert "segzoo.data.augmentation.RandomFlipRotate90" in found


@pytest.mark.parametrize("path", PATHS)
def test_what_documents_name_can_be_imported(path):
    assert resolve(path) is not None


def test_every_model_is_where_recipes_look_for_it():
    named = {f"segzoo.models.{file}.{builder}" for file, builders in BUILDERS.items() for builder in builders}
    assert {facts.builder for facts in segzoo.registry.models().values()} == named


def test_the_command_is_where_it_was_installed_from():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"segzoo": "segzoo.cli:main"}


def test_python_runs_the_command_as_a_module():
    path = os.pathsep.join(filter(None, [str(Path(segzoo.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "segzoo.cli", "list", "lv_*"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "LV-UNet" in done.stdout


def test_torch_hub_finds_every_model():
    spec = importlib.util.spec_from_file_location("hubconf", ROOT / "hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    assert all(callable(getattr(hubconf, name)) for name in segzoo.list_models())
    model = hubconf.lv_unet(pretrained="busi")
    assert (model.model_name, model.training) == ("lv_unet", False)


# ---- runs begun before


@pytest.mark.parametrize(
    ("name", "data", "options"),
    [
        ("images", "BUSI", []),
        ("volumes", "Task04_Hippocampus", ["--trainer.limit_val_batches", "0"]),  # only its state knows the best
    ],
)
def test_a_run_begun_before_goes_on(name, data, options, samples, tmp_path):
    run = shutil.copytree(samples / "run_before" / name, tmp_path / "run")
    before = state_of(run)
    assert before["epoch"] == 0
    arguments = ["fit", "-c", run / "train.yaml", "--data.root", samples / data, *options]
    arguments += ["--trainer.default_root_dir", run, "--ckpt_path", "last"]
    assert main([str(argument) for argument in arguments]) == 0
    after = state_of(run)
    assert (after["epoch"], after["global_step"]) == (1, 2 * before["global_step"])
    steps = {state["step"].item() for state in after["optimizer_states"][0]["state"].values()}
    assert max(steps) == after["global_step"]  # those of before counted, so that its moments are theirs
    assert after["lr_schedulers"][0]["last_epoch"] == 2
    assert best_score(after) == best_score(before) if options else best_score(after) >= best_score(before)
    model = segzoo.from_pretrained(run / "checkpoint")
    assert (model.model_name, model.data["dataset"]) == ("mednext_s_k3", data)
    assert moved(before["state_dict"], model.state_dict()) > 0


def state_of(run: Path) -> dict[str, Any]:
    return torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)


def best_score(state: dict[str, Any]) -> float:
    """What the callback that keeps the best epoch remembers."""
    return next(kept["best_model_score"].item() for kept in state["callbacks"].values() if kept.get("monitor"))


def moved(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> float:
    """By how much weights of the same names differ at most; an epoch at a rate of 1e-3 moves none of them far."""
    assert old.keys() == new.keys()
    distance = max((old[name] - new[name]).abs().max().item() for name in old)
    assert distance < 0.05
    return distance
