"""Parameters, counted while a stranger's model is built."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from segzoo import limits

LARGE = 2**26  # bytes of a tensor from which on the memory that is left is asked for


@contextmanager
def counted_parameters(what: str) -> Iterator[None]:
    """Stop the building of a model that asks for more than is taken, before memory is filled with it.

    Args:
        what: is built, for the sentence.
    """
    thread, tensors, numbers = threading.get_ident(), 0, 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is None or threading.get_ident() != thread:  # PyTorch calls this for every thread's modules
            return
        tensors, numbers = tensors + 1, numbers + parameter.numel()
        limits.TENSORS.check(tensors, f"{what} has at least")
        limits.PARAMETERS.check(numbers, f"{what} has at least")
        if parameter.nbytes > LARGE:
            limits.require_memory(parameter.nbytes, what)

    counting = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        counting.remove()
