"""Processes that share files: what one cannot finish the others do, and none outlives its parent.

Workers import this file: without torch, so that they start at once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest

import segzoo
from segzoo.errors import SegzooError
from segzoo.imaging.readers import Reader
from segzoo.imaging.segmentation import Segmentation
from segzoo.limits import WORKER_SILENCE
from segzoo.prediction.files import OutputError
from segzoo.prediction.plan import Job
from segzoo.prediction.workers import share_out

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stops and kills processes by signals")


class Troubled:
    """Finds ones everywhere; does what the names of files say, those with "once" for the first process only."""

    description, batch_size = "no network", 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progressed = lambda: None

    def read(self, source: Reader, *, drawn: bool) -> str:
        return source.stem

    def key(self, given: str) -> str:
        return given

    def segment(self, given: Sequence[str]) -> list[Segmentation]:
        (name,) = given
        if "once" not in name or self.is_first(name):
            self.do(name)
        return [Segmentation(np.ones((2, 2), np.uint8), np.zeros((1, 2, 2), np.float32), ("background", "one"))]

    def is_first(self, name: str) -> bool:
        try:
            (self.folder / f"{name}.witness").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def do(self, name: str) -> None:
        if "bad" in name:
            raise SegzooError(f"{name} is bad")
        if "full" in name:
            raise OutputError(f"{name}.png cannot be written")
        if "killed" in name:
            os.kill(os.getpid(), signal.SIGKILL)
        if "stopped" in name:
            os.kill(os.getpid(), signal.SIGSTOP)
        if "hung" in name:
            time.sleep(1000)
        if "slow" in name:  # longer than a worker may be silent
            for _ in range(5):
                time.sleep(0.5)
                self.progressed()


def troubled(folder: Path, device: str) -> Troubled:
    if device == "broken":
        raise SegzooError("the model is damaged")
    return Troubled(folder)


def jobs_of(folder: Path, *names: str) -> list[Job]:
    return [Job(folder / f"{name}.png", folder / "masks" / f"{name}.png") for name in names]


def shared(folder: Path, names: Sequence[str], devices: Sequence[str] = ("cpu", "cpu")) -> tuple[dict, list[str]]:
    """Outcomes by name, and what was said."""
    said: list[str] = []
    jobs = jobs_of(folder, *names)
    outcomes = {
        job.file.stem: outcome for job, outcome in share_out(jobs, partial(troubled, folder), devices, said.append)
    }
    assert wait_until_gone(psutil.Process().children())
    return outcomes, said


def wait_until_gone(processes: list[psutil.Process], seconds: float = 5) -> bool:
    """True where all have ended in time, multiprocessing's own helper aside."""
    workers = [process for process in processes if "spawn_main" in " ".join(command_of(process))]
    end = time.monotonic() + seconds
    while any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in workers):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("trouble", ["killed", "stopped", "hung"])
def test_files_of_a_worker_that_is_lost_are_done_by_the_others(tmp_path, monkeypatch, trouble):
    monkeypatch.setenv(WORKER_SILENCE.variable, "2")
    names = ["a", "b", f"{trouble}-once", *(f"c{number}" for number in range(20)), "slow", "bad"]
    outcomes, said = shared(tmp_path, names)
    assert str(outcomes.pop("bad")).endswith("bad is bad")
    assert outcomes == dict.fromkeys(names[:-1], "one 100.0%")
    assert sorted(path.stem for path in (tmp_path / "masks").glob("*.png")) == sorted(names[:-1])
    described, lost = said
    assert described == "no network"
    assert "of 2 (pid " in lost
    assert ("SIGKILL" if trouble == "killed" else "2 s") in lost


def test_a_file_that_ends_every_process_is_the_only_one_not_done(tmp_path):
    names = [*"abcd", "killed", *"efgh"]
    outcomes, said = shared(tmp_path, names, ["cpu"] * 3)
    blamed = outcomes.pop("killed")
    assert isinstance(blamed, SegzooError)
    assert f"{tmp_path / 'killed.png'}: process " in str(blamed)
    assert outcomes == dict.fromkeys("abcdefgh", "one 100.0%")
    assert len(said) == 3


def test_where_no_worker_is_left_what_is_done_is_kept(tmp_path):
    jobs = jobs_of(tmp_path, *map(str, range(30)), "killed")
    with pytest.raises(SegzooError, match=r"1 of 1 \(pid"):
        list(share_out(jobs, partial(troubled, tmp_path), ["cpu"], print))
    assert (tmp_path / "masks" / "0.png").is_file()


def test_a_model_that_cannot_be_loaded_is_one_error(tmp_path):
    with pytest.raises(SegzooError, match="damaged"):
        shared(tmp_path, ["a"], ["broken", "broken"])


def test_a_full_disk_ends_all(tmp_path):
    with pytest.raises(OutputError, match=r"full\.png"):
        shared(tmp_path, [*"abc", "full", "hung"])
    assert wait_until_gone(psutil.Process().children())


def test_workers_end_with_their_parent(tmp_path):
    """Also one that is stopped, and one that does not listen."""
    code = (
        "import sys; from pathlib import Path; from functools import partial\n"
        "from test_workers import jobs_of, share_out, troubled\n"
        "folder = Path(sys.argv[1])\n"
        "list(share_out(jobs_of(folder, 'stopped-once', 'hung-once'), partial(troubled, folder), ['cpu'] * 2, print))"
    )
    path = os.pathsep.join([str(Path(segzoo.__file__).parents[1]), str(Path(__file__).parent)])
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("*.witness"))) < 2:
        assert parent.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = psutil.Process(parent.pid).children()
    parent.kill()
    parent.wait()
    assert len(workers) >= 2
    assert wait_until_gone(workers)
