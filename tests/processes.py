"""New processes for tests, which start in milliseconds: each is forked from one that has imported torch and Lightning.

That one holds nothing of segzoo, of the Hub's client or of a test, so that all of these see their own environment. What
imports cost, how streams are encoded and how Python ends is for processes of `subprocess`.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

LIBRARIES = ["torch", "torchvision", "torchmetrics", "lightning.pytorch.cli"]
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(LIBRARIES)


class Process:
    """Python that runs a command, with as much of `subprocess.Popen` as tests use.

    Args:
        command: `sys.executable` with ``-m module``, ``-c code`` or a script, and arguments.
        env: its whole environment; None is this process's.
        cwd: its folder.
        stdin: `subprocess.PIPE`, or nothing to read.
        stdout: an open file, or `subprocess.PIPE`; None is what `communicate` returns.
        stderr: an open file, or `subprocess.STDOUT`; None is what `communicate` returns.
        text: pipes are of text, as all others are here.
        preexec_fn: called in it first; one that can be imported or pickled.
    """

    def __init__(
        self,
        command: Sequence[Any],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stdin: int | None = None,
        stdout: Any = None,
        stderr: Any = None,
        text: bool = True,
        preexec_fn: Callable[[], None] | None = None,
    ) -> None:
        python, *self.args = map(str, command)
        assert python == sys.executable
        assert text
        self._folder = tempfile.TemporaryDirectory(prefix="process-")
        source = f"{self._folder.name}/in" if stdin == subprocess.PIPE else os.devnull
        outputs = [_place(stdout, f"{self._folder.name}/out"), _place(stderr, f"{self._folder.name}/error")]
        if stderr == subprocess.STDOUT:
            outputs[1] = outputs[0]
        self._outputs = [Path(output) for output in outputs]
        for output in self._outputs:
            output.touch()
        piped = [place for given, place in ((stdin, source), (stdout, outputs[0])) if given == subprocess.PIPE]
        for place in piped:
            Path(place).unlink(missing_ok=True)
            os.mkfifo(place)
        environment = dict(os.environ if env is None else env)
        arguments = (self.args, environment, str(cwd or Path.cwd()), [source, *outputs], _own_path(), preexec_fn)
        self._process = _forks.Process(target=_become, args=arguments)
        self._process.start()
        self.pid = self._process.pid or 0
        # a pipe opens when its other end does, in the order of the process
        self.stdin = open(source, "w") if source in piped else None  # noqa: SIM115
        self.stdout = open(outputs[0]) if outputs[0] in piped else None  # noqa: SIM115

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        out, error = (output.read_text("utf-8", "backslashreplace") for output in self._outputs)
        return out, error

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    command: Sequence[Any], *, timeout: float | None = 300, check: bool = False, **options: Any
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, as `subprocess.run` with its output kept as text."""
    process = Process(command, **options)
    try:
        out, error = process.communicate(timeout)
    finally:
        process.kill()
    done = subprocess.CompletedProcess(process.args, process.wait(), out, error)
    if check:
        done.check_returncode()
    return done


def call(function: Callable[..., None], *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """Run a function of a test's file to its end, of arguments that are plain values."""
    code = f"import {function.__module__} as tests; tests.{function.__name__}(*{arguments!r})"
    paths = [Path(sys.modules[name].__file__ or "").parent for name in (function.__module__, __name__)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))})


def stop() -> None:
    """End the process that all others are forked from, and wait for it."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]


@cache
def _own_path() -> list[str]:
    """Return where Python finds modules besides what a test or an environment adds."""
    code = "import sys; print(*sys.path[1:], sep='\\n')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def _place(file: Any, otherwise: str) -> str:
    """Return where a process finds an open file; one that has no name, by this process's number for it."""
    name = getattr(file, "name", otherwise)
    return f"/proc/{os.getpid()}/fd/{name}" if isinstance(name, int) else str(name)


def _become(
    command: list[str],
    environment: dict[str, str],
    folder: str,
    streams: list[str],
    path: list[str],
    first: Callable[[], None] | None,
) -> None:
    """Be the Python that runs a command; in the new process."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        opened = os.open(stream, os.O_WRONLY | os.O_APPEND | os.O_CREAT if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")
    added = [part for part in environment.get("PYTHONPATH", "").split(os.pathsep) if part]
    kind, what, *arguments = command if command[0] in ("-m", "-c") else ("", *command)
    sys.path[:] = [{"-m": folder, "-c": ""}.get(kind, str(Path(what).parent)), *added, *path]
    if threads := environment.get("OMP_NUM_THREADS"):
        import torch

        torch.set_num_threads(int(threads))
    if first is not None:
        first()
    sys.argv = ["-c" if kind == "-c" else what, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(what, run_name="__main__")
