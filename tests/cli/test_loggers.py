"""Loggers that docs/train.md names, each where it is installed."""

import sqlite3
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from test_train import BRIEF, busi, fit

OTHERS = {
    "tensorboard": [],
    "wandb": ["WandbLogger", "offline", "true", "save_dir", "ROOT"],
    "mlflow": ["MLFlowLogger", "tracking_uri", "sqlite:///ROOT/mlflow.db"],
}


@pytest.mark.parametrize("package", OTHERS)
def test_a_training_is_logged_without_a_network(package, samples, tmp_path):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install {package}")
    name, *options = [word.replace("ROOT", str(tmp_path)) for word in OTHERS[package]] or [""]
    words = ["--trainer.logger", name] if name else []
    for option, value in zip(options[::2], options[1::2], strict=True):
        words += [f"--trainer.logger.{option}", value]
    root = fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), *BRIEF, *words, epochs=1)
    assert (root / "checkpoint" / "config.json").is_file()
    assert written(package, tmp_path)


def written(package: str, root: Path) -> list[Any]:
    """What a logger has left that tells of the validation."""
    if package == "tensorboard":
        return list(root.glob("run/tensorboard/version_0/events.*"))
    if package == "mlflow":
        with sqlite3.connect(root / "mlflow.db") as store:
            return store.execute("select value from metrics where key = 'val/dice'").fetchall()
    import_module("wandb").finish()  # writes what its own process still holds
    return [file for file in root.glob("wandb/offline-run-*/run-*.wandb") if b"val/dice" in file.read_bytes()]
