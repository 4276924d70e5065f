"""Costs of `segzoo predict` beside the network itself: on a folder, and on one image from a cold start.

    python benchmarks/throughput.py folder [--model cmunext] [--images 1000] [--threads 1]
    python benchmarks/throughput.py cold [--checkpoint lv-unet-busi] [--repeats 5]

`folder` compares images a second with the bare deployed model's, called on ready batches. Both go through the images in
turns of 20, so that a machine that is busy for a while slows both down; the first turn warms up and does not count.
Processor time says what a machine with nothing else to do would lose where no core is free to read and write.

`cold` compares one image, from the start of the process to the file, with `python -c "import lightning"` and the
network's own forward pass, alternately; of each the median counts.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import segzoo
from segzoo.imaging.readers import inputs_in
from segzoo.prediction.files import segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import plan
from segzoo.prediction.torch_backend import TorchBackend

TURN = 20
SIZE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["folder", "cold"])
    parser.add_argument("--model", default="cmunext")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", default="lv-unet-busi")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        if options.what == "folder":
            folder(options.model, options.images, Path(scratch))
        else:
            cold(options.checkpoint, options.repeats, Path(scratch))


def folder(name: str, images: int, scratch: Path) -> None:
    torch.manual_seed(0)
    model = segzoo.create_model(name).eval()
    if name == "lv_unet":
        model.deep_training_lambda.fill_(1)
    backend = TorchBackend(model.deploy(), name)
    predictor = Pipeline(backend)
    print(f"{predictor.description}; {images} images of {SIZE} x {SIZE}", flush=True)
    jobs = plan(inputs_in(pictures(scratch / "in", images + TURN)), scratch / "out", overlay=False)
    batch = torch.randn(predictor.batch_size, 3, SIZE, SIZE, device=backend.device)

    @torch.inference_mode()
    def bare(start: int) -> None:
        for _ in range(0, len(jobs[start : start + TURN]), predictor.batch_size):
            backend.network(batch)

    def files(start: int) -> None:
        for job, outcome in segment_files(predictor, jobs[start : start + TURN]):
            assert isinstance(outcome, str), (job, outcome)

    turns = [(seconds(bare, start), seconds(files, start)) for start in range(0, len(jobs), TURN)]
    for clock, which in enumerate(("wall", "processor")):
        network, whole = (sum(turn[side][clock] for turn in turns[1:]) for side in (0, 1))
        print(
            f"{which:>9} time: bare model {images / network:.2f} images/s, from file to file {images / whole:.2f}: "
            f"{network / whole:.0%}"
        )


def pictures(target: Path, count: int) -> Path:
    """Smooth noise as PNG, the size of a small photograph on disk."""
    target.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8))
        coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(target / f"{number:05}.png")
    return target


def seconds(function: Callable[[int], None], start: int) -> tuple[float, float]:
    """Wall and processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    function(start)
    return time.perf_counter() - wall, time.process_time() - processor


def cold(checkpoint: str, repeats: int, scratch: Path) -> None:
    image = next(pictures(scratch / "in", 1).iterdir())
    predict = ["-m", "segzoo.cli", "predict", checkpoint, str(image), "--device", "cpu", "--output"]
    runs = []
    for number in range(repeats + 1):  # the first one fills the disk's cache
        lightning = process(["-c", "import lightning"])
        whole = process([*predict, str(scratch / f"out{number}")])
        runs.append((lightning, whole))
    network = segzoo.from_pretrained(checkpoint).deploy()
    batch = torch.randn(1, network.in_channels, SIZE, SIZE)
    with torch.inference_mode():
        start = time.perf_counter(), time.process_time()
        network(batch)  # the first pass, which is the one that a cold start makes
        forward = time.perf_counter() - start[0], time.process_time() - start[1]
    for clock, which in enumerate(("wall", "processor")):
        lightning, whole = (statistics.median(run[side][clock] for run in runs[1:]) for side in (0, 1))
        print(
            f"{which:>9} time: import lightning {lightning:.2f} s, forward {forward[clock]:.3f} s, "
            f"segzoo predict {whole:.2f} s: {whole / (lightning + forward[clock]):.2f} times both"
        )


def process(arguments: list[str]) -> tuple[float, float]:
    """Wall and processor time of a Python process, from its start to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
