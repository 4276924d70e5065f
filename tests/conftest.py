"""Fixtures that every test may use."""

import os
from pathlib import Path

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
