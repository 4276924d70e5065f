"""Cost of a frame: `segzoo.Predictor` and `model.predict` beside what they are built on.

    python benchmarks/live.py [--frames 50] [--checkpoint lv-unet-busi]

Writes live.md. Needs `medsegzoo[onnx]`. Times are processor time, so that what else the machine does counts little, of
one thread; each number is a median over the frames. All that is compared takes turns, frame by frame, in one process a
runtime. Frames are the first image of tests/samples/BUSI at two sizes, moved on by some pixels each time.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import segzoo

BENCHMARKS = Path(__file__).parent
PAGE = BENCHMARKS / "live.md"
SIZES = ((266, 320), (720, 1280))
WARM = 5  # frames before those that count
HEADING = """# A frame's cost

Written by `python benchmarks/live.py`: change nothing here by hand. Milliseconds of processor time of one thread, each
the median of {frames} frames, for the checkpoint `{checkpoint}`; measured on {machine}, with
PyTorch {torch} and ONNX Runtime {onnxruntime}. What the numbers mean for a camera is in
[docs/live.md](../docs/live.md).
"""

Frame = np.ndarray[Any, Any]
Compare = Callable[[tuple[int, int], list[Frame]], list[tuple[Any, ...]]]
Contestants = dict[str, Callable[[Frame], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--checkpoint", default="lv-unet-busi")
    parser.add_argument("--runtime", choices=CONTESTANTS, help=argparse.SUPPRESS)  # of a process of its own
    options = parser.parse_args()
    if options.runtime:
        print(json.dumps(measure(options.runtime, options.checkpoint, options.frames)))
        return
    PAGE.write_text(page(options), encoding="utf-8")


def page(options: argparse.Namespace) -> str:
    """Return what was measured, as a page."""
    from measuring import machine

    rows, parts = [], []
    for runtime in CONTESTANTS:
        command = [sys.executable, "-W", "ignore", __file__, "--runtime", runtime]
        command += ["--checkpoint", options.checkpoint, "--frames", str(options.frames)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(answer.splitlines()[-1])
        rows += [(NAMES[runtime], *row) for row in found["compared"]]
        parts += [(NAMES[runtime], *row) for row in found["parts"]]
    lines = ["| runtime | frame | what | ms | bare ms | ratio |", "| --- | --- | --- | ---: | ---: | ---: |"]
    lines += [
        f"| {runtime} | {width} x {height} | {what} | {took:.1f} | {' + '.join(f'{one:.1f}' for one in bare)} | "
        f"{took / sum(bare):.2f} |"
        for runtime, (height, width), what, took, bare in rows
    ]
    where = f"| runtime | frame | {' | '.join(PARTS)} |", f"| --- | --- |{' ---: |' * len(PARTS)}"
    spent = [
        f"| {runtime} | {width} x {height} | {' | '.join(f'{one:.1f}' for one in took)} |"
        for runtime, (height, width), took in parts
    ]
    here = machine()
    facts = {"frames": options.frames, "checkpoint": options.checkpoint, "machine": here["processor"]}
    facts["torch"], facts["onnxruntime"] = here["torch"], version("onnxruntime")
    tables = ["\n".join(lines), NOTES, "\n".join([*where, *spent])]
    return HEADING.format(**facts) + "\n" + "\n\n".join(tables) + "\n"


PARTS = ("read, resize, normalise", "network", "back to the frame's size", "check and mask")
NAMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
NOTES = """Bare is, for `Predictor`, what the runtime takes for an input that is ready (of the fused network, or of the
exported file's session), and then what the contract's own resizing takes, there and back. For `model.predict` it is the
fused network in a loop of one's own, with one resize each way by `torch.nn.functional.interpolate`, in one number. The
exported file resizes and normalises by itself, so that its way there and back is part of its session.

Where the time of `Predictor(frame)` goes:"""


def measure(runtime: str, checkpoint: str, frames: int) -> dict[str, Any]:
    """Return for each size what was compared, what it took and what the bare parts did, and where it went."""
    with tempfile.TemporaryDirectory() as folder:
        predictor, compare = CONTESTANTS[runtime](checkpoint, Path(folder))
        taken = [(size, shots(size, frames + WARM)) for size in SIZES]
        return {
            "compared": [(size, *row) for size, some in taken for row in compare(size, some)],
            "parts": [(size, parts_of(predictor, some)) for size, some in taken],
        }


def parts_of(predictor: segzoo.Predictor, frames: list[Frame]) -> list[float]:
    """Return the milliseconds of each of `PARTS`."""
    pipeline = predictor._pipeline
    given = pipeline.read(frames[0])
    small = pipeline.averaged(given.batch)
    (whole,) = pipeline.restored(small, given)
    found = medians(
        {
            PARTS[0]: pipeline.read,
            PARTS[1]: lambda _: pipeline.averaged(given.batch),
            PARTS[2]: lambda _: pipeline.restored(small, given),
            PARTS[3]: lambda _: pipeline.of_image(given, whole),
        },
        frames,
    )
    return [found[part] for part in PARTS]


def shots(size: tuple[int, int], count: int) -> list[Frame]:
    """Return frames that differ."""
    file = min((BENCHMARKS.parent / "tests" / "samples" / "BUSI").rglob("*[0-9]).png"))
    still = np.asarray(Image.open(file).convert("RGB").resize(size[::-1]))
    return [np.ascontiguousarray(np.roll(still, 3 * number, axis=1)) for number in range(count)]


def medians(contestants: Contestants, frames: list[Frame]) -> dict[str, float]:
    """Return the median milliseconds that each takes for a frame; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for frame in frames:
        for name, run in contestants.items():
            started = time.process_time()
            run(frame)
            taken[name].append(1000 * (time.process_time() - started))
    return {name: statistics.median(one[WARM:]) for name, one in taken.items()}


def of_torch(checkpoint: str, folder: Path) -> tuple[segzoo.Predictor, Compare]:
    """Compare the predictor and model.predict with the fused network."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(1)
    model, predictor = segzoo.from_pretrained(checkpoint), segzoo.Predictor(checkpoint, device="cpu")
    network, contract = model.deploy(), model.preprocessing

    def compare(size: tuple[int, int], frames: list[Frame]) -> list[tuple[Any, ...]]:
        ready = contract(frames[0])[None]
        with torch.no_grad():
            found = network(ready)

            def loop(frame: Frame) -> object:
                planes = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
                x = F.interpolate(planes, size=contract.image_size, mode="bilinear", antialias=True)
                return F.interpolate(network(x), size=size, mode="bilinear", antialias=True)

            contestants: Contestants = {
                "network": lambda _: network(ready),
                "resize": lambda frame: (contract.resize(frame), contract.restore(found, size)),
                "Predictor": predictor,
                "loop": loop,
                "predict": model.predict,
            }
            took = medians(contestants, frames)
        return [
            ("`Predictor(frame)`", took["Predictor"], [took["network"], took["resize"]]),
            ("`model.predict(frame)`", took["predict"], [took["loop"]]),
        ]

    return predictor, compare


def of_onnxruntime(checkpoint: str, folder: Path) -> tuple[segzoo.Predictor, Compare]:
    """Compare the predictor of an exported file with a session of it."""
    from segzoo.prediction.runtimes import open_exported, open_session

    file = folder / "model.onnx"
    segzoo.from_pretrained(checkpoint).export(file)
    predictor, session = segzoo.Predictor(file, backend="onnxruntime"), open_session(file, 1)
    contract = open_exported(file, "onnxruntime").contract

    def compare(size: tuple[int, int], frames: list[Frame]) -> list[tuple[Any, ...]]:
        ready = np.ascontiguousarray(frames[0].transpose(2, 0, 1)[None], np.float32)

        def run() -> Any:
            return session.run(["probabilities"], {"image": ready})[0]

        found = run()
        contestants: Contestants = {
            "session": lambda _: run(),
            "resize": lambda frame: (contract(frame), contract.restore(found, size)),
            "Predictor": predictor,
        }
        took = medians(contestants, frames)
        return [("`Predictor(frame)`", took["Predictor"], [took["session"], took["resize"]])]

    return predictor, compare


CONTESTANTS = {"torch": of_torch, "onnxruntime": of_onnxruntime}

if __name__ == "__main__":
    main()
