"""Processes that a cluster started, or several machines: one function in all of them, by Lightning Fabric.

Those of one machine alone are in workers.py, on the devices that are found here.
"""

import logging
import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import torch.distributed
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import ClusterEnvironment, SLURMEnvironment
from lightning.fabric.strategies import DDPStrategy
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessExitedException

from segzoo.errors import SegzooError
from segzoo.prediction.torch_backend import choose_device

FOR_EVER = timedelta(days=30)  # a process that is done waits for the slowest one


# nothing but warnings; here, since a new process imports this before Fabric announces itself in it
for package in ("lightning.fabric", "lightning.pytorch"):
    logging.getLogger(package).setLevel(logging.WARNING)


def devices_here(fabric: Fabric) -> list[str] | None:
    """Return the device of each process to start on this machine; None where `launch` does it, or a cluster has."""
    assert isinstance(fabric.strategy, DDPStrategy)
    environment, devices = fabric.strategy.cluster_environment, fabric.strategy.parallel_devices
    assert environment is not None
    assert devices is not None
    if environment.creates_processes_externally or fabric.strategy.num_nodes > 1:
        return None
    return [str(device) for device in devices]


def launch(fabric: Fabric, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function(fabric, *arguments)`` in all processes.

    Where a cluster (SLURM, torchrun, MPI, ...) has started them, this one is one of them; else those of this machine
    are started here. They talk over gloo, also on GPUs: all that they exchange is lists of files.

    Args:
        fabric: of `prepare`.
        function: one that can be imported, as its arguments can be pickled.
        *arguments: passed on.

    Returns:
        What it returned here, or, of processes started here, in the first one.

    Raises:
        SegzooError: a process was killed.
    """
    try:
        # bound to the function, where Fabric does not look through them for tensors: it takes no frozen dataclasses
        return fabric.launch(partial(call, function, arguments))
    except ProcessExitedException as error:
        raise SegzooError(
            f"{error}, which is often for want of memory; all that is written is complete, and the same command "
            "continues from there"
        ) from error


def prepare(accelerator: str, devices: int, nodes: int) -> Fabric:
    """Make a Fabric that starts the processes, or joins those that are there.

    Args:
        accelerator: "cpu", "cuda", or "auto" for a GPU where there is one.
        devices: processes on each machine; on GPUs each has its own.
        nodes: machines.

    Raises:
        SegzooError: there are not as many devices or processes.
    """
    accelerator = choose_device(accelerator)
    try:
        fabric = fabric_of("popen", accelerator, devices, nodes)
        assert isinstance(fabric.strategy, DDPStrategy)
        environment = fabric.strategy.cluster_environment
        assert environment is not None
        if not environment.creates_processes_externally:
            # "popen" would run the command line again, which is another one where Python code has called main()
            fabric = fabric_of("spawn", accelerator, devices, nodes)
    except (MisconfigurationException, ValueError, RuntimeError) as error:  # the latter two of clusters' variables
        raise SegzooError(f"--devices {devices} cannot be had: {str(error).strip().splitlines()[0]}") from error
    if not environment.creates_processes_externally:
        require_meeting_place(nodes)
        return fabric
    require_srun(environment)
    if (started := environment.world_size()) != devices * nodes:
        raise SegzooError(
            f"--devices {devices} and --nodes {nodes} make {devices * nodes} processes, and {started} started here; "
            "start as many (srun --ntasks-per-node, torchrun --nproc-per-node), or say as many"
        )
    return fabric


def require_meeting_place(nodes: int) -> None:
    """Refuse machines that would wait for each other for ever: Lightning makes up another port on each of them.

    Raises:
        SegzooError: saying so.
    """
    if nodes > 1 and "MASTER_PORT" not in os.environ:
        raise SegzooError(
            f"--nodes {nodes} needs to know where the machines meet: start the processes by srun or torchrun, or set "
            "MASTER_ADDR, MASTER_PORT and NODE_RANK on each machine"
        )


def require_srun(environment: ClusterEnvironment) -> None:
    """Refuse what a batch script started by itself: its variables are those of a task, and no other task would come.

    Raises:
        SegzooError: saying so.
    """
    if (
        isinstance(environment, SLURMEnvironment)
        and environment.world_size() > 1
        and "SLURM_STEP_NUM_TASKS" not in os.environ
    ):
        raise SegzooError(
            f"SLURM is to run {environment.world_size()} processes, and this one was not started by srun, so that it "
            "would wait for the others: write srun before the command"
        )


def fabric_of(start_method: Any, accelerator: str, devices: int, nodes: int) -> Fabric:
    """Make a Fabric that has not started anything yet."""
    strategy = DDPStrategy(start_method=start_method, process_group_backend="gloo", timeout=FOR_EVER)
    return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)


def call(function: Callable[..., Any], arguments: tuple[Any, ...], fabric: Fabric) -> Any:
    """Call the function in a process that Fabric started."""
    try:
        return function(fabric, *arguments)
    finally:
        # Fabric does so for NCCL alone; gloo's threads may let go of tensors after Python has ended, which aborts it
        torch.distributed.destroy_process_group()
