"""Processes on this machine that share files, and are watched: what one of them cannot finish, the others do.

The parent gives each worker one file after another, and is told of each that is done. Nothing here imports torch.
"""

import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeAlias

from segzoo.errors import SegzooError, attempt
from segzoo.limits import WORKER_SILENCE
from segzoo.prediction.files import OutputError, segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import Job
from segzoo.prediction.runtimes import thread_count

Outcomes: TypeAlias = Generator[tuple[Job, str | SegzooError], None, None]
Load: TypeAlias = Callable[[str], Pipeline]  # from a device
Say: TypeAlias = Callable[[str], None]

TICK = 1.0  # seconds between looks at the workers
START = 10  # times the silence that a worker may keep until its model is loaded
FAREWELL = 5.0  # seconds that workers are given to end by themselves
GO_ON = "all that is written is complete, and the same command continues from there"
PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux


def share_out(jobs: Iterable[Job], load: Load, devices: Sequence[str], say: Say) -> Outcomes:
    """Do jobs in several processes; yield each with what its mask covers or why there is none, as they are done.

    Args:
        jobs: to do.
        load: makes what segments, in the worker; a function that can be imported, or a partial one.
        devices: one for each process.
        say: is told what computes, and which worker was lost.

    Raises:
        OutputError: nothing more can be written.
        SegzooError: the model cannot be loaded, or no worker is left.
    """
    threads = max(1, thread_count() // len(devices))
    office = Office(jobs, say)
    try:
        for number, device in enumerate(devices, 1):
            office.hire(f"process {number} of {len(devices)}", load, device, threads)
        yield from office.run()
    finally:
        office.close()


# ---- the parent


def patience(is_loaded: bool) -> int:
    """Return the seconds that a worker may be silent, with its model or until it has that."""
    return WORKER_SILENCE.most * (1 if is_loaded else START)


@dataclass(eq=False)
class Worker:
    """Process, as its parent sees it.

    Attributes:
        name: for people.
        process: that runs `work`.
        connection: to it.
        jobs: that it was given and has not told the end of.
        is_loaded: True once it has its model.
        asks: True while it waits for an answer.
        silence: seconds without a word.
    """

    name: str
    process: BaseProcess
    connection: Connection
    jobs: list[Job] = field(default_factory=list)
    is_loaded: bool = False
    asks: bool = False
    silence: float = 0.0

    @property
    def is_lost(self) -> bool:
        """True where it should have told something by now."""
        return self.silence > patience(self.is_loaded) and (bool(self.jobs) or not self.is_loaded)


class Office:
    """Place where jobs are given out, and where their ends are told.

    What a worker was lost with is given out again, after all else, to one that has nothing else. Where that one is
    lost, too, the file is to blame.

    Args:
        jobs: to do.
        say: tells people.
    """

    def __init__(self, jobs: Iterable[Job], say: Say) -> None:
        self.todo, self.again, self.suspects = deque(jobs), deque[Job](), set[Job]()
        self.say, self.is_described = say, False
        self.workers: list[Worker] = []

    def hire(self, name: str, *arguments: Any) -> None:
        """Start a worker; arguments are those of `work`."""
        context = get_context("spawn")  # a fork would share the threads' locks, and what a GPU holds
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, *arguments), name=name, daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self.workers.append(Worker(name, process, ours))

    def run(self) -> Outcomes:
        """Yield jobs as they are done."""
        looked = time.monotonic()
        while self.todo or self.again or any(worker.jobs for worker in self.workers):
            for worker in self.workers:
                if worker.asks:
                    self.answer(worker)
            told = wait([worker.connection for worker in self.workers], TICK)
            # no longer counts where this process was stopped, or waited for whoever reads what it prints
            passed, looked = min(time.monotonic() - looked, 2 * TICK), time.monotonic()
            for worker in [*self.workers]:
                worker.silence += passed
                if worker.connection in told:
                    yield from self.listen(worker)
                elif worker.is_lost:
                    yield from self.lose(worker, f"made no progress for {patience(worker.is_loaded)} s")

    def answer(self, worker: Worker) -> None:
        """Give a worker one more job, or None where it should finish what it has; where it has nothing, it waits."""
        left = len(self.todo) + sum(len(one.jobs) for one in self.workers)
        has_its_share = len(worker.jobs) * len(self.workers) >= left  # or one would read ahead what others wait for
        source = self.again if not self.todo else self.todo
        if worker.jobs and (has_its_share or source is self.again):
            job = None
        elif source:
            job = source.popleft()
        else:
            return
        worker.jobs += [job] if job else []
        worker.asks, worker.silence = False, 0.0
        with suppress(OSError):  # it has ended, of which listening tells
            worker.connection.send(job)

    def listen(self, worker: Worker) -> Outcomes:
        """Take what a worker says, or its end.

        Raises:
            SegzooError: nothing more can be written, or the model cannot be loaded.
        """
        try:
            said = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join(FAREWELL)
            yield from self.lose(worker, ending(worker.process.exitcode))
            return
        worker.silence = 0.0
        match said:
            case "progress", _:
                pass
            case "loaded", description:
                worker.is_loaded = True
                if not self.is_described:
                    self.say(description)
                self.is_described = True
            case "next", _:
                worker.asks = True
            case "done", (job, outcome):
                worker.jobs.remove(job)
                if isinstance(outcome, OutputError):
                    raise outcome
                yield job, outcome
            case "failed", error:
                raise error

    def lose(self, worker: Worker, reason: str) -> Outcomes:
        """Go on without a worker; yield its jobs that another one was lost with before.

        Raises:
            SegzooError: there is no other.
        """
        worker.process.kill()
        worker.connection.close()
        self.workers.remove(worker)
        lost = f"{worker.name} (pid {worker.process.pid}) {reason}"
        for job in worker.jobs:
            if job in self.suspects:
                yield job, SegzooError(f"{job.file}: {lost}, as another did before over this file")
            else:
                self.again.append(job)
        self.suspects.update(worker.jobs)
        if not self.workers:
            raise SegzooError(f"{lost}, and no other is left; {GO_ON}")
        self.say(f"segzoo: {lost}; the others do its files")

    def close(self) -> None:
        """End the workers: those that wait at once, others when they find nobody to tell, at the latest by force."""
        for worker in self.workers:
            worker.connection.close()
        end = time.monotonic() + FAREWELL
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()


def ending(status: int | None) -> str:
    """Say how a process ended, by its exit status."""
    if status is None or status >= 0:
        return f"ended with status {status}"
    return f"was ended by {signal.Signals(-status).name}, which is often for want of memory"


# ---- the worker


def work(connection: Connection, load: Load, device: str, threads: int) -> None:
    """Segment what the parent gives, until it has ended or has nothing more.

    Args:
        connection: to the parent.
        load: makes what segments.
        device: to compute on.
        threads: to compute with, where ``OMP_NUM_THREADS`` does not say it.
    """
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the parent, too
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is imported
    with suppress(EOFError, ConnectionError):
        pipeline = attempt(load, device)
        if isinstance(pipeline, SegzooError):
            connection.send(("failed", pipeline))
            return
        connection.send(("loaded", pipeline.description))
        pipeline.progressed = lambda: connection.send(("progress", None))
        while True:
            for done in segment_files(pipeline, given(connection)):
                connection.send(("done", done))


def given(connection: Connection) -> Iterator[Job]:
    """Yield jobs until the parent says that those have to be finished."""
    while True:
        connection.send(("next", None))
        job = connection.recv()
        if job is None:
            return
        yield job


def end_with_parent() -> None:
    """End this process when its parent ends, however that comes."""
    if sys.platform == "linux":  # also where this one is stopped, or is deep in C
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGKILL)
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    Thread(target=follow, daemon=True).start()
