"""Kill trainings at random times, and go on: nothing but the epoch under way may be lost.

    python tests/fuzz/kills_of_fit.py [KILLS]

Each round starts `segzoo fit` on the eight images of tests/samples in a copy of this process, sends it SIGKILL, looks
at what the run's folder holds, goes on with --ckpt_path last, and looks again.
"""

import csv
import itertools
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import segzoo
import segzoo.cli.train  # before the forks, which would take as long each
from segzoo import cli
from segzoo.checkpoints.names import RECIPE
from segzoo.cli.run_files import BEST, LAST, PREVIOUS, STATE, damage

SAMPLES = Path(__file__).parents[1] / "samples"
EPOCHS = 6
QUIET = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
QUIET += ["--trainer.enable_model_summary", "false"]


def command(run: Path) -> list[str]:
    """Return a training that takes some seconds, of which saving is a large part."""
    data = f"--data BUSI --data.root {SAMPLES} --data.split all --data.image_size 32 --data.batch_size 4".split()
    trained = f"--model cmunext_s --trainer.max_epochs {EPOCHS} --trainer.default_root_dir".split()
    return ["fit", *QUIET, *data, *trained, str(run), "--ckpt_path", "last"]


def train(arguments: list[str]) -> None:
    """Train with nothing said; the process ends with the command's status."""
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    os._exit(cli.main(arguments))


def killed(run: Path, seconds: float) -> tuple[int, float]:
    """Train for so long after the run has its folder.

    Returns:
        How the process ended: minus the signal, or its status where it was quicker; and the seconds that it had.
    """
    process = multiprocessing.get_context("fork").Process(target=train, args=(command(run),))
    process.start()
    while process.is_alive() and not (run / RECIPE).is_file():
        time.sleep(0.002)
    began = time.monotonic()
    process.join(seconds)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode, time.monotonic() - began


def whole_epochs(run: Path) -> int:
    """Return how many epochs the run can go on after."""
    files = [run / name for name in (LAST, PREVIOUS, BEST) if (run / name).is_file()]
    damaged = {file.name: damage(file, STATE) for file in files}
    assert not any(damaged.values()), damaged
    return 1 + torch.load(files[0], map_location="cpu", weights_only=True)["epoch"] if files else 0


def trained_epochs(run: Path) -> list[int]:
    """Return the epochs that the last of the run's trainings has logged."""
    log = max((run / "csv").glob("version_*"), key=lambda folder: int(folder.name.rpartition("_")[2])) / "metrics.csv"
    with log.open(newline="", encoding="utf-8") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file) if row.get("train/loss")]


def kill_and_go_on(run: Path, seconds: float) -> str | None:
    """Do one round; return a row of the table, None where the training was quicker than the kill.

    Raises:
        AssertionError: something was lost, or left over.
    """
    if killed(run, seconds)[0] != -signal.SIGKILL:
        return None
    before = whole_epochs(run)
    drafts = [path.name for path in run.glob("*.part")] + [path.name for path in run.glob(".checkpoint*")]
    assert killed(run, 600)[0] == 0
    assert whole_epochs(run) == EPOCHS
    if before < EPOCHS:
        assert trained_epochs(run) == list(range(before, EPOCHS))
    segzoo.from_pretrained(run / "checkpoint")
    left = [*run.glob("*.part"), *run.glob(".checkpoint*")]
    assert not left, left
    return f"| {seconds:.2f} | {before} | {', '.join(drafts) or 'none'} | {before} to {EPOCHS - 1} |"


def rounds(kills: int, seed: int = 0) -> Iterator[str]:
    """Yield the rows of the table, of kills spread over the time that one training takes."""
    randomness = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        status, whole = killed(Path(folder) / "whole", 600)
        assert status == 0
        tries = (kill_and_go_on(Path(folder) / str(n), randomness.uniform(0, whole)) for n in itertools.count())
        yield from itertools.islice(filter(None, tries), kills)


if __name__ == "__main__":
    print("| s until the kill | whole epochs | drafts then | trained after |\n| --- | --- | --- | --- |")
    for row in rounds(int(sys.argv[1]) if len(sys.argv) > 1 else 20):
        print(row, flush=True)
