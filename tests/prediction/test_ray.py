"""Ray: a cluster of two nodes, of which one is lost midway, and actors that are lost: every case is done all the same.

Actors import this file, for pipelines that do what the names of files say.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from test_workers import Troubled, jobs_of, troubled
from threshold import threshold

import segzoo
from segzoo.cli import predict
from segzoo.cli.command import build_parser, main
from segzoo.errors import MissingPackageError, SegzooError
from segzoo.imaging.readers import Reader
from segzoo.imaging.segmentation import Segmentation
from segzoo.limits import WORKER_SILENCE
from segzoo.live import Model, load_pipeline
from segzoo.prediction import ray_actors
from segzoo.prediction.files import OutputError
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.ray_actors import Progress, share_out_on_nodes
from segzoo.prediction.ray_cluster import Node, connected, import_ray
from segzoo.preprocessing.base import Prepared

needs_ray = pytest.mark.skipif(find_spec("ray") is None or sys.platform != "linux", reason="Ray is not installed here")
ONE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80_000_000}
SPARE: dict[str, Any] = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
SECOND, WITNESSES = "SEGZOO_TEST_SECOND", "SEGZOO_TEST_WITNESSES"  # a node's id, and a folder; actors are given them


class TwoNodes:
    """Cluster with one core on each of its nodes, as processes of this machine; the driver is on the first."""

    def __init__(self) -> None:
        self.cluster = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=ONE | SPARE)
        self.second = self.cluster.add_node(**ONE)

    def lose_second(self, when: Path) -> None:
        """End a node's processes, once a file is there."""
        wait_for(when.exists)
        self.cluster.remove_node(self.second, allow_graceful=False)
        when.with_name("lost").touch()


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    folder = tempfile.mkdtemp(prefix="ray")  # pytest's own would make names too long for sockets
    path = [str(Path(segzoo.__file__).parents[1]), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # what else runs on this machine is not to end actors
        import_ray()
        nodes = TwoNodes()
        patch.setenv("RAY_ADDRESS", nodes.cluster.address)
        yield nodes
        nodes.cluster.shutdown()
    signal.signal(signal.SIGTERM, handler)
    left = [process for process in psutil.process_iter() if is_of(process, folder)]
    for process in left:  # agents of the node that was lost, which else end within a minute
        process.kill()
    assert psutil.wait_procs(left, timeout=10)[1] == []
    shutil.rmtree(folder, ignore_errors=True)


def is_of(process: psutil.Process, folder: str) -> bool:
    """Whether a process is of the cluster that keeps its files in a folder; not this one, whose variable it was."""
    try:
        return process.pid != os.getpid() and process.environ().get("RAY_TMPDIR") == folder
    except psutil.Error:
        return False


def wait_for(happens: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.05)


# ---- what is lost


class Watched:
    """Reads as a pipeline does, and has what happens on a node of a large cluster happen now.

    The second node waits at its second case for its end, and the first one at its own second until that has come. A
    lost node's actor can live for a second more, in which it would do all that is left.
    """

    def __init__(self, read: Callable[..., Prepared]) -> None:
        self.read, self.cases, self.folder = read, 0, Path(os.environ[WITNESSES])
        self.on_second = import_ray().get_runtime_context().get_node_id() == os.environ[SECOND]

    def __call__(self, source: Reader, *, drawn: bool = True) -> Prepared:
        self.cases += 1
        if self.cases == 2:
            if self.on_second:
                (self.folder / "midway").touch()
                wait_for(lambda: False)
            wait_for((self.folder / "lost").exists)
        if source.stem == "memory":
            raise MemoryError
        if source.stem == "killed" and not (witness := self.folder / "killed").exists():
            witness.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.read(source, drawn=drawn)


def load_watched(model: Model, options: argparse.Namespace, device: str) -> Pipeline:
    pipeline = load_pipeline(model, device, tta=options.tta, overlap=options.overlap)
    pipeline.read = Watched(pipeline.read)  # type: ignore[method-assign]
    return pipeline


@needs_ray
@pytest.mark.slow
def test_whatever_is_lost_each_file_is_written_once_and_as_by_one_process(nodes, samples, tmp_path, capfd, monkeypatch):
    names = ["a", "b", "memory", "killed", "c", "d", "e", "f"]
    (tmp_path / "in").mkdir()
    originals = sorted(path for path in (samples / "BUSI").rglob("*.png") if "_mask" not in path.name)
    for name, original in zip(names, originals, strict=True):
        shutil.copy(original, tmp_path / "in" / f"{name}.png")
    model = threshold(tmp_path / "threshold.onnx")
    arguments = ["predict", model, str(tmp_path / "in"), "--overlay", "--output"]
    assert main([*arguments, str(tmp_path / "one")]) == 0
    (tmp_path / "witnesses").mkdir()
    monkeypatch.setenv(WITNESSES, str(tmp_path / "witnesses"))
    monkeypatch.setenv(SECOND, nodes.second._node_id)
    monkeypatch.setattr(predict, "load", load_watched)
    losing = Thread(target=nodes.lose_second, args=[tmp_path / "witnesses" / "midway"])
    losing.start()
    capfd.readouterr()
    assert main([*arguments, str(tmp_path / "out"), "--engine", "ray"]) == 2
    losing.join()
    said = capfd.readouterr()
    done = Counter(Path(line.partition(" -> ")[0]).stem for line in said.out.splitlines())
    assert done == Counter({name: 1 for name in names if name != "memory"})
    assert said.err.splitlines()[-1].count("memory.png") == 1
    assert said.err.count(f"Ray's node {nodes.second._node_id[:8]}") == 1  # that it is lost
    assert contents(tmp_path / "out") == {
        name: content for name, content in contents(tmp_path / "one").items() if not name.startswith("memory")
    }
    monkeypatch.undo()
    monkeypatch.setattr(ray_actors, "connected", None)  # one process goes on
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert capfd.readouterr().out.splitlines()[0] == "7 of 8 were done before"
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def contents(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for what those that were killed left."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_one_sentence(nodes, tmp_path, monkeypatch):
    for address, named in (("ray://here:1", "ray://here:1"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1:1", "refused")):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(SegzooError, match=named):
            list(share_out_on_nodes(jobs_of(tmp_path, "a"), partial(troubled, tmp_path), "cpu", None, tmp_path, print))


@pytest.fixture(scope="module")
def driver(nodes) -> Iterator[None]:
    """One driver for many runs, which use each other's processes."""
    with connected(import_ray()):
        yield


def shared(folder: Path, *names: str, load: Callable[..., Any] = troubled) -> tuple[dict[str, Any], list[str]]:
    """Outcomes by name, and what was said."""
    said: list[str] = []
    jobs = jobs_of(folder, *names)
    for job in jobs:
        job.file.touch()
    (folder / "masks").mkdir()
    done = share_out_on_nodes(jobs, partial(load, folder), "cpu", None, folder / "masks", said.append)
    return {job.file.stem: outcome for job, outcome in done}, said


@needs_ray
@pytest.mark.slow
def test_a_case_that_ends_every_actor_is_tried_three_times(driver, tmp_path):
    outcomes, said = shared(tmp_path, "a", "killed", "b")
    blamed = outcomes.pop("killed")
    assert isinstance(blamed, SegzooError)
    assert f"{tmp_path / 'killed.png'}: 3 actors" in str(blamed)
    assert outcomes == dict.fromkeys("ab", "one 100.0%")
    assert len(said) == 1 + 3


@needs_ray
@pytest.mark.slow
def test_an_actor_that_makes_no_progress_is_lost(driver, tmp_path, monkeypatch):
    monkeypatch.setenv(WORKER_SILENCE.variable, "2")
    monkeypatch.setattr(ray_actors, "LOOK", 0.2)
    outcomes, said = shared(tmp_path, "hung-once", "slow")
    assert outcomes == dict.fromkeys(["hung-once", "slow"], "one 100.0%")
    assert "2 s" in said[1]


class Failing(Troubled):
    """Meets what nobody has thought of."""

    def segment(self, given: Sequence[str]) -> list[Segmentation]:
        if "full" in given[0]:
            raise OutputError("full.png cannot be written")
        raise RuntimeError("no such thing")


def failing(folder: Path, device: str) -> Troubled:
    if (folder / "damaged.png").exists():
        raise SegzooError("the model is damaged")
    return Failing(folder)


@needs_ray
@pytest.mark.slow
def test_what_keeps_all_cases_from_being_done_ends_the_run(driver, tmp_path):
    for kind, name, message in ((OutputError, "full", r"full\.png"), (SegzooError, "damaged", "damaged")):
        (tmp_path / name).mkdir()
        with pytest.raises(kind, match=message):
            shared(tmp_path / name, name, load=failing)


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["masks", "a.png", "tables"])
def test_storage_that_a_node_does_not_see_is_found_at_the_start(driver, tmp_path, hidden):
    """Here it is under a name that is this process's own."""
    (tmp_path / "masks").mkdir()
    (job,) = jobs_of(tmp_path, "a")
    job.file.touch()
    opened = os.open(tmp_path, os.O_RDONLY)
    own = Path(f"/proc/self/fd/{opened}")
    jobs = jobs_of(own if hidden == "a.png" else tmp_path, "a")
    if hidden == "tables":
        jobs = [replace(job, measure=own / "tables" / "measured.csv") for job in jobs]
    output = (own if hidden == "masks" else tmp_path) / "masks"
    try:
        with pytest.raises(SegzooError, match=f"Ray's node [0-9a-f]+\\) .*/fd/{opened}/{hidden}"):
            list(share_out_on_nodes(jobs, partial(troubled, tmp_path), "cpu", None, output, print))
    finally:
        os.close(opened)
    assert list((tmp_path / "masks").iterdir()) == []


@needs_ray
@pytest.mark.slow
def test_ray_reports_nothing(nodes, monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    usage = import_module("ray._common.usage.usage_lib")
    assert usage.usage_stats_enabled()
    import_ray()
    assert not usage.usage_stats_enabled()


# ---- without a cluster


def test_a_node_has_room_for_an_actor_on_each_gpu():
    node = Node("1", "large", 8, 2)
    assert (node.places(True, None), node.places(False, None)) == (2, 1)
    assert node.resources(True, 2) == {"num_cpus": 4, "num_gpus": 1}
    assert node.resources(True, node.places(True, 3)) == {"num_cpus": 2, "num_gpus": 0.5}  # two share one
    assert node.resources(False, node.places(False, 99)) == {"num_cpus": 1, "num_gpus": 0}
    assert Node("1", "head", 0, 0).places(False, None) == Node("1", "no gpu", 8, 0).places(True, 4) == 0


def test_people_are_told_how_far_it_is(monkeypatch):
    progress = Progress(10_000, began=time.monotonic() - 120, told=time.monotonic() - 120, done=99)
    assert progress.count() == "segzoo: 100 of 10,000 are done, about 198 minutes are left"
    assert progress.count() is None


def test_without_ray_its_extra_is_named(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused(MissingPackageError):
        import_ray()


@pytest.mark.parametrize("wrong", ["nodes", "srun"])
def test_what_does_not_go_with_ray_is_refused(tmp_path, monkeypatch, refused, wrong):
    arguments = ["predict", "lv-unet-busi", str(tmp_path), "--output", str(tmp_path / "out"), "--engine", "ray"]
    if wrong == "srun":
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    options = build_parser().parse_args([*arguments, *["--nodes", "2"] * (wrong == "nodes")])
    with refused(SegzooError):
        predict.run_predict(options)
