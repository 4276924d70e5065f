"""Commands that are killed, or may write only small files: nothing is lost, and the same command finishes the work.

``python -m tests.fuzz.kills`` kills each verb at moments spread over the time that it takes, looks at what is there,
runs it again, and prints a table.
"""

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.materials import checkpoint
from tests.fuzz.oracle import SENTENCE
from tests.hub_server import HubServer, client_environment

import segzoo
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint

SAMPLES = Path(__file__).parents[1] / "samples"
KILLS = 20
LIMITS = (0, 1000, 20_000, 300_000, 1_000_000)  # bytes of a file; the checkpoint's weights have 1.7 million
NAME = "stranger/tiny"


@dataclass(frozen=True)
class Verb:
    """One command, and what holds in its folder.

    Attributes:
        command: after ``segzoo``.
        whole: raises where something is there that is not whole; says whether the work is finished.
        again: what finishes the work, where that is another command.
        limited: whether a limit of the files' size is tried as well.
    """

    command: list[str]
    whole: Callable[[Path, HubServer], bool]
    again: list[str] = field(default_factory=list)
    limited: bool = True


# ---- what is whole


def whole_checkpoint(folder: Path) -> bool:
    """Return whether a checkpoint is there; raise where one is there that is not whole."""
    if not folder.exists():
        return False
    open_checkpoint(folder)
    return True


def whole_run(folder: Path, hub: HubServer) -> bool:
    import torch

    run = folder / "run"
    for name in ("last.ckpt", "best.ckpt"):
        if (run / name).exists():
            torch.load(run / name, weights_only=True)
    return whole_checkpoint(run / "checkpoint")


def whole_export(folder: Path, hub: HubServer) -> bool:
    import onnxruntime

    file = folder / "out.onnx"
    if not file.exists():
        return False
    onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return True


def whole_masks(folder: Path, hub: HubServer) -> bool:
    from PIL import Image

    masks = sorted((folder / "masks").glob("*.png"))  # and an overlay beside each
    for mask in masks:
        with Image.open(mask) as image:
            image.load()
    return len(masks) == 2 * len(list((folder / "scans").iterdir()))


def whole_mirror(folder: Path, hub: HubServer) -> bool:
    return whole_checkpoint(folder / "mirror" / NAME)


def whole_repository(folder: Path, hub: HubServer) -> bool:
    """Return whether a tag is there; raise where a commit lacks a file, or has another."""
    there = hub.repositories.get("owner/pushed")
    if there is None:
        return False
    files = {file.name: file.read_bytes() for file in checkpoint().iterdir()}
    for number, commit in enumerate(there.commits.values()):
        names = commit.keys() - {".gitattributes"}
        if number and names != files.keys():
            raise AssertionError(f"a commit holds {sorted(names)}")
        for name in names:
            if there.blobs[commit[name].etag] != files[name]:
                raise AssertionError(f"{name} is another file")
    return "v1.0" in there.tags


TRAINING = [
    *("fit", "--model", "cmunext_s", "--data", "BUSI", "--data.root", str(SAMPLES / "BUSI"), "--data.split", "all"),
    *("--data.image_size", "[32,32]", "--data.num_workers", "0", "--trainer.max_epochs", "4"),
    *("--trainer.default_root_dir", "run", "--trainer.enable_progress_bar", "false"),
]
VERBS = {
    "fit": Verb(TRAINING, whole_run, [*TRAINING, "--ckpt_path", "last"]),
    "predict": Verb(["predict", str(checkpoint()), "scans", "--output", "masks", "--overlay"], whole_masks),
    "export": Verb(["export", str(checkpoint()), "out.onnx"], whole_export),
    "pull": Verb(["pull", NAME, "--to", "mirror"], whole_mirror),
    "push": Verb(["push", str(checkpoint()), "owner/pushed"], whole_repository, limited=False),
}


# ---- running


@contextmanager
def scene(verb: str) -> Iterator[tuple[Path, HubServer]]:
    """Lay an empty folder and a hub with one checkpoint."""
    with tempfile.TemporaryDirectory(prefix="segzoo-kills-") as name, HubServer() as hub:
        folder = Path(name)
        hub.delay = 0.05  # or there is hardly a moment to hit
        hub.add(NAME, {file.name: file.read_bytes() for file in checkpoint().iterdir()})
        if verb == "predict":
            (folder / "scans").mkdir()
            pictures = [path for path in sorted((SAMPLES / "BUSI").rglob("*.png")) if "mask" not in path.name]
            for number in range(24):
                shutil.copy(pictures[number % len(pictures)], folder / "scans" / f"{number}.png")
        yield folder, hub


def start(command: list[str], folder: Path, hub: HubServer, most: int | None = None) -> subprocess.Popen[str]:
    """Begin a command in a process of its own, with a limit of its files' size where one is given."""
    environment = client_environment(hub.url, folder / "home")
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(segzoo.__file__).parents[1]), *sys.path])
    environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "segzoo.cli", *command],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=None if most is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )


def finish(verb: Verb, folder: Path, hub: HubServer) -> None:
    """Give the command again, and find the work finished with nothing left over."""
    process = start(verb.again or verb.command, folder, hub)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-1500:]
    assert verb.whole(folder, hub), "not finished"


def seconds_of(name: str, verb: Verb) -> float:
    """Return what the undisturbed command takes."""
    with scene(name) as (folder, hub):
        begun = time.monotonic()
        process = start(verb.command, folder, hub)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-1500:]
        assert verb.whole(folder, hub)
        return time.monotonic() - begun


def killed(name: str, verb: Verb, after: float) -> str:
    """Kill a command; return "finished before", "nothing yet" or "finished by another run" of what was found."""
    with scene(name) as (folder, hub):
        process = start(verb.command, folder, hub)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        before = verb.whole(folder, hub)
        finish(verb, folder, hub)
        return "whole already" if before else "finished by the next"


def limited(name: str, verb: Verb, most: int) -> str:
    """Let a command write no file above a size; return what came of it."""
    with scene(name) as (folder, hub):
        process = start(verb.command, folder, hub, most)
        _, said = process.communicate(timeout=300)
        if process.returncode == 0:
            assert verb.whole(folder, hub)
            return "fits"
        last = said.rstrip("\n").rpartition("\n")[2]
        assert process.returncode == 2, f"status {process.returncode}: {said[-1500:]}"
        assert "Traceback" not in said, said[-1500:]
        assert SENTENCE.match(last), said[-1500:]
        verb.whole(folder, hub)
        finish(verb, folder, hub)
        return "refused, then finished"


def outcome(function: Callable[[], str], failures: list[str], what: str) -> str:
    """Return what came of a try, or "failed"."""
    try:
        return function()
    except (AssertionError, SegzooError, OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        failures.append(f"{what}: {type(error).__name__}: {error}")
        return "failed"


def main() -> None:
    """Try all verbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="of each verb")
    parser.add_argument("--verb", action="append", choices=VERBS, help="only this one (default: all)")
    options = parser.parse_args()
    failures: list[str] = []
    print("| verb | kills | whole already | finished by the next | size limits | refused, then finished | failed |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in options.verb or VERBS:
        verb = VERBS[name]
        takes = seconds_of(name, verb)
        found = [
            outcome(lambda: killed(name, verb, moment), failures, f"{name} killed after {moment:.2f} s")  # noqa: B023
            for moment in (takes * (number + 0.5) / max(1, options.kills) for number in range(options.kills))
        ]
        sizes = LIMITS if verb.limited else ()
        found += [
            outcome(lambda: limited(name, verb, most), failures, f"{name} with files of {most} bytes")  # noqa: B023
            for most in sizes
        ]
        counts = [found.count(kind) for kind in ("whole already", "finished by the next", "refused, then finished")]
        row = (name, options.kills, *counts[:2], len(sizes), counts[2], found.count("failed"))
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    print(*failures, sep="\n\n")
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
