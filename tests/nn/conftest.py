"""Reference outputs of the original Vision-RWKV."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

Golden = tuple[dict[str, Tensor], dict[str, str]]


@pytest.fixture(scope="session")
def read_golden(shared) -> Callable[[str], Golden]:
    """Reads a file of reference tensors, and the configurations they belong to."""

    def read(name: str) -> Golden:
        file: Path = shared / "golden" / f"{name}.safetensors"
        if not file.is_file():
            pytest.skip(f"the reference outputs are not in {file.parent}")
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata()

    return read
