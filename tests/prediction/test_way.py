"""One image's way through ``segzoo predict``: the files of docs/architecture.md, and calls that only go down."""

import configparser
import re
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import segzoo
from segzoo.cli.command import main

REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(segzoo.__file__).parent
NETWORK = ("network.py", "steps.py", "module.py", "models/", "nn/")  # a model's own files, from base to architecture
NOT_COUNTED = (*NETWORK, "errors.py", "limits.py", "paths.py", "tasks.py", "imaging/seals.py", "imaging/strips.py")
MOST = 8
NAMES = {("registry.py", "models/cmunext.py")}  # the table of models calls the one that is asked for


def file_of(frame: FrameType | None) -> str | None:
    """A frame's file, as from src/segzoo; None of any other, and of a module's or a class's own code."""
    if frame is None or frame.f_code.co_name.startswith("<module"):
        return None
    path = frame.f_code.co_filename
    return path.removeprefix(f"{PACKAGE}/") if path.startswith(f"{PACKAGE}/") else None


def caller_of(frame: FrameType) -> str | None:
    """The nearest of our files that led to a call, past what lies between: torch, a thread pool, `attempt`."""
    up = frame.f_back
    while up is not None and file_of(up) in (None, "errors.py"):
        if up.f_code.co_name == "<module>":  # an import in between: what it runs is nobody's call
            return None
        up = up.f_back
    return file_of(up)


class Trace:
    """Calls of functions in src/segzoo, by all threads, while `segzoo predict` runs."""

    def __init__(self) -> None:
        self.calls: set[tuple[str, str]] = set()  # caller, callee
        self.on_the_way: set[str] = set()  # files, from the start of `segment_files` to its end, and what led there
        self.state = "before"

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return") or (called := file_of(frame)) is None:
            return
        whole = frame.f_code.co_name == "segment_files"
        if event == "return":
            if whole and argument is None:  # no pair of a job and its outcome
                self.state = "after"
            return
        if whole and self.state == "before":
            self.state = "on the way"
            up: FrameType | None = frame
            while up is not None and file_of(up) != "cli/command.py":  # which has called the verb
                self.on_the_way |= {file} if (file := file_of(up)) else set()
                up = up.f_back
        if (caller := caller_of(frame)) is not None:
            self.calls.add((caller, called))
        if self.state == "on the way":
            self.on_the_way.add(called)


def traced(run: Callable[[], int]) -> Trace:
    trace = Trace()
    threading.setprofile(trace)
    sys.setprofile(trace)
    try:
        assert run() == 0
        assert trace.state == "after"
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return trace


@pytest.fixture(scope="module")
def trace(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    root = tmp_path_factory.mktemp("way")
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(64, 64))
    checkpoint = model.save_pretrained(root / "tiny")
    image = next((samples / "BUSI").rglob("benign (9).png"))
    arguments = ["predict", str(checkpoint), str(image), "--output", str(root / "masks"), "--device", "cpu"]
    found = traced(lambda: main(arguments))
    assert (root / "masks" / "benign (9).png").is_file()
    return found


def counted(files: set[str]) -> set[str]:
    return {file for file in files if not file.startswith(NOT_COUNTED)}


def test_an_image_passes_the_files_that_the_page_lists(trace):
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\d+\. `([^`]+)`", page, re.MULTILINE)
    assert counted(trace.on_the_way) == set(listed)
    assert len(listed) <= MOST


def floors() -> dict[str, int]:
    """Height of each room, as import-linter is told."""
    contracts = configparser.ConfigParser()
    contracts.read(REPOSITORY / ".importlinter")
    layers = contracts["importlinter:contract:direction"]["layers"].split("\n")
    rooms = [line.split("|") for line in reversed(layers) if line.strip()]
    return {room.strip(): height for height, of_one in enumerate(rooms) for room in of_one}


def room_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_calls_between_rooms_only_go_down(trace):
    heights = floors()
    assert all(lower < upper for lower, upper in pairwise([heights["imaging"], heights["prediction"], heights["cli"]]))
    up = {
        (caller, called)
        for caller, called in trace.calls
        if not (caller.startswith(NETWORK) and called.startswith(NETWORK))  # a model's own methods
        and not {"__init__.py", "lazy.py"} & {caller, called}  # the package's face
        and heights[room_of(caller)] < heights[room_of(called)]
    }
    assert up == NAMES
    assert ("prediction/pipeline.py", "preprocessing/image.py") in trace.calls
