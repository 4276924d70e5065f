"""Ray cluster: whether there is one, its nodes, and what all of them have to see. Nothing here imports torch."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from socket import create_connection
from tempfile import TemporaryDirectory
from typing import Any

from segzoo import __version__
from segzoo.checkpoints.folder import DRAFT_END
from segzoo.errors import MissingPackageError, SegzooError, attempt, first_line
from segzoo.limits import ANSWER_SECONDS
from segzoo.prediction.plan import DRAFT, require_writable

SIGHT = 600.0  # seconds that a node has to find the files, for which it starts Python


def import_ray() -> Any:
    """Import Ray, which then reports to its maker nothing of what it starts here.

    Raises:
        MissingPackageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingPackageError("--engine ray needs Ray: pip install 'medsegzoo[ray]'") from error


@contextmanager
def connected(ray: Any) -> Iterator[None]:
    """Be connected to a cluster, or have one of this machine for as long as it is needed.

    Raises:
        SegzooError: the cluster that is named cannot be reached.
    """
    if ray.is_initialized():  # by a program that has called `main`
        yield
        return
    named = os.environ.get("RAY_ADDRESS", "")
    if "://" in named:
        raise SegzooError(
            f"RAY_ADDRESS={named} is one of Ray's client, which sees other files than the cluster; start the command "
            "on one of its nodes, with host:port"
        )
    try:
        if named not in ("", "auto", "local"):  # which Ray itself would try for minutes
            host, _, port = named.rpartition(":")
            create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS.most).close()
        ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise SegzooError(
            f"the Ray cluster {named or 'of this machine'} cannot be used ({first_line(error)}); start it by ray "
            "start, or set RAY_ADDRESS to host:port, or to local for one that segzoo starts"
        ) from error
    # or pages on each actor that ends stand on stdout, between the cases; no option of Ray's keeps them away
    vars(import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Node:
    """Machine of the cluster.

    Attributes:
        id: Ray's.
        name: for people.
        cores: that Ray gives out.
        gpus: likewise.
    """

    id: str
    name: str = field(compare=False)
    cores: float = field(compare=False)
    gpus: float = field(compare=False)

    def places(self, on_gpu: bool, wanted: int | None) -> int:
        """Return how many actors it has room for: one needs a core, and on a GPU may share it."""
        has_room = self.cores >= 1 and (self.gpus >= 1 or not on_gpu)
        most = wanted or (int(self.gpus) if on_gpu else 1)
        return min(most, int(self.cores)) if has_room else 0

    def resources(self, on_gpu: bool, places: int) -> dict[str, float]:
        """Return what one of so many actors takes, as Ray names it."""
        gpus = 1 / math.ceil(places / self.gpus) if on_gpu else 0
        return {"num_cpus": int(self.cores) // places, "num_gpus": gpus}


def placed(node: Node) -> Any:
    """Return where Ray has to start something: on this very node, or nowhere."""
    return import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy(node.id, soft=False)


def nodes_of(ray: Any) -> list[Node]:
    """Return the nodes that are alive."""
    return [
        Node(
            one["NodeID"],
            f"{one['NodeManagerHostname']} (Ray's node {one['NodeID'][:8]})",
            one["Resources"].get("CPU", 0),
            one["Resources"].get("GPU", 0),
        )
        for one in ray.nodes()
        if one["Alive"]
    ]


# ---- what all nodes have to see


@dataclass(frozen=True)
class Shared:
    """State that is the same on every node, as it is for the driver.

    Attributes:
        version: of segzoo.
        folder: the current one, where relative paths begin.
        settings: segzoo's environment variables, its limits among them.
        probes: files in the folders that are written to, with their content.
        inputs: one from each of the folders where they lie.
    """

    version: str
    folder: str
    settings: dict[str, str]
    probes: dict[Path, str]
    inputs: tuple[Path, ...]


@contextmanager
def probing(folders: Iterable[Path]) -> Iterator[dict[Path, str]]:
    """Have a file in each of some folders that is nowhere else; give them with their content.

    Raises:
        SegzooError: nothing can be written in one.
    """
    probes: dict[Path, str] = {}
    with ExitStack() as stack:
        for folder in folders:
            require_writable(folder)
            draft = TemporaryDirectory(prefix=DRAFT, suffix=DRAFT_END, dir=folder, ignore_cleanup_errors=True)
            probe, content = Path(stack.enter_context(draft)) / "probe", token_hex(16)
            probe.write_text(content)
            probes[probe] = content
        yield probes


def settings() -> dict[str, str]:
    """Return segzoo's environment variables."""
    return {name: value for name, value in os.environ.items() if name.startswith("SEGZOO_")}


def settle(node: str, shared: Shared) -> None:
    """Take over what is the same for all, in a process of a node.

    Raises:
        SegzooError: something is not, such as the storage; the node's name is said.
    """
    if __version__ != shared.version:
        raise SegzooError(f"{node} has segzoo {__version__}, and this is {shared.version}; install the same there")
    os.environ.update(shared.settings)
    with suppress(OSError):  # where it is not there, relative paths are not either
        os.chdir(shared.folder)
    for probe, content in shared.probes.items():
        folder, found = probe.parents[1], ""
        with suppress(OSError):
            found = probe.read_text()
        if found != content:
            raise SegzooError(f"{node} does not see the folder {folder}; write into one that all nodes see")
        if isinstance(refused := attempt(require_writable, folder), SegzooError):
            raise SegzooError(f"{node}: {refused}")
    for file in shared.inputs:
        if not os.path.exists(file):
            raise SegzooError(f"{node} does not see {file}; put the inputs where all nodes see them")


def require_shared(ray: Any, nodes: Iterable[Node], shared: Shared) -> None:
    """Refuse nodes that do not see what is shared, before any work goes into it.

    Raises:
        SegzooError: naming one.
    """
    look = ray.remote(num_cpus=0, max_retries=0)(attempt)
    looks = {look.options(scheduling_strategy=placed(node)).remote(settle, node.name, shared): node for node in nodes}
    ray.wait([*looks], num_returns=len(looks), timeout=SIGHT)
    for found, node in looks.items():
        try:
            refused = ray.get(found, timeout=0)
        except ray.exceptions.GetTimeoutError as error:
            raise SegzooError(
                f"{node.name} has not found the files within {SIGHT:.0f} s; see whether its disks hang"
            ) from error
        except ray.exceptions.RayError as error:
            if node not in nodes_of(ray):  # it was lost meanwhile
                continue
            raise SegzooError(
                f"{node.name} cannot run segzoo {__version__} ({reason_of(error)}); install it there"
            ) from error
        if refused is not None:
            raise refused


def reason_of(error: Exception) -> str:
    """Return what an error in another process was, without its traceback."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {first_line(cause)}"
