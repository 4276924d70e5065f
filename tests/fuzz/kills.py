"""Commands that are killed, or may write only small files: nothing is lost, and the same command finishes the work.

``python -m tests.fuzz.kills`` kills each verb at moments spread over the time that it takes, looks at what is there,
runs it again, and prints a table. Commands run in copies of a process that has imported what they need: the kills hit
their work, not their imports.
"""

import argparse
import csv
import io
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from PIL import Image
from tests.fuzz.materials import checkpoint
from tests.fuzz.oracle import SENTENCE
from tests.hub_server import HubServer, client_variables

from segzoo.checkpoints.folder import DEAD
from segzoo.cli import main as segzoo_main
from segzoo.cli.run_files import BEST, LAST, PREVIOUS, STATE, damage
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint

SAMPLES = Path(__file__).parents[1] / "samples"
KILLS = 20
LIMITS = (0, 20_000, 1_000_000)  # bytes of a file; the checkpoint's weights have 1.7 million
SECONDS = 300  # that a command may take
EPOCHS, SCANS = 6, 24
NAME, PUSHED = "stranger/tiny", "owner/pushed"
IMPORTED = ["torch", "lightning.pytorch.cli", "onnxruntime", "onnxscript", "torch.onnx._internal.exporter._core"]
IMPORTED += [f"segzoo.cli.{verb}" for verb in ("command", "train", "predict", "export", "push", "pull")]
IMPORTED += ["tests.fuzz.kills", "segzoo.hub.load", "segzoo.models.cmunext", "segzoo.export.onnx"]


@dataclass(frozen=True)
class Verb:
    """One command, and what holds in its folder.

    Attributes:
        command: after ``segzoo``.
        done: says how much of the work is done; raises where something is there that is not whole.
        total: as much as that is in the end.
        again: given what was done before, raises where the next command has done it anew.
        limited: whether a limit of the files' size is tried as well.
    """

    command: list[str]
    done: Callable[[Path, HubServer], int]
    total: int = 1
    again: Callable[[Path, int], None] = lambda folder, before: None
    limited: bool = True


# ---- what is done, and whole


def checkpoints(folder: Path) -> int:
    """Return whether a checkpoint is there; raise where one is there that is not whole."""
    if not folder.exists():
        return 0
    open_checkpoint(folder)
    return 1


def steps_of_run(folder: Path, hub: HubServer) -> int:
    """Return after how many epochs a training can go on, and one more for its checkpoint."""
    run = folder / "run"
    files = [run / name for name in (LAST, PREVIOUS, BEST) if (run / name).is_file()]
    damaged = {file.name: reason for file in files if (reason := damage(file, STATE))}
    assert not damaged, damaged
    epochs = 1 + torch.load(files[0], map_location="cpu", weights_only=True)["epoch"] if files else 0
    return epochs + checkpoints(run / "checkpoint")


def trained_on(folder: Path, before: int) -> None:
    """Raise where the last training did not train the epochs that were missing, and no others."""
    logs = (folder / "run" / "csv").glob("version_*")
    last = max(logs, key=lambda log: int(log.name.rpartition("_")[2])) / "metrics.csv"
    if before < EPOCHS:
        with last.open(newline="", encoding="utf-8") as file:
            trained = [int(row["epoch"]) for row in csv.DictReader(file) if row.get("train/loss")]
        assert trained == list(range(before, EPOCHS)), (before, trained)


def exported_files(folder: Path, hub: HubServer) -> int:
    import onnxruntime

    if not (folder / "out.onnx").exists():
        return 0
    onnxruntime.InferenceSession(folder / "out.onnx", providers=["CPUExecutionProvider"])
    return 1


def pictures(folder: Path, hub: HubServer) -> int:
    masks = list((folder / "masks").glob("*.png"))  # and an overlay beside each
    for mask in masks:
        with Image.open(mask) as image:
            image.load()
    return len(masks)


def mirrored(folder: Path, hub: HubServer) -> int:
    return checkpoints(folder / "mirror" / NAME)


def published(folder: Path, hub: HubServer) -> int:
    """Return whether a tag is there; raise where a commit lacks a file, or has another."""
    there = hub.repositories.get(PUSHED)
    if there is None:
        return 0
    files = {file.name: file.read_bytes() for file in checkpoint().iterdir()}
    for number, commit in enumerate(there.commits.values()):
        names = commit.keys() - {".gitattributes"}
        assert not number or names == files.keys(), f"a commit holds {sorted(names)}"
        for name in names:
            assert there.blobs[commit[name].etag] == files[name], f"{name} is another file"
    return int("v1.0" in there.tags)


TRAINING = [
    *("fit", "--model", "cmunext_s", "--data", "BUSI", "--data.root", str(SAMPLES / "BUSI"), "--data.split", "all"),
    *("--data.image_size", "[32,32]", "--data.batch_size", "4", "--data.num_workers", "0"),
    *("--trainer.max_epochs", str(EPOCHS), "--trainer.default_root_dir", "run", "--ckpt_path", "last"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
OVERLAID = ["--output", "masks", "--overlay"]
VERBS = ("fit", "predict", "export", "pull", "push")


@cache
def verb_of(name: str) -> Verb:
    """Return a verb; in the process that gives the commands alone, since the checkpoint is made for it."""
    return {
        "fit": Verb(TRAINING, steps_of_run, EPOCHS + 1, trained_on),
        "predict": Verb(["predict", str(checkpoint()), "scans", *OVERLAID], pictures, 2 * SCANS),
        "export": Verb(["export", str(checkpoint()), "out.onnx"], exported_files),
        "pull": Verb(["pull", NAME, "--to", "mirror"], mirrored),
        "push": Verb(["push", str(checkpoint()), PUSHED], published, limited=False),
    }[name]


# ---- running


def run(command: list[str], folder: Path, most: int | None, outcome: Connection) -> None:
    """Be a command that may write no file of more bytes, and tell its status and what it said."""
    os.chdir(folder)
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    with open(os.devnull, "w") as nowhere:  # where logs go that do not know of `redirect_stderr`
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            status = segzoo_main(command)
        except SystemExit as error:
            status = int(error.code or 0)
        except BaseException:
            said.write(traceback.format_exc())
            status = 1
    outcome.send((status, said.getvalue()))


def given(command: list[str], folder: Path, seconds: float = SECONDS, most: int | None = None) -> tuple[int, str]:
    """Give a command; return its status and what it said, or 137 and nothing where it was killed after some seconds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=run, args=(command, folder, most, sender))
    process.start()
    sender.close()
    if receiver.poll(seconds):
        status, said = receiver.recv()
    else:
        status, said = 137, ""
        process.kill()
    process.join()
    return status, said


@contextmanager
def scene(verb: str, hub: HubServer) -> Iterator[Path]:
    """Lay an empty folder, and a hub with one checkpoint."""
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    hub.repositories.pop(PUSHED, None)
    with tempfile.TemporaryDirectory(prefix="segzoo-kills-") as name:
        folder = Path(name)
        if verb == "predict":
            (folder / "scans").mkdir()
            scans = [path for path in sorted((SAMPLES / "BUSI").rglob("*.png")) if "mask" not in path.name]
            for number in range(SCANS):
                shutil.copy(scans[number % len(scans)], folder / "scans" / f"{number}.png")
        yield folder


def drafts(folder: Path) -> list[Path]:
    """Return what a killed command has left beside its work."""
    return [path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]


def finish(verb: Verb, folder: Path, hub: HubServer) -> None:
    """Give the command again, a day later, and find the work finished with nothing left over."""
    before, long_ago = verb.done(folder, hub), time.time() - 2 * DEAD
    for draft in drafts(folder):
        os.utime(draft, (long_ago, long_ago))
    status, said = given(verb.command, folder)
    assert status == 0, said[-1500:]
    assert verb.done(folder, hub) == verb.total, "not finished"
    verb.again(folder, before)
    assert not drafts(folder), drafts(folder)


def seconds_of(name: str, hub: HubServer) -> float:
    """Return what the undisturbed command takes."""
    with scene(name, hub) as folder:
        begun = time.monotonic()
        status, said = given(verb_of(name).command, folder)
        assert status == 0, said[-1500:]
        return time.monotonic() - begun


def killed(name: str, hub: HubServer, after: float) -> str:
    """Kill a command, and finish it; return how much was done and what was left over."""
    verb = verb_of(name)
    with scene(name, hub) as folder:
        given(verb.command, folder, after)
        before, left = verb.done(folder, hub), bool(drafts(folder))
        finish(verb, folder, hub)
        share = "all" if before == verb.total else "part" if before else "nothing"
        return f"{share}, drafts" if left else share


def limited(name: str, hub: HubServer, most: int) -> str:
    """Let a command write no file above a size, and finish it without; return what came of it."""
    verb = verb_of(name)
    with scene(name, hub) as folder:
        status, said = given(verb.command, folder, most=most)
        if status == 0:
            assert verb.done(folder, hub) == verb.total
            return "fits"
        assert status == 2, f"status {status}: {said[-1500:]}"
        assert "Traceback" not in said, said[-1500:]
        assert SENTENCE.match(said.rstrip("\n").rpartition("\n")[2]), said[-1500:]
        finish(verb, folder, hub)
        return "refused, then finished"


def outcome(failures: list[str], what: str, function: Callable[..., str], *arguments: object) -> str:
    """Return what came of a try, or "failed"."""
    try:
        return function(*arguments)
    except (AssertionError, SegzooError, OSError, RuntimeError) as error:
        failures.append(f"{what}: {type(error).__name__}: {error}")
        return "failed"


def row(name: str, hub: HubServer, kills: int, failures: list[str]) -> str:
    """Try one verb; return its row of the table."""
    takes = seconds_of(name, hub)
    moments = [takes * (number + 0.5) / kills for number in range(kills)]
    found = Counter(
        outcome(failures, f"{name} killed after {after:.2f} s", killed, name, hub, after) for after in moments
    )
    shares = [sum(count for kind, count in found.items() if kind.startswith(share)) for share in SHARES]
    left = sum(count for kind, count in found.items() if kind.endswith("drafts"))
    sizes = LIMITS if verb_of(name).limited else ()
    found += Counter(
        outcome(failures, f"{name} with files of {most} bytes", limited, name, hub, most) for most in sizes
    )
    cells = [f"{takes:.1f} s", kills, *shares, left, len(sizes), found["refused, then finished"], found["failed"]]
    return "| " + " | ".join(map(str, [name, *cells])) + " |"


SHARES = ("nothing", "part", "all")


def main() -> None:
    """Try all verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="of each verb")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one (default: all)")
    options = parser.parse_args()
    failures: list[str] = []
    print("| verb | takes | kills | nothing done | part | all | drafts left | size limits | refused | failed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory(prefix="segzoo-kills-") as home, HubServer() as hub:
        hub.delay = 0.05  # or there is hardly a moment to hit
        hub.add(NAME, {file.name: file.read_bytes() for file in checkpoint().iterdir()})
        os.environ |= {**client_variables(hub.url, Path(home) / "hf"), "OMP_NUM_THREADS": "1"}
        multiprocessing.set_start_method("forkserver")
        multiprocessing.set_forkserver_preload(IMPORTED)
        given(["--version"], Path(home))  # the first waits for the imports
        for name in options.verb or VERBS:
            print(row(name, hub, options.kills, failures), flush=True)
    print(*failures, sep="\n\n")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
