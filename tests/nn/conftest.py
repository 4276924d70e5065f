"""Reference outputs of the original Vision-RWKV."""

from collections.abc import Callable

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

Golden = tuple[dict[str, Tensor], dict[str, str]]


@pytest.fixture(scope="session")
def read_golden(golden_file) -> Callable[[str], Golden]:
    """Reads a file of reference tensors, and the configurations they belong to."""

    def read(name: str) -> Golden:
        file = golden_file(f"{name}.safetensors")
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata()

    return read
