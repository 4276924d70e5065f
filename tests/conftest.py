"""Fixtures that every test may use."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Of torch, here and in the processes that tests start: on tensors as small as these, threads that wait for each other
# cost more than they bring, and many times that where something else runs beside the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def samples() -> Path:
    """The real data that the repository ships: 8 images of BUSI (CC0) and 6 hippocampi of the Decathlon (CC-BY-SA)."""
    return _TESTS / "samples"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the full datasets and golden files: ../shared beside the repository, or $SEGZOO_SHARED."""
    folder = Path(os.environ.get("SEGZOO_SHARED") or _TESTS.parent.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"the full datasets are not in {folder} (set SEGZOO_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden_file(shared) -> Callable[[str], Path]:
    """Where a file of the original implementations' outputs is, by its name; a test without it is skipped."""

    def find(name: str) -> Path:
        file = shared / "golden" / name
        if not file.is_file():
            pytest.skip(f"the originals' {name} is not in {file.parent}")
        return file

    return find


@pytest.fixture(scope="session")
def golden(golden_file) -> Callable[[str], tuple[dict[str, Any], dict[str, Any]]]:
    """Reference tensors, and the facts beside them, by model."""

    def load(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        from safetensors.torch import load_file  # imports torch, which must see the variable above

        file = golden_file(f"{name}.safetensors")
        return load_file(file), json.loads(file.with_suffix(".json").read_text())

    return load
