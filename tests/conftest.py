"""Fixtures that every test may use."""

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import processes

gc.disable()  # until all is imported

# Of torch, here and in the processes that tests start: on tensors as small as these, threads that wait for each other
# cost more than they bring, and many times that where something else runs beside the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_TESTS = Path(__file__).parent


def pytest_collection_finish() -> None:
    """Keep the garbage collector from looking again and again through all that torch and its company are made of."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is never let go some extensions call a leak


def pytest_runtest_setup() -> None:
    """Have torch make its exporter's table of operators once a process: that takes a second for each file written."""
    exporter = sys.modules.get("torch.onnx._internal.exporter._registration")
    registry = getattr(exporter, "ONNXRegistry", None)
    if registry is not None and not hasattr(registry.from_torchlib, "cache_info"):
        registry.from_torchlib = staticmethod(cache(registry.from_torchlib))


@pytest.fixture(scope="session", autouse=True)
def _processes() -> Iterator[None]:
    """What `processes` forks from ends with the tests."""
    yield
    processes.stop()


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


@pytest.fixture(scope="module")
def small_models() -> Iterator[None]:
    """`segzoo.create_model` knows the builders of small_models.py: exporting takes its time by the layer."""
    import segzoo
    from small_models import BUILDERS

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.registry._ADDED.added", {})  # what is registered here is forgotten
        for builder in BUILDERS:
            segzoo.register(parameters=0, paper="none")(builder)
        yield


# ---- what is said of bad input: each sentence once, in sentences.json, for people to read and to change

_SENTENCES = _TESTS / "sentences.json"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-sentences", action="store_true", help="take what is said now into tests/sentences.json")
    parser.addoption("--all-blocks", action="store_true", help="run the pages' long blocks of code, too")


@pytest.fixture(scope="session")
def _sentences(request) -> Iterator[dict[str, list[str]]]:
    """What each test is told, by its name below tests/; written back where that was asked for."""
    known: dict[str, list[str]] = json.loads(_SENTENCES.read_text("utf-8")) if _SENTENCES.is_file() else {}
    told: dict[str, list[str]] = {}
    yield told if request.config.getoption("--write-sentences") else known
    if told:
        text = json.dumps(dict(sorted({**known, **told}.items())), indent=1, ensure_ascii=False)
        _SENTENCES.write_text(text + "\n", "utf-8")


@pytest.fixture
def refused(request, tmp_path, _sentences) -> Callable[..., AbstractContextManager[pytest.ExceptionInfo]]:
    """As pytest.raises for an error of ours, whose sentence is the one in sentences.json.

    The sentence names what was wrong with the test's own input. Folders, rounding and versions of the
    machine are left out of it. `pytest --write-sentences` takes the sentences as they are now.
    """
    writing, count = request.config.getoption("--write-sentences"), 0
    name = request.node.nodeid.removeprefix("tests/")

    @contextmanager
    def refuse(kind: type[Exception]) -> Iterator[pytest.ExceptionInfo]:
        nonlocal count
        with pytest.raises(kind) as caught:
            yield caught
        said, place = _without_machine(str(caught.value), tmp_path), count
        count += 1
        assert "\n" not in said.strip(), f"not one sentence: {said}"
        if writing:
            _sentences.setdefault(name, []).append(said)
        else:
            known = _sentences.get(name, [])
            assert place < len(known), f"sentences.json lacks what this test is told: {said}"
            assert said == known[place]

    return refuse


def _without_machine(said: str, tmp_path: Path) -> str:
    """Return a sentence without the paths, rounding and torch of this machine and of this run of the tests."""
    said = said.replace(str(tmp_path), "TMP").replace(str(_TESTS.parent), "ROOT")
    said = re.sub(r"another torch than [\w.+]+", "another torch than VERSION", said)
    said = re.sub(r"\d\.\de[-+]\d\d", "NUMBER", said)
    # a folder's number depends on what else this process has tested
    return re.sub(r"\S*/pytest-of-\w+/pytest-\d+(/popen-gw\d+)?/([^/\s]*?)\d*(?=[/\s;,:']|$)", r"TMP/\2", said)
