"""Post-processing, calibration and doubt of the zoo's checkpoints: what `segzoo tune` chooses, and what that changes.

    python benchmarks/tuned.py run [NAME...]    tune and test -> runs/tuned/NAME, results/tuned/NAME.json and NAME.csv
    python benchmarks/tuned.py                  the table of docs/checkpoints.md, of what is stored

``run`` takes all checkpoints unless some are named, one after another, each in processes of its own. What is stored is
passed over, so that it can be stopped and started again, and one that fails does not stop the rest. The test part is
read once, after the choice, and only where something was chosen; the scores without are those of
``benchmarks/results/NAME.csv``. Calibration errors before and after are of the validation part, as the parts are. Run
it from the repository's root, with ``data`` there as the recipes say; with OMP_NUM_THREADS=1 it leaves the other cores
to others.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from measuring import read_recipe, run_test
from quality import MODEL_CARDS, REPOSITORY, markdown, read_groups, read_scores, write_section

from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import CONFIG
from segzoo.hub.listing import list_checkpoints
from segzoo.metrics.doubt import worth
from segzoo.metrics.score_file import read_image_scores
from segzoo.metrics.statistics import interval

RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "checkpoints.md"
TOO_FEW = {"cmunext-s-chase"}  # to choose by: the photographs of three children validate
OF_TRAINING = ("augmentation", "batch_size", "patches_per_volume", "foreground", "class_weights")  # no part in a choice


# ---- run


def run(names: list[str]) -> None:
    """Tune and test checkpoints."""
    for name in names or [name for name in list_checkpoints() if name not in TOO_FEW]:
        try:
            print(f"{name}: {tune_and_test(name)}", flush=True)
        except subprocess.CalledProcessError as error:
            print(f"{name}: failed with status {error.returncode}", flush=True)


def tune_and_test(name: str) -> str:
    """Tune a checkpoint and test what comes of it, unless that is stored; return how it ended."""
    stored, folder = RESULTS / "tuned" / f"{name}.json", Path("runs") / "tuned" / name
    if stored.is_file():
        return "was stored"
    recipe = read_recipe(MODEL_CARDS / name)
    if not (folder / CONFIG).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "segzoo.cli", "tune", str(MODEL_CARDS / name), "--output", str(folder)]
        subprocess.run([*command, *data_options(recipe["data"])], env=os.environ, check=True)
    config = read_config(folder)
    stored.parent.mkdir(parents=True, exist_ok=True)
    if config.postprocessing:
        rows = run_test({"data": recipe["data"]}, "--model", folder, "--calibration", "true")
        stored.with_suffix(".csv").write_text(rows, encoding="utf-8", newline="")
    facts = {"dataset": config.data["dataset"], "version": config.version}
    facts |= {"said": str(config.postprocessing), "postprocessing": config.postprocessing.to_dict()}
    stored.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return str(config.postprocessing) or "nothing helps"


def data_options(data: dict[str, Any]) -> list[str]:
    """Return the options of a command line that name a recipe's data."""
    options = ["--data", data["class_path"]]
    for key, value in data["init_args"].items():
        if value is not None and key not in OF_TRAINING:
            options += [f"--data.{key}", value if isinstance(value, str) else json.dumps(value)]
    return options


# ---- report


def report(results: Path = RESULTS, page: Path = PAGE) -> None:
    """Write the table into the page, between its two comments."""
    rows = [row_of(path, results) for path in sorted((results / "tuned").glob("*.json"))]
    head = ["checkpoint", "chosen", "validation Dice", "parts", "ECE", "ECE near boundaries"]
    head += ["test Dice", "difference", "test HD95", "test ECE", "near boundaries", "doubt: Spearman", "AUROC"]
    write_section(page, "tuned", markdown(head, rows, left=2))


def row_of(path: Path, results: Path) -> list[str]:
    """Return a checkpoint's row: scores without and with."""
    facts, name = json.loads(path.read_text(encoding="utf-8")), path.stem
    ids, without = read_scores(results / f"{name}.csv")
    dice, hd95 = f"{without['dice'].mean():.3f}", mean_distance(without)
    if not facts["said"]:
        return [f"`{name}`", "nothing", *["-"] * 4, dice, "-", hd95, *["-"] * 4]
    tested, scores = read_scores(path.with_suffix(".csv"))
    if tested != ids:
        raise SystemExit(f"{path.with_suffix('.csv')} is not of the images of {name}.csv; remove it and run again")
    tuned = facts["postprocessing"]["tuned"]
    before, after, changes = tuned["before"], tuned["after"], scores["dice"] - without["dice"]
    low, high = interval(changes, read_groups(results, facts["dataset"], ids))
    judged = read_columns(path.with_suffix(".csv"), ("dice", "doubt", "ece", "ece_boundary"))
    found = worth(judged["doubt"], judged["dice"])
    return [
        f"`{name}`",
        facts["said"],
        f"{before['dice']:.3f} -> {after['dice']:.3f}",
        f"{before['components']:.2f} -> {after['components']:.2f}",
        *(f"{before[error]:.3f} -> {after[error]:.3f}" for error in ("ece", "ece_boundary")),
        f"{dice} -> {scores['dice'].mean():.3f}",
        f"{changes.mean():+.4f} [{low:+.4f}, {high:+.4f}]",
        "-" if hd95 == "-" else f"{hd95} -> {mean_distance(scores)}",
        *(f"{np.nanmean(judged[error]):.3f}" for error in ("ece", "ece_boundary")),
        f"{found.spearman:.2f}",
        f"{found.auroc:.2f}, {found.failed}",
    ]


def mean_distance(scores: dict[str, np.ndarray]) -> str:
    """Return the mean Hausdorff distance, where it was measured."""
    return f"{scores['hd95'].mean():.1f}" if "hd95" in scores else "-"


def read_columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    rows = read_image_scores(path)
    return {name: np.array([float(row[name]) for row in rows]) for name in names}


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=lambda options: report())
    running = parser.add_subparsers().add_parser("run", help="tune and test")
    running.add_argument("names", nargs="*", metavar="NAME")
    running.set_defaults(run=lambda options: run(options.names))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
