"""Actors of a Ray cluster that share cases: what one of them cannot finish, another one does.

The queue stays here, in the driver. An actor is given one case at a time, and a case whose actor or node is lost goes
to another one. Ray is told to try nothing again, for it would try a lost node without end. Nothing here imports torch,
nor Ray before it is asked for.
"""

import logging
import math
import os
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from logging.handlers import QueueHandler
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeAlias

from segzoo import __version__
from segzoo.errors import SegzooError, attempt
from segzoo.prediction.files import OutputError, segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import Job
from segzoo.prediction.ray_cluster import (
    Node,
    Shared,
    connected,
    import_ray,
    nodes_of,
    placed,
    probing,
    reason_of,
    require_shared,
    settings,
    settle,
)
from segzoo.prediction.workers import GO_ON, TICK, Load, Outcomes, Say, patience

TRIES = 3  # that a case has, each with another actor
LOSSES = 3  # one after another, after which a node has no more actors where there is another node
LOOK = 5.0  # seconds between looks at the cluster's nodes, and between questions to one actor
MINUTE = 60.0  # seconds between sentences on how far it is, and until the first one on what is waited for

Said: TypeAlias = tuple[str | SegzooError, list[str]]  # what became of something, and the warnings on the way


def share_out_on_nodes(
    jobs: Sequence[Job], load: Load, device: str, per_node: int | None, output: Path, say: Say
) -> Outcomes:
    """Do jobs on a Ray cluster; yield each with what its mask covers or why there is none, as they are done.

    The cluster is that of ``RAY_ADDRESS``, or of ``ray start`` on this machine; else one is started here, and ended at
    the end.

    Args:
        jobs: to do, at least one.
        load: makes what segments, in the actor; a function that can be imported, or a partial one.
        device: "cpu", "cuda", or "auto" for the GPUs of the cluster where it has some.
        per_node: actors on each node; None is one for each of its GPUs, and on the CPU one with all of its cores.
        output: folder that all nodes have to see.
        say: is told what computes, what was lost, and how far it is.

    Raises:
        MissingPackageError: Ray is not installed.
        OutputError: nothing more can be written.
        SegzooError: there is no cluster, one of its nodes does not see the files, the model cannot be loaded, or no
            node is left.
    """
    ray = import_ray()
    tables = {table for job in jobs for table in (job.measure, job.report) if table is not None}
    written = {output, *(table.parent for table in tables)}
    with connected(ray), probing(written) as probes:
        inputs = {job.file.parent: job.file for job in jobs if os.path.exists(job.file)}
        shared = Shared(__version__, os.getcwd(), settings(), probes, tuple(inputs.values()))
        crew = Crew(ray, jobs, (shared, load), device, per_node, say)
        try:
            require_shared(ray, crew.places(), shared)
            yield from crew.run()
        finally:
            crew.close()


# ---- an actor, in its own process


class Segmenter:
    """Process on a node with the model, which is loaded once."""

    def __init__(self) -> None:
        self.moved = time.monotonic()
        self.pipeline: Pipeline
        self.warnings: SimpleQueue[logging.LogRecord] = SimpleQueue()
        logging.getLogger("segzoo").addHandler(QueueHandler(self.warnings))

    def begin(self, *arguments: Any) -> Said:
        """Load the model, as `load` does; say what computes, or why nothing does."""
        self.move()
        return self.load(*arguments), self.warned()

    def do(self, job: Job) -> Said:
        """Do a case; say what its mask covers, or why there is none."""
        self.move()
        ((_, outcome),) = segment_files(self.pipeline, [job])
        return outcome, self.warned()

    def load(self, node: str, shared: Shared, load: Load, device: str, threads: int) -> str | SegzooError:
        """Load the model; return what computes, or why nothing does."""
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before torch is imported
        if refused := attempt(settle, node, shared):
            return refused
        pipeline = attempt(load, device)
        if isinstance(pipeline, SegzooError):
            return pipeline
        pipeline.progressed = self.move
        self.pipeline = pipeline
        return pipeline.description

    def warned(self) -> list[str]:
        """Return the warnings since the last call."""
        return [self.warnings.get().getMessage() for _ in range(self.warnings.qsize())]

    def move(self) -> None:
        """Note that something was done."""
        self.moved = time.monotonic()

    def silence(self) -> float:
        """Return the seconds since something was done; in another thread than that which does it."""
        return time.monotonic() - self.moved


# ---- the driver


@dataclass(eq=False)
class Actor:
    """Segmenter, as the driver sees it.

    Attributes:
        node: where it is.
        handle: Ray's, to call it by.
        answer: Ray's reference to what `begin` or `do` will return; None while it has nothing to do.
        job: that it does.
        has_begun: True once it has answered anything; until then it may wait for room on its node.
        is_loaded: True once it has its model.
        pulse: Ray's reference to its silence, where that was asked for.
        asked: seconds since that was asked for.
        silence: seconds without progress.
    """

    node: Node
    handle: Any
    answer: Any
    job: Job | None = None
    has_begun: bool = False
    is_loaded: bool = False
    pulse: Any = None
    asked: float = 0.0
    silence: float = 0.0

    @property
    def is_lost(self) -> bool:
        """True where it should have told something by now."""
        return self.has_begun and self.answer is not None and self.silence > patience(self.is_loaded)


@dataclass
class Progress:
    """Count of the cases that are done, and a sentence on them from time to time."""

    total: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    def count(self) -> str | None:
        """Count one more; return the sentence where it is time for one."""
        self.done, now = self.done + 1, time.monotonic()
        if now - self.told < MINUTE:
            return None
        self.told = now
        minutes = (now - self.began) / self.done * (self.total - self.done) / 60
        return f"segzoo: {self.done:,} of {self.total:,} are done, about {minutes:,.0f} minutes are left"


class Crew:
    """Actors, and the cases that are not done.

    Args:
        ray: the package, connected.
        jobs: to do.
        beginning: what `Segmenter.begin` is given besides.
        device: as of `share_out_on_nodes`.
        per_node: likewise.
        say: tells people.
    """

    def __init__(
        self, ray: Any, jobs: Iterable[Job], beginning: tuple[Shared, Load], device: str, per_node: int | None, say: Say
    ) -> None:
        self.ray, self.beginning, self.per_node, self.say = ray, beginning, per_node, say
        self.todo, self.again, self.tries = deque(jobs), deque[Job](), Counter[Job]()
        self.on_gpu = device == "cuda" or (device == "auto" and any(node.gpus >= 1 for node in nodes_of(ray)))
        self.actors: list[Actor] = []
        self.losses, self.left_out = Counter[Node](), dict[Node, SegzooError]()
        self.progress = Progress(len(self.todo))
        self.looked, self.waited = -math.inf, 0.0
        self.is_described = False

    @property
    def open(self) -> int:
        """Number of cases that no actor has."""
        return len(self.todo) + len(self.again)

    def run(self) -> Outcomes:
        """Yield jobs as they are done.

        Raises:
            SegzooError: nothing more can be written, or no node is left.
        """
        before = time.monotonic()
        while self.open or any(actor.job for actor in self.actors):
            if time.monotonic() - self.looked > LOOK:
                self.hire()
            for actor in self.actors:
                self.employ(actor)
            expected = [one for actor in self.actors for one in (actor.answer, actor.pulse) if one is not None]
            told, _ = self.ray.wait(expected, num_returns=1, timeout=TICK)
            # no longer counts where this process was stopped
            passed, before = min(time.monotonic() - before, 2 * TICK), time.monotonic()
            for actor in [*self.actors]:
                actor.silence, actor.asked = actor.silence + passed, actor.asked + passed
                if actor.pulse in told:
                    self.feel(actor)
                elif actor.answer in told:
                    yield from self.listen(actor)
                elif actor.is_lost:
                    yield from self.lose(actor, f"made no progress for {patience(actor.is_loaded)} s")
            self.tell_of_waiting(passed)

    # ---- actors

    def places(self) -> dict[Node, int]:
        """Return how many actors each node has room for that takes part.

        Raises:
            SegzooError: none is left that could.
        """
        nodes = [node for node in nodes_of(self.ray) if node not in self.left_out]
        places = {node: room for node in nodes if (room := node.places(self.on_gpu, self.per_node))}
        if not places:
            raise [*self.left_out.values(), no_node(self.on_gpu)][0]
        return places

    def hire(self) -> None:
        """Start actors where there is room for them, not more than there are cases."""
        self.looked = time.monotonic()
        places = self.places()
        taken = Counter(actor.node for actor in self.actors)
        for number in range(max(places.values())):  # the first one of each node, then the second
            for node, room in places.items():
                if taken[node] <= number < room and sum(not actor.job for actor in self.actors) < self.open:
                    self.actors.append(self.start(node, room))

    def start(self, node: Node, room: int) -> Actor:
        """Start one of so many actors of a node."""
        takes = node.resources(self.on_gpu, room)
        handle = (
            self.ray.remote(Segmenter)
            .options(**takes, scheduling_strategy=placed(node), max_restarts=0, max_task_retries=0, max_concurrency=2)
            .remote()
        )
        device = "cuda" if self.on_gpu else "cpu"
        return Actor(node, handle, handle.begin.remote(node.name, *self.beginning, device, takes["num_cpus"]))

    def employ(self, actor: Actor) -> None:
        """Give an actor a case where it has none, those last that were lost before; else ask for its pulse."""
        if actor.answer is None and self.open:
            actor.job = (self.todo or self.again).popleft()
            actor.silence, actor.answer = 0.0, actor.handle.do.remote(actor.job)
        elif actor.answer is not None and actor.pulse is None and actor.asked > LOOK:
            actor.asked, actor.pulse = 0.0, actor.handle.silence.remote()

    def feel(self, actor: Actor) -> None:
        """Take an actor's pulse."""
        pulse, actor.pulse = actor.pulse, None
        with suppress(self.ray.exceptions.RayError):  # of which its answer tells
            actor.silence, actor.has_begun = self.ray.get(pulse), True

    def listen(self, actor: Actor) -> Outcomes:
        """Take what an actor has done, or its end.

        Raises:
            OutputError: nothing more can be written.
        """
        try:
            said, warnings = self.ray.get(actor.answer)
        except self.ray.exceptions.RayTaskError as error:
            yield from self.lose(actor, f"failed ({reason_of(error)})")
            return
        except self.ray.exceptions.RayError:
            yield from self.lose(actor, "ended, which is often for want of memory, or its node did")
            return
        for warning in warnings:
            self.say(warning)
        job, actor.job, actor.answer, actor.silence, actor.has_begun = actor.job, None, None, 0.0, True
        if job is not None:
            self.losses[actor.node] = 0
            if isinstance(said, OutputError):
                raise said
            yield from self.done(job, said)
        elif isinstance(said, SegzooError):
            yield from self.lose(actor, f"cannot begin: {said}", said)
        else:
            actor.is_loaded = True
            if not self.is_described:
                self.say(said)
            self.is_described = True

    def lose(self, actor: Actor, reason: str, error: SegzooError | None = None) -> Outcomes:
        """Go on without an actor; yield its case where it has been tried often enough."""
        self.ray.kill(actor.handle)
        self.actors.remove(actor)
        self.looked = -math.inf  # another one may take its place at once
        lost = f"the actor on {actor.node.name} {reason}"
        self.losses[actor.node] += 1
        gone = actor.node not in nodes_of(self.ray)
        others = any(other.node != actor.node for other in self.actors)
        if not gone and (not actor.is_loaded or (self.losses[actor.node] >= LOSSES and others)):
            self.left_out[actor.node] = error or SegzooError(f"{lost}; {GO_ON}")
        if actor.has_begun or not gone:  # else it was to take the place of one that is named already
            self.say(f"segzoo: {lost}" + "; no more are started there" * (actor.node in self.left_out))
        if actor.job is None:
            return
        self.tries[actor.job] += 1
        if self.tries[actor.job] < TRIES:
            self.again.append(actor.job)
        else:
            blamed = SegzooError(f"{actor.job.file}: {TRIES} actors were lost over it, of which {lost} as the last one")
            yield from self.done(actor.job, blamed)

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            self.ray.kill(actor.handle)

    # ---- people

    def done(self, job: Job, outcome: str | SegzooError) -> Outcomes:
        """Yield a job that is done, and say how far it is."""
        yield job, outcome
        if sentence := self.progress.count():
            self.say(sentence)

    def tell_of_waiting(self, passed: float) -> None:
        """Say, once, what is waited for where no actor has begun."""
        self.waited += 0.0 if any(actor.has_begun for actor in self.actors) else passed
        if self.waited > MINUTE:
            self.waited = -math.inf
            self.say("segzoo: no node of the Ray cluster has room yet, as ray status shows; waiting for it")


def no_node(on_gpu: bool) -> SegzooError:
    """Return the error that there is nothing to compute on."""
    return SegzooError(
        f"no node of the Ray cluster has a {'GPU' if on_gpu else 'core'} to give, as ray status shows; {GO_ON}"
    )
