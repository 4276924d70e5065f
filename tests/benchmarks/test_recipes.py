"""The recipes of the zoo's checkpoints, and the queue that trains them."""

import importlib
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import train_queue
import yaml

import processes
import segzoo
from segzoo.data import SegmentationDataModule
from segzoo.module import SegmentationModule
from segzoo.registry import models

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECIPES = sorted((BENCHMARKS / "recipes").glob("*.yaml"))
BASELINES = {  # class -> how its recipes' names begin
    "benchmarks.baselines.BasicUNet": r"unet(-\d+m)?",
    "benchmarks.baselines.SMPUNet": "smp-unet",
    "benchmarks.baselines.VolumeUNet": "unet",
}

TINY = """
seed_everything: 1
trainer: {{max_epochs: 2, accelerator: cpu, enable_progress_bar: false}}
model: {{class_path: segzoo.models.cmunext.cmunext_s}}
data:
  class_path: segzoo.data.BUSI
  init_args: {{root: {root}, image_size: 32, batch_size: 2, num_workers: 0}}
"""


@pytest.fixture
def queue(tmp_path, samples, monkeypatch):
    """The queue's module with recipes of its own: one that fails, and one that does not."""
    (tmp_path / "bad.yaml").write_text(TINY.format(root="nowhere"))
    (tmp_path / "good.yaml").write_text(TINY.format(root=samples / "BUSI"))
    monkeypatch.setattr(train_queue, "RECIPES", tmp_path)
    monkeypatch.setattr(train_queue, "ORDER", ["bad", "good"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_queue.py", "--hours", "0.1"])
    quick = SimpleNamespace(**{**vars(subprocess), "Popen": processes.Process})
    monkeypatch.setattr(train_queue, "subprocess", quick)
    before = signal.getsignal(signal.SIGTERM)
    yield train_queue
    signal.signal(signal.SIGTERM, before)  # which the queue's main() changes for good


def test_the_queue_names_every_recipe_once():
    order = (BENCHMARKS / "recipes" / "order.txt").read_text().split()
    assert sorted(order) == sorted(path.stem for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_called_after_its_model_and_its_data(path):
    recipe = yaml.safe_load(path.read_text())
    class_path = recipe["model"]["class_path"]
    if class_path in BASELINES:
        module, _, name = class_path.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), SegmentationModule)
        prefix = BASELINES[class_path]
    elif class_path == "segzoo.hub.from_pretrained":  # goes on from a checkpoint that is trained before it
        start = recipe["model"]["init_args"]["name_or_path"]
        order = (BENCHMARKS / "recipes" / "order.txt").read_text().split()
        assert order.index(start) < order.index(path.stem)
        prefix = next(
            re.escape(name) for name in (model.replace("_", "-") for model in models()) if start.startswith(name)
        )
    else:
        model = class_path.rpartition(".")[2]
        assert class_path == models()[model].builder
        prefix = re.escape(model.replace("_", "-"))
    side, epochs = recipe["data"]["init_args"].get("image_size"), recipe["trainer"]["max_epochs"]
    # either may be said, where it tells two recipes apart
    dataset = re.fullmatch(f"{prefix}-(?P<dataset>.+?)(-{side}|-{epochs})?", path.stem)["dataset"].replace("-", "")
    kind = getattr(segzoo.data, recipe["data"]["class_path"].rpartition(".")[2])
    assert issubclass(kind, SegmentationDataModule)
    root = Path(recipe["data"]["init_args"]["root"])
    assert root.parts[0] == "data"  # of no machine
    assert dataset in re.sub(r"[-_]", "", root.name.lower())


def test_baselines_are_trained_as_models_of_the_zoo_are():
    recipes = [yaml.safe_load(path.read_text()) for path in RECIPES]
    baselines = [recipe for recipe in recipes if recipe["model"]["class_path"] in BASELINES]
    models_of = {}  # data -> the recipes on it of LV-UNet, or where that has none of CMUNeXt-S or MedNeXt-S
    for name in ("mednext_s_k3", "cmunext_s", "lv_unet"):
        found = [recipe for recipe in recipes if recipe["model"]["class_path"] == models()[name].builder]
        for data in {recipe["data"]["class_path"] for recipe in found}:
            models_of[data] = [without_network(each) for each in found if each["data"]["class_path"] == data]
    continued = [each for each in recipes if each["model"]["class_path"] == "segzoo.hub.from_pretrained"]
    assert len(baselines) > 2
    for recipe in baselines:
        goes_on = "starts_from" in recipe["model"].get("init_args", {})  # then as LV-UNet goes on from a checkpoint
        alike = map(without_network, continued) if goes_on else models_of[recipe["data"]["class_path"]]
        assert without_network(recipe) in alike


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_version_of_torchvision_takes_a_recipe(path):
    # older ones name an interpolation by a member of an enumeration, newer ones by a string, and all by an integer
    augmentation = yaml.safe_load(path.read_text())["data"]["init_args"]["augmentation"]
    transforms = augmentation if isinstance(augmentation, list) else [augmentation]
    named = [each.get("init_args", {}).get("interpolation") for each in transforms]
    assert all(each is None or type(each) is int for each in named)


def without_network(recipe):
    """A recipe but for the network and where that starts; its optimizer, where it is not the network's own, counts."""
    return {**recipe, "model": recipe["model"].get("init_args", {}).get("optimizer")}


def test_a_finished_baseline_is_passed_over_and_scored(queue, tmp_path):
    (tmp_path / "good.yaml").write_text("model: {class_path: benchmarks.baselines.BasicUNet}")
    (tmp_path / "runs" / "good").mkdir(parents=True)
    (tmp_path / "runs" / "good" / queue.FINISHED).touch()
    assert queue.train("good", 1, tmp_path / "runs" / "good") == "was finished"
    assert queue.publishing("good")[1:] == [str(BENCHMARKS / "quality.py"), "score", "runs/good", "good"]
    assert queue.publishing("bad")[1:] == [str(BENCHMARKS / "publish.py"), "bad", "--run", "runs/bad"]


@pytest.mark.slow
def test_the_queue_goes_on_after_a_failure_and_passes_over_what_is_finished(queue, tmp_path, monkeypatch, capsys):
    queue.main()
    printed = capsys.readouterr().out
    assert "bad: failed (see runs/bad/log.txt)" in printed
    assert (
        "no folder" in (tmp_path / "runs" / "bad" / "log.txt").read_text()
        or "nowhere" in (tmp_path / "runs" / "bad" / "log.txt").read_text()
    )
    assert "good: finished" in printed
    assert segzoo.from_pretrained(tmp_path / "runs" / "good" / "checkpoint").model_name == "cmunext_s"
    monkeypatch.setattr("sys.argv", ["train_queue.py", "good", "--hours", "0.1"])
    queue.main()
    assert "good: was finished" in capsys.readouterr().out


@pytest.mark.slow
def test_the_queue_resumes_what_was_interrupted(queue, tmp_path, monkeypatch):
    recipe = yaml.safe_load((tmp_path / "good.yaml").read_text())
    recipe["trainer"]["max_epochs"] = 5000
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(recipe))
    run, limit, wait = tmp_path / "runs" / "good", 300, processes.Process.wait

    def wait_for_an_epoch(process, timeout=None):
        while timeout == limit and not (run / "last.ckpt").is_file():
            assert process.poll() is None, (run / "log.txt").read_text()
            time.sleep(0.05)
        return wait(process, 0 if timeout == limit else timeout)

    with monkeypatch.context() as patch:
        patch.setattr(processes.Process, "wait", wait_for_an_epoch)
        assert queue.train("good", limit, run) == "goes on from last.ckpt when run again"
    curve = newest_curve(run)
    rows = curve.read_text().splitlines()
    recipe["trainer"]["max_epochs"] = int(rows[-1].split(",")[rows[0].split(",").index("epoch")]) + 3
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(recipe))
    assert queue.train("good", 300, run) == "finished"
    assert newest_curve(run) != curve
    resumed = newest_curve(run).read_text().splitlines()
    assert int(resumed[1].split(",")[resumed[0].split(",").index("epoch")]) > 0


@pytest.mark.slow
def test_a_queue_that_is_told_to_stop_stops_its_training(queue, tmp_path, monkeypatch):
    recipe = yaml.safe_load((tmp_path / "good.yaml").read_text())
    recipe["trainer"]["max_epochs"] = 5000
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr("sys.argv", ["train_queue.py", "good", "--hours", "0.1"])
    started, start = [], processes.Process
    monkeypatch.setattr(
        train_queue.subprocess, "Popen", lambda *given, **named: started.append(start(*given, **named)) or started[-1]
    )
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit, match="143"):
        queue.main()
    (training,) = started
    assert training.poll() is not None


def newest_curve(run):
    """The last one; a training that was stopped before its first epoch leaves a folder without any."""
    return max((run / "csv").glob("version_*/metrics.csv"), key=lambda path: path.stat().st_mtime)
