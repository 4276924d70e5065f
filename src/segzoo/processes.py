"""One function in several processes, on one machine or on several, by Lightning Fabric's strategies."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from segzoo.errors import SegzooError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

FOR_EVER = timedelta(days=30)  # a process that is done waits for the slowest one


def launch(function: Callable[..., Any], accelerator: str, devices: int, nodes: int, *arguments: Any) -> Any:
    """Call ``function(fabric, *arguments)`` in ``devices`` processes on each of ``nodes`` machines.

    Where a cluster (SLURM, torchrun, MPI, ...) has started the processes, this one is one of them; else they are
    started here. They talk over gloo, also on GPUs: all that they exchange is lists of files.

    Args:
        function: one that can be imported, as its arguments can be pickled.
        accelerator: "cpu" or "cuda".
        devices: processes on each machine; on GPUs each has its own.
        nodes: machines.
        *arguments: passed on.

    Returns:
        What it returned here, or, of processes started here, in the first one.

    Raises:
        SegzooError: there are not as many devices, or a process was killed.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from torch.multiprocessing import ProcessExitedException

    def fabric_of(start_method: Any) -> "Fabric":
        strategy = DDPStrategy(start_method=start_method, process_group_backend="gloo", timeout=FOR_EVER)
        return Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)

    be_quiet()
    try:
        fabric = fabric_of("popen")
        assert isinstance(fabric.strategy, DDPStrategy)
        environment = fabric.strategy.cluster_environment
        if environment is None or not environment.creates_processes_externally:
            fabric = fabric_of("spawn")  # not by the command line again: Python code may have called main()
        return fabric.launch(quietly, function, *arguments)
    except MisconfigurationException as error:
        raise SegzooError(f"--devices {devices} cannot be had: {str(error).strip().splitlines()[0]}") from error
    except ProcessExitedException as error:
        raise SegzooError(
            f"{error}, which is often for want of memory; all that is written is complete, and the same command "
            "continues from there"
        ) from error


def quietly(fabric: "Fabric", *called: Any) -> Any:
    """What the first of ``called`` returns for the others, without Fabric's announcements."""
    be_quiet()
    function, *arguments = called
    return function(fabric, *arguments)


def be_quiet() -> None:
    """Let Fabric say nothing but warnings."""
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


def gather(fabric: "Fabric", value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    import torch.distributed

    values = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values
