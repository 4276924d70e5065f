"""Judge of fuzzed commands: each gives its whole outputs with status 0, or one sentence with status 2."""

import faulthandler
import io
import os
import re
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

from segzoo.cli import main

SECONDS = 60  # that a command on such small files may take
HERE, TEMPORARY, HOME = "here", "tmp", "home"  # where a case is laid; what must be empty afterwards; what may not be
SENTENCE = re.compile(r"segzoo(?: \w+)?: error: \S")


@dataclass(frozen=True)
class Order:
    """One command, and what is right.

    Attributes:
        arguments: of the command line.
        outputs: shell patterns of the files that may be there afterwards.
        check: what must hold after status 0, given the folder and what was printed.
        refused: whether status 2 alone is right.
        environment: variables for this command.
        around: what must hold while it runs.
    """

    arguments: list[str]
    outputs: tuple[str, ...] = ()
    check: Callable[[Path, str], None] | None = None
    refused: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    around: AbstractContextManager[Any] = field(default_factory=nullcontext)


class Case(Protocol):
    """One fuzzed command; its ``repr`` makes it again."""

    def lay(self, folder: Path) -> Order:
        """Write the files that the command names into an empty folder."""


class Broken(AssertionError):
    """Neither right nor refused; begins with what tells one fault from another."""


class Hanging(BaseException):
    """It takes longer than `SECONDS`; no handler of errors catches it."""


@dataclass(frozen=True)
class Ended:
    """What a command has left."""

    status: Any
    out: str
    err: str


def judge(case: Case, folder: Path) -> str:
    """Run a case in an empty folder; return "right" or "refused".

    Raises:
        Broken: it is neither.
    """
    for name in (TEMPORARY, HOME, HERE):
        (folder / name).mkdir()
    order = case.lay(folder / HERE)
    before = state(folder)
    ended = called(order, folder)
    require(ended.status in (0, 2), f"status {ended.status}", ended)
    require("Traceback" not in ended.err, "traceback on stderr", ended)
    left = {name for name, found in state(folder).items() if before.get(name) != found}
    lost = before.keys() - state(folder).keys()
    strange = {name for name in left | lost if not any(fnmatchcase(name, pattern) for pattern in order.outputs)}
    require(not strange, f"left behind or changed: {sorted(strange)[:3]!r}", ended)
    if ended.status == 2:
        lines = ended.err.rstrip("\n").split("\n")
        said = [line for line in lines if SENTENCE.match(line)]
        require(len(said) == 1 and said[0] == lines[-1], "not one sentence", ended)
        return "refused"
    require(not order.refused, "not refused", ended)
    if order.check is not None:
        order.check(folder / HERE, ended.out)
    return "right"


def require(holds: bool, fault: str, ended: Ended) -> None:
    """Raise with what was printed."""
    if not holds:
        raise Broken(f"{fault}\n{ended.err[-3000:]}")


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below a folder with its size and time, by its path from `HERE`, but those of `HOME`."""
    found = {}
    for root, folders, files in os.walk(folder):
        if Path(root) == folder:
            folders[:] = [name for name in folders if name != HOME]
        for name in files:
            path = Path(root, name)
            facts = path.lstat()
            found[os.path.relpath(path, folder / HERE)] = (facts.st_size, facts.st_mtime_ns)
    return found


def called(order: Order, folder: Path) -> Ended:
    """Run the command in this process, as a shell would in the folder."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with surroundings(order, folder), order.around, redirect_stdout(out), redirect_stderr(err):
        try:
            with within(SECONDS):
                status: Any = main(order.arguments)
        except SystemExit as ending:  # argparse's
            status = 0 if ending.code is None else ending.code
        except Hanging:
            status = f"none within {SECONDS} s"
        except BaseException as error:  # what a person would see as a traceback
            status = f"{type(error).__name__} in {place_of(error)}"
            traceback.print_exc(file=err)
    return Ended(status, *(text_of(stream) for stream in (out, err)))


def text_of(stream: io.TextIOWrapper) -> str:
    """Return what was written to a stream."""
    stream.flush()
    written = stream.buffer
    assert isinstance(written, io.BytesIO)
    return written.getvalue().decode("utf-8", "backslashreplace")


def place_of(error: BaseException) -> str:
    """Return where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "nowhere"


@contextmanager
def surroundings(order: Order, folder: Path) -> Iterator[None]:
    """Give a command its own folder, temporary folder, home and warnings, and no network but this machine's."""
    here, temporary = Path.cwd(), tempfile.tempdir
    own = {
        "TMPDIR": str(folder / TEMPORARY),
        "HOME": str(folder / HOME),
        "XDG_CACHE_HOME": str(folder / HOME),
        "SEGZOO_HUB": "",
        "SEGZOO_ORGANISATION": "segzoo",
    }
    with patch.dict(os.environ, {**own, **order.environment}), warnings.catch_warnings(), watched_threads():
        warnings.simplefilter("default")
        os.chdir(folder / HERE)
        tempfile.tempdir = None
        try:
            yield
        finally:
            os.chdir(here)
            tempfile.tempdir = temporary


@contextmanager
def watched_threads() -> Iterator[None]:
    """Write what a thread fails with to the command's stderr, as Python does, and not to pytest."""
    with patch.object(threading, "excepthook", threading.__excepthook__):
        yield


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise `Hanging` in this thread when the time is over; end the process where that does not get through."""

    def ring(*_: object) -> None:
        raise Hanging

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    faulthandler.dump_traceback_later(3 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
