"""Speed of the zoo's networks, each beside its peers: one run, one table.

    python benchmarks/speed.py run [--images 1] [--sides 256] [--threads 2] [--rounds 50] [--minutes 2] [--device cuda]
    python benchmarks/speed.py

`run` measures and writes speed.json; without it the tables in speed.md are written anew from that file. It needs
`medsegzoo[onnx]`, openvino and segmentation-models-pytorch. Leave the machine alone meanwhile.

Every network has a process of its own for every form it comes in (`stopwatch.py`), and all of a runtime take turns, so
that a machine that is slow for a while is slow for all; the median of the rounds counts. The runtimes go one after the
other, since each one's idle threads wait for work on the cores for a while, with a pause after each pass for the same
reason. Outputs are compared with the eager ones before anything is timed.

The cores of a virtual machine can be one core of its host at one moment and two at the next. A round of several threads
waits, for a while, until a matrix product is faster with them; how much faster it was in the median goes into the file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contestants import ATTENTION, PEER, PEERS, ZOO, build
from measuring import machine
from quality import markdown

from segzoo.export.onnx import simplify

BENCHMARKS = Path(__file__).parent
RESULTS, TABLES = "speed.json", "speed.md"
HEADING = """# Speed

Written by `python benchmarks/speed.py` from `benchmarks/speed.json`: change nothing here by hand. What it says in words
is in [docs/benchmarks.md](../docs/benchmarks.md#speed)."""
GROWING = (128, 256, 512, 1024, 2048)
PAUSE = 0.06  # seconds; ONNX Runtime's threads look for work for 40 ms after a pass
LEAST_ROUNDS = 3
WORTH_IT = 0.8  # of what as many cores would give
WAIT = 4.0  # seconds
EQUAL = 1e-4  # of the largest output; what differs more from the eager network has no place in a table
FILES = {"torch-export": ".pt2", "onnxruntime": ".onnx", "openvino": ".onnx"}  # what a runtime reads
FORMS = ("eager", "deploy", *FILES)
RUNTIMES = {"torch": ("eager", "deploy")} | {runtime: (runtime, f"{runtime}, not deployed") for runtime in FILES}

Row = dict[str, Any]  # name, form, shape, threads; seconds, megabytes and difference, or failure


# ---- measure


class Runner:
    """Network in one form, in a process of its own.

    Args:
        job: for `stopwatch.py`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.seconds: list[float] = []
        self.megabytes = 0.0
        threads = {"OMP_NUM_THREADS": str(job["threads"])}
        command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "stopwatch.py")]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | threads,
        )
        self.failure = "" if self.ask(json.dumps(job)) else self.last_words()

    def ask(self, line: str) -> dict[str, Any] | None:
        """Return what the process answers; None where it has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else None

    def last_words(self) -> str:
        """Why the process has died."""
        self.process.wait()
        self.errors.seek(0)
        return (self.errors.read().strip().splitlines() or [f"exit status {self.process.returncode}"])[-1]

    def turn(self) -> None:
        """Time one pass."""
        answer = self.ask("")
        if answer is None:
            self.failure = self.last_words()
            return
        self.seconds.append(answer["seconds"])
        self.megabytes = answer["megabytes"]

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def row(self) -> Row:
        """Return what was found."""
        facts = {key: self.job[key] for key in ("name", "form", "shape", "threads")}
        if self.failure:
            return {**facts, "failure": self.failure}
        return {
            **facts,
            "seconds": statistics.median(self.seconds),
            "rounds": len(self.seconds),
            "megabytes": round(self.megabytes),
        }


def take_turns(jobs: Iterable[dict[str, Any]], rounds: int, minutes: float) -> list[Row]:
    """Run jobs of one runtime, all in turn, for so many rounds or so long."""
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        runners = [stack.enter_context(runner) for runner in pool.map(Runner, jobs)]
        end = time.monotonic() + 60 * minutes
        gains = []
        for done in range(rounds):
            if done >= LEAST_ROUNDS and time.monotonic() > end:
                break
            gains.append(wait_for_cores(runners[0].job["threads"]))
            for runner in runners:
                if not runner.failure:
                    runner.turn()
                    time.sleep(PAUSE)
        gain = round(statistics.median(gains), 2) if gains else None
        return [{**runner.row(), "difference": difference(runner), "gain_of_threads": gain} for runner in runners]


def wait_for_cores(threads: int) -> float:
    """Wait a few seconds at most until threads are worth it; returns how many times as fast they make a product."""
    end = time.monotonic() + WAIT
    while (gain := product_seconds(1) / product_seconds(threads)) < WORTH_IT * threads and time.monotonic() < end:
        time.sleep(0.5)
    return gain


def product_seconds(threads: int) -> float:
    """Return the time of a matrix product, after one that nobody times."""
    torch.set_num_threads(threads)
    matrix = torch.ones(700, 700)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - started)
    return min(times[1:])


def difference(runner: Runner) -> float | None:
    """Return the largest difference from the eager output, of the largest value in that."""
    reference = Path(runner.job["output"]).with_name(f"{file_name(runner.job, 'eager')}.npy")
    if runner.failure or not reference.is_file() or runner.job["form"] == "training":
        return None
    expected, found = np.load(reference), np.load(runner.job["output"])
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def file_name(job: dict[str, Any], form: str) -> str:
    """Return the name of a network's file in one form."""
    return "-".join(part for part in (job["name"], form) if part).replace(",", "").replace(" ", "_").replace("/", "_")


def jobs_of(runtime: str, shape: tuple[int, ...], threads: int, folder: Path, device: str) -> Iterator[dict[str, Any]]:
    """Return all networks in all forms of a runtime; peers have no deployed form."""
    for form in RUNTIMES[runtime]:
        for name in {**ZOO, **PEERS} if form != "deploy" and "not deployed" not in form else ZOO:
            job = {"name": name, "form": form, "shape": shape, "threads": threads, "device": device}
            deployed = "not deployed" not in form and name in ZOO
            job |= {"output": str(folder / f"{file_name(job, form)}.npy")}
            if runtime in FILES:
                file = f"{file_name(job, 'deployed' if deployed else 'plain')}{FILES[runtime]}"
                job |= {"file": str(folder / file)}
                if not Path(job["file"]).is_file():
                    continue
            yield job


def export_all(shape: tuple[int, ...], folder: Path) -> dict[str, str]:
    """Write every network in both formats for one shape, the zoo's deployed too; returns why some could not be."""
    failures = {}
    for name in {**ZOO, **PEERS}:
        for deployed in (True, False) if name in ZOO else (False,):
            for suffix, write in {".pt2": write_program, ".onnx": write_onnx}.items():
                file = folder / f"{file_name({'name': name}, 'deployed' if deployed else 'plain')}{suffix}"
                try:
                    write(build(name, deployed=deployed), torch.randn(shape), file)
                except Exception as error:  # whatever an exporter meets: a cell of the table stays empty
                    failures[file.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                    print(f"not exported: {file.name}: {failures[file.name]}", flush=True)
    return failures


def write_program(network: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """In PyTorch's own format."""
    torch.export.save(torch.export.export(network, (x,), strict=False), file)


def write_onnx(network: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """Write it as ONNX."""
    network.to(memory_format=torch.contiguous_format)
    program = torch.onnx.export(network, (x,), dynamo=True, opset_version=20, verbose=False, optimize=False)
    assert program is not None
    simplify(program.model)  # what runtimes find as well is left to them
    program.save(file)


def run(options: argparse.Namespace) -> None:
    """Measure the tables asked for, writing each part when it is done; the others stay as they were."""
    path = BENCHMARKS / RESULTS
    for part in options.parts:
        measured = PARTS[part](options)
        facts = {**machine(), "device": device_name(options.device)}
        del facts["threads"]
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}
        if any(stored.get(key) != value for key, value in facts.items()):  # of another machine or torch
            stored["rows"] = []
        replaced = set(map(table_of, measured))  # every table is of one run
        facts["rows"] = [row for row in stored["rows"] if table_of(row) not in replaced] + measured
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        print(f"{part}: done", flush=True)


def part_of(row: Row) -> str:
    """Return which of `PARTS` a row belongs to."""
    return "growth" if "growth" in row else "training" if row["form"] == "training" else "forms"


def table_of(row: Row) -> Any:
    """Return which table a row belongs to."""
    return setting(row) if part_of(row) == "forms" else part_of(row)


def compare(options: argparse.Namespace) -> list[Row]:
    """Return every network in every form."""
    rows: list[Row] = []
    for shape in [(images, 3, side, side) for side in options.sides for images in options.images]:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if options.device == "cpu":
                export_all(shape, folder)
            for threads in options.threads:
                for runtime in RUNTIMES if options.device == "cpu" else ("torch",):
                    jobs = jobs_of(runtime, shape, threads, folder, options.device)
                    rows += take_turns(jobs, options.rounds, options.minutes)
    return rows


def grow(options: argparse.Namespace) -> list[Row]:
    """Med-URWKV beside itself with softmax attention, as the image grows."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for side in (side for side in GROWING if side <= options.largest):
            jobs = [
                {
                    "name": name,
                    "form": "eager",
                    "shape": (1, 3, side, side),
                    "threads": options.threads[0],
                    "device": options.device,
                    "output": str(Path(scratch) / f"{number}.npy"),
                }
                for number, name in enumerate(("Med-URWKV", ATTENTION))
            ]
            rounds = LEAST_ROUNDS if side < 1024 else 1
            rows += [{**row, "growth": side} for row in take_turns(jobs, rounds, 1)]
    return rows


def train(options: argparse.Namespace) -> list[Row]:
    """Return a step of training on eight images of 256 x 256."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in {**ZOO, **PEERS}:
            job = {"name": name, "form": "training", "shape": (8, 3, 256, 256), "threads": options.threads[0]}
            job |= {"device": options.device, "output": str(Path(scratch) / "loss.npy")}
            rows += take_turns([job], LEAST_ROUNDS, 1)
    return rows


PARTS = {"forms": compare, "growth": grow, "training": train}


def device_name(device: str) -> str:
    """Return what computes, for people."""
    return torch.cuda.get_device_name(device) if device != "cpu" else str(machine()["processor"])


# ---- tables


def tables(facts: dict[str, Any]) -> str:
    """Page of all tables."""
    rows = facts["rows"]
    timed = [row for row in rows if part_of(row) == "forms"]
    settings = sorted(set(map(setting, timed)), key=lambda one: (one[0][2], one[0][0], -one[1]))
    gains = [row["gain_of_threads"] for row in timed if row["threads"] > 1 and row.get("gain_of_threads")]
    where = f"Measured on {facts['device']}, torch {facts['torch']}, float32" + (
        f"; two threads made a matrix product {statistics.median(gains):.2f} times as fast." if gains else "."
    )
    parts = []
    for shape, threads in settings:
        chosen = {(row["name"], row["form"]): row for row in timed if setting(row) == (shape, threads)}
        images = "1 image" if shape[0] == 1 else f"{shape[0]} images"
        rounds = min(row["rounds"] for row in chosen.values() if "rounds" in row)
        title = (
            f"{images} of {shape[2]} x {shape[3]}, {threads} thread{'s' * (threads > 1)}, medians of {rounds} rounds"
        )
        parts.append(f"**{title}**\n\n{speed_table(chosen)}")
    parts += filter(None, [growth_table(rows), training_table(rows)])
    return "\n\n".join([HEADING, where, *parts]) + "\n"


def setting(row: Row) -> tuple[tuple[int, ...], int]:
    """Return what is compared in one table: the input's shape, and the threads."""
    return tuple(row["shape"]), row["threads"]


def speed_table(chosen: dict[tuple[str, str], Row]) -> str:
    """Return how many times as fast as the peer a network is, in each form."""

    def seconds(name: str, form: str) -> float | None:
        found = chosen.get((name, form), {})
        return found.get("seconds") if (found.get("difference") or 0) <= EQUAL else None

    forms = [form for form in FORMS if any(key[1] == form for key in chosen)]
    best = {name: min(filter(None, (seconds(name, form) for form in forms)), default=None) for name in {**ZOO, **PEERS}}
    lines = []
    for name in {**ZOO, **PEERS}:
        cells = [ratio(seconds(PEER, form if form != "deploy" else "eager"), seconds(name, form)) for form in forms]
        own = [ratio(seconds(name, not_deployed(form)), seconds(name, form)) for form in forms if form != "eager"]
        megabytes = [chosen[name, form]["megabytes"] for form in forms if "megabytes" in chosen.get((name, form), {})]
        lines.append([name, *cells, ratio(best[PEER], best[name]), *own, f"{min(megabytes)}" if megabytes else "-"])
    gains = [f"{'eager' if form == 'deploy' else form}: deployed / not" for form in forms if form != "eager"]
    return markdown([f"times as fast as {PEER}", *forms, "best / best", *gains, "MB, least"], lines)


def not_deployed(form: str) -> str:
    """Return the form of a network that was not deployed before it came into this one."""
    return "eager" if form == "deploy" else f"{form}, not deployed"


def ratio(slow: float | None, fast: float | None) -> str:
    return f"{slow / fast:.2f}" if slow and fast else "-"


def growth_table(rows: list[Row]) -> str:
    """Med-URWKV's time as the image grows, against attention's."""
    times = {(row["name"], row["growth"]): row.get("seconds") for row in rows if "growth" in row}
    sides = sorted({side for _, side in times})
    if not sides:
        return ""
    lines = [
        [name, *(ratio(times[name, side], times[name, sides[0]]) for side in sides)]
        for name in ("Med-URWKV", ATTENTION)
    ]
    lines.append(["attention / Bi-WKV", *(ratio(times[ATTENTION, side], times["Med-URWKV", side]) for side in sides)])
    header = [f"time, that of {sides[0]} x {sides[0]} being 1", *(f"{side} x {side}" for side in sides)]
    return f"**As the image grows**\n\n{markdown(header, lines)}"


def training_table(rows: list[Row]) -> str:
    """Return what a step of training takes, beside the peer's."""
    steps = {row["name"]: row for row in rows if row["form"] == "training" and "seconds" in row}
    if PEER not in steps:
        return ""
    lines = [
        [name, ratio(row["seconds"], steps[PEER]["seconds"]), str(row["megabytes"])] for name, row in steps.items()
    ]
    table = markdown(["", f"time, that of {PEER} being 1", "MB"], lines)
    return f"**A step of training, 8 images of 256 x 256**\n\n{table}"


def report(benchmarks: Path = BENCHMARKS) -> None:
    """Write the tables."""
    page = tables(json.loads((benchmarks / RESULTS).read_text(encoding="utf-8")))
    (benchmarks / TABLES).write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(act=lambda options: report())
    measuring = parser.add_subparsers().add_parser("run", help="measure")
    measuring.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    measuring.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    measuring.add_argument("--rounds", type=int, default=50)
    measuring.add_argument(
        "--minutes", type=float, default=2.0, help="of one runtime at one shape and number of threads"
    )
    measuring.add_argument("--images", type=int, nargs="+", default=[1, 8], help="in a batch")
    measuring.add_argument("--sides", type=int, nargs="+", default=[256, 512], help="of the images")
    measuring.add_argument("--largest", type=int, default=GROWING[-1], help="side of the growing image")
    measuring.add_argument("--device", default="cpu", help="cpu or cuda")
    measuring.set_defaults(act=run)
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
