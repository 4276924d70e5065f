"""Speed of the zoo's networks, each beside its peers: runs of several machines and releases, one page.

    python benchmarks/speed.py run [--images 1] [--sides 256] [--threads 2] [--rounds 50] [--minutes 2] [--device cuda]
    python benchmarks/speed.py run --parts training --only LV-UNet --release ../other/src
    python benchmarks/speed.py

`run` measures, and writes a file of this machine and release into results/speed/; without it the tables in speed.md are
written anew from all files there. It needs `medsegzoo[bench]`. Leave the machine alone meanwhile.

Every network has a process of its own for every form it comes in (`stopwatch.py`), and all of a runtime take turns, so
that a machine that is slow for a while is slow for all; the median of the rounds counts. The runtimes go one after the
other, since each one's idle threads wait for work on the cores for a while, with a pause after each pass for the same
reason. Outputs are compared with the eager ones before anything is timed.

With `--release` the zoo's networks run by another checkout's code as well, each right after this one's; the ratio of
the two is the median of the rounds' ratios. A table whose first peer is left out by `--only` is printed, not stored.

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

import bi_wkv
import numpy as np
import speed_tables
import torch
from contestants import ALL, ATTENTION, ZOO, dims_of, refuse_missing
from exporting import file_name
from speed_runs import RUNS, Row, facts, own_source, part_of, read_runs, release_of, store, table_of, this_minute
from speed_tables import peer_of

BENCHMARKS = Path(__file__).parent
TABLES = BENCHMARKS / "speed.md"
GROWING = (128, 256, 512, 1024, 2048)
PAUSE = 0.06  # seconds; ONNX Runtime's threads look for work for 40 ms after a pass
LEAST_ROUNDS = 3
WORTH_IT = 0.8  # of what as many cores would give
WAIT = 4.0  # seconds
FILES = {"torch-export": ".pt2", "onnxruntime": ".onnx", "openvino": ".openvino.onnx"}  # what a runtime reads
NEEDS = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
RUNTIMES = {
    "torch": ("eager", "deploy"),
    **{runtime: (runtime, f"{runtime}, not deployed") for runtime in FILES},
    "channels-last": ("eager, channels last", "deploy, channels last"),
    "float16": ("eager, float16, channels last", "deploy, float16, channels last"),
    "bfloat16": ("eager, bfloat16, channels last", "deploy, bfloat16, channels last"),
    "openvino-bfloat16": ("openvino, bfloat16",),
    "compile": ("compile", "compile, float16, channels last"),
}
USUAL = {"cpu": ("torch", *FILES), "cuda": ("torch", "float16", "bfloat16", "compile")}  # runtimes
STEPS = {"cpu": ("training",), "cuda": ("training", "training, bfloat16")}  # forms

Job = dict[str, Any]
Folders = dict[str, tuple[Path, Path]]  # by release, "" being this one: its code, and its files
Found = tuple[list[Row], list[Row]]  # of this release; ratios to others


# ---- measure


class Runner:
    """Network in one form, in a process of its own.

    Args:
        job: for `stopwatch.py`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.laps: list[tuple[float, float]] = []  # seconds by the clock, and on the processor
        self.megabytes = 0.0
        command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "stopwatch.py")]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment(job["source"], OMP_NUM_THREADS=str(job["threads"]), TORCHINDUCTOR_COMPILE_THREADS="1"),
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
        self.laps.append((answer["seconds"], answer["processor_seconds"]))
        self.megabytes = answer["megabytes"]

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors.close()

    def facts(self) -> Row:
        """Return what is run."""
        return {key: self.job[key] for key in ("name", "form", "shape", "threads")} | {"date": this_minute()}

    def row(self) -> Row:
        """Return what was found."""
        if self.failure:
            return {**self.facts(), "failure": self.failure}
        wall, processor = zip(*self.laps, strict=True)
        return {
            **self.facts(),
            "seconds": statistics.median(wall),
            "processor_seconds": statistics.median(processor),
            "quartiles": quartiles(wall),
            "rounds": len(self.laps),
            "megabytes": round(self.megabytes),
        }

    def beside(self, other: "Runner") -> Row:
        """Return the ratio to the same network of another release, which ran in the same rounds."""
        than = {**self.facts(), "than": other.job["release"]}
        if self.failure or other.failure:
            return {**than, "failure": self.failure or other.failure}
        wall, processor = (
            [mine / theirs for mine, theirs in zip(*times, strict=True)]
            for times in zip(zip(*self.laps, strict=True), zip(*other.laps, strict=True), strict=True)
        )
        return {
            **than,
            "ratio": statistics.median(wall),
            "processor_ratio": statistics.median(processor),
            "quartiles": quartiles(wall),
            "rounds": len(self.laps),
            "seconds": [self.row()["seconds"], other.row()["seconds"]],
        }


def environment(source: str, **more: str) -> dict[str, str]:
    """Return that of a process that imports segzoo from a folder."""
    paths = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": paths} | more


def quartiles(values: Iterable[float]) -> list[float]:
    """Return the first and the third."""
    return [float(value) for value in np.percentile(list(values), (25, 75))]


def take_turns(jobs: Iterable[Job], rounds: int, minutes: float) -> Found:
    """Run jobs of one runtime, all in turn, for so many rounds or so long."""
    with ExitStack() as stack, ThreadPoolExecutor(os.cpu_count()) as pool:
        runners = [stack.enter_context(runner) for runner in pool.map(Runner, jobs)]
        end = time.monotonic() + 60 * minutes
        gains = []
        for done in range(rounds if runners else 0):
            if done >= LEAST_ROUNDS and time.monotonic() > end:
                break
            gains.append(wait_for_cores(runners[0].job["threads"]))
            for runner in runners[:: -1 if done % 2 else 1]:  # so that none always comes after the same other one
                if not runner.failure:
                    runner.turn()
                    time.sleep(PAUSE if runner.job["device"] == "cpu" else 0)
        gain = round(statistics.median(gains), 2) if gains else None
        own = {(one.job["name"], one.job["form"]): one for one in runners if not one.job["release"]}
        rows = [{**one.row(), "difference": difference(one), "gain_of_threads": gain} for one in own.values()]
        others = [one for one in runners if one.job["release"]]
        return rows, [own[one.job["name"], one.job["form"]].beside(one) for one in others]


def wait_for_cores(threads: int) -> float:
    """Wait a few seconds at most until threads are worth it; returns how many times as fast they make a product."""
    if threads == 1:
        return 1.0
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
    reference = Path(runner.job["output"]).with_name(file_name(runner.job["name"], "eager", ".npy"))
    if runner.failure or not reference.is_file() or part_of(runner.job) == "training":
        return None
    expected, found = np.load(reference), np.load(runner.job["output"])
    return float(np.abs(found - expected).max() / np.abs(expected).max())


# ---- what is measured


def runtimes_of(options: argparse.Namespace) -> list[str]:
    """Return the runtimes asked for, or those of the device."""
    return options.runtimes or list(USUAL[options.device])


def reader_of(runtime: str) -> str:
    """Return what reads a runtime's files, whatever it computes in; "eager" of PyTorch's."""
    return RUNTIMES[runtime][0].partition(", ")[0]


def threads_of(options: argparse.Namespace) -> list[int]:
    """Return the numbers of threads; a GPU's host needs one."""
    return options.threads if options.device == "cpu" else [1]


def names_of(options: argparse.Namespace, shape: tuple[int, ...]) -> list[str]:
    """Return the networks asked for that take such an input."""
    return [name for name in ALL if name in (options.only or ALL) and dims_of(name) == len(shape) - 2]


def folders_of(options: argparse.Namespace, scratch: str) -> Folders:
    """Return where each release's code lies and where its files are to lie; "" is this release."""
    sources = {"": own_source()} | {release_of(source): source.resolve() for source in options.release}
    folders = {}
    for number, (release, source) in enumerate(sources.items()):
        folder = Path(scratch) / str(number)
        folder.mkdir(exist_ok=True)
        folders[release] = source, folder
    return folders


def jobs_of(
    forms: Iterable[str],
    names: Iterable[str],
    shape: tuple[int, ...],
    threads: int,
    device: str,
    folders: Folders,
) -> Iterator[Job]:
    """Return all networks in all forms, each release's after the other; peers have one, and no deployed form."""
    for form in forms:
        kind, *how = form.split(", ")
        for name in names:
            if name not in ZOO and (kind == "deploy" or "not deployed" in how):
                continue
            for release, (source, folder) in folders.items() if name in ZOO else [("", folders[""])]:
                job = {"name": name, "form": form, "shape": shape, "threads": threads, "device": device}
                job |= {"release": release, "source": str(source)}
                job |= {"output": str(folder / file_name(name, form, ".npy"))}
                if kind in FILES:
                    like = "deployed" if name in ZOO and "not deployed" not in how else "plain"
                    job |= {"file": str(folder / file_name(name, like, FILES[kind]))}
                    if not Path(job["file"]).is_file():
                        continue
                yield job


def export(names: list[str], shape: tuple[int, ...], runtimes: list[str], folders: Folders) -> None:
    """Have each release write the files that runtimes read, and say which it could not."""
    suffixes = sorted({FILES[reader_of(runtime)] for runtime in runtimes if reader_of(runtime) in FILES})

    def write(release: str) -> dict[str, str]:
        source, folder = folders[release]
        own = [name for name in names if name in ZOO or not release]
        job = {"names": own, "shape": shape, "suffixes": suffixes, "folder": str(folder), "source": str(source)}
        command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "exporting.py")]
        given = {"input": json.dumps(job) + "\n", "text": True, "env": environment(str(source))}
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, **given).stdout)

    with ThreadPoolExecutor() as pool:
        for failures in pool.map(write, folders if suffixes else ()):
            for file, failure in failures.items():
                print(f"not exported: {file}: {failure}", flush=True)


def compare(options: argparse.Namespace) -> Iterator[Found]:
    """Every network in every form."""
    shapes: list[tuple[int, ...]] = [(images, 3, side, side) for side in options.sides for images in options.images]
    shapes += [(1, 1, side, side, side) for side in options.volumes]
    for shape in shapes:
        names, runtimes = names_of(options, shape), runtimes_of(options)
        if not names:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folders = folders_of(options, scratch)
            export(names, shape, runtimes, folders)
            for threads in threads_of(options):
                rows: list[Row] = []
                releases: list[Row] = []
                for runtime in runtimes:
                    jobs = jobs_of(RUNTIMES[runtime], names, shape, threads, options.device, folders)
                    found = take_turns(jobs, options.rounds, options.minutes)
                    rows += found[0]
                    releases += found[1]
                yield rows, releases


def train(options: argparse.Namespace) -> Iterator[Found]:
    """Training steps on eight images, or on one patch of a volume; one network after the other, for its memory."""
    shapes: list[tuple[int, ...]] = [(8, 3, options.sides[0], options.sides[0])]
    shapes += [(1, 1, *3 * options.volumes[:1])] if options.volumes else []
    for shape in shapes:
        for threads in threads_of(options):
            rows: list[Row] = []
            releases: list[Row] = []
            for name in names_of(options, shape):
                with tempfile.TemporaryDirectory() as scratch:
                    folders = folders_of(options, scratch)
                    jobs = jobs_of(STEPS[options.device], [name], shape, threads, options.device, folders)
                    found = take_turns(jobs, options.steps, options.minutes)
                rows += found[0]
                releases += found[1]
            yield rows, releases


def grow(options: argparse.Namespace) -> Iterator[Found]:
    """Med-URWKV beside itself with softmax attention, as the image grows."""
    rows = []
    for side in (side for side in GROWING if side <= options.largest):
        with tempfile.TemporaryDirectory() as scratch:
            own = {"": (own_source(), Path(scratch))}
            names = ("Med-URWKV", ATTENTION)
            jobs = jobs_of(["eager"], names, (1, 3, side, side), threads_of(options)[0], options.device, own)
            found, _ = take_turns(jobs, LEAST_ROUNDS if side < 1024 else 1, 1)
        rows += [{**row, "growth": side} for row in found]
    yield rows, []


def mix(options: argparse.Namespace) -> Iterator[Found]:
    """Bi-WKV alone, in Triton on a GPU, beside attention and a loop over the tokens."""
    best = bi_wkv.best_times(bi_wkv.CHANNELS, bi_wkv.ROUNDS, options.device)
    yield (
        [
            {"name": name, "tokens": tokens, "channels": bi_wkv.CHANNELS, "seconds": forward, "both": both}
            | {"date": this_minute()}
            for (name, tokens), (forward, both) in best.items()
        ],
        [],
    )


PARTS = {"forms": compare, "training": train, "growth": grow, "bi-wkv": mix}


def run(options: argparse.Namespace) -> None:
    """Measure what is asked for, storing each table when it is done; the others stay as they were."""
    readers = map(reader_of, runtimes_of(options))
    refuse_missing(options.only or ALL, [one for reader in readers for one in NEEDS.get(reader, ())])
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("speed.py: PyTorch finds no GPU here; leave --device cuda out, or run this where there is one")
    for source in options.release:
        release_of(source)
    here = facts(options.device)
    compared: list[Row] = []
    for part in options.parts:
        for rows, releases in PARTS[part](options):
            print(speed_tables.times(rows), flush=True)
            stored = store(here, with_their_peer(rows), releases, options.results)
            compared += releases
            print(f"\n{part}: stored in {stored}\n", flush=True)
    if compared:
        print(speed_tables.releases(compared))


def with_their_peer(rows: list[Row]) -> list[Row]:
    """Return the rows of whole tables, which have what all others are relative to."""
    whole = {table_of(row) for row in rows if part_of(row) not in ("forms", "training") or row["name"] == peer_of(row)}
    return [row for row in rows if table_of(row) in whole]


# ---- page


def report(options: argparse.Namespace) -> None:
    """Write the page."""
    TABLES.write_text(speed_tables.page(read_runs(options.results)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(act=report, results=RUNS)
    measuring = parser.add_subparsers().add_parser("run", help="measure")
    measuring.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS))
    measuring.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    measuring.add_argument("--rounds", type=int, default=50)
    measuring.add_argument("--steps", type=int, default=LEAST_ROUNDS, help="rounds of training")
    measuring.add_argument(
        "--minutes", type=float, default=2.0, help="of one runtime at one shape and number of threads"
    )
    measuring.add_argument("--images", type=int, nargs="+", default=[1, 8], help="in a batch")
    measuring.add_argument("--sides", type=int, nargs="+", default=[256, 512], help="of images; training has the first")
    measuring.add_argument("--volumes", type=int, nargs="*", default=[64], help="sides; training has the first")
    measuring.add_argument("--largest", type=int, default=GROWING[-1], help="side of the growing image")
    measuring.add_argument("--device", choices=USUAL, default="cpu")
    measuring.add_argument("--runtimes", choices=RUNTIMES, nargs="+", help="instead of the device's usual ones")
    measuring.add_argument("--only", choices=ALL, nargs="+", metavar="NAME", help="these networks, not all")
    measuring.add_argument(
        "--release", type=Path, nargs="+", default=[], metavar="SRC", help="src of checkouts, to be timed as well"
    )
    measuring.add_argument("--results", type=Path, default=RUNS, help="the folder for the run's file")
    measuring.set_defaults(act=run)
    options = parser.parse_args()
    options.act(options)


if __name__ == "__main__":
    main()
