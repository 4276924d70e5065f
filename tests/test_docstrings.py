"""Docstrings: the examples of the public names run, and the first word says what a thing is or does."""

import ast
import doctest
import importlib
import inspect
import shutil
from pathlib import Path

import pytest

from layouts import write_layouts

ROOT = Path(__file__).parents[1] / "src" / "segzoo"


def public(face: str) -> list[str]:
    """The classes and functions of a package's ``__all__``."""
    package = importlib.import_module(face)
    return [
        name for name in package.__all__ if inspect.isroutine(one := getattr(package, name)) or inspect.isclass(one)
    ]


NAMES = [(face, name) for face in ("segzoo", "segzoo.data", "segzoo.metrics", "segzoo.nn") for name in public(face)]


@pytest.fixture(scope="module")
def datasets(samples, tmp_path_factory) -> Path:
    """A folder of every dataset that the examples read: the real samples, and these in the layouts of the others."""
    folder = tmp_path_factory.mktemp("datasets")
    shutil.copytree(samples, folder, dirs_exist_ok=True)
    write_layouts(folder, samples)
    return folder


@pytest.mark.parametrize(("face", "name"), NAMES, ids=[f"{face}.{name}" for face, name in NAMES])
def test_examples_run(face, name, datasets, monkeypatch):
    monkeypatch.setattr("segzoo.registry._ADDED.added", {})  # what an example registers is forgotten
    known = getattr(importlib.import_module(face), name)
    (test,) = doctest.DocTestFinder(recurse=False).find(known, f"{face}.{name}", globs={"samples": datasets})
    assert test.examples, f"{face}.{name} has no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)


def first_words(file: Path) -> list[tuple[int, str]]:
    """Line and first word of every docstring."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = {getattr(node, "lineno", 1): ast.get_docstring(node) for node in nodes if isinstance(node, documented)}
    return [(line, text.split()[0]) for line, text in texts.items() if text]


def test_docstrings_begin_with_an_imperative_or_a_noun():
    refused = {"A", "An", "As", "How", "That", "The", "What", "Whether"}
    found = [
        f"{file.relative_to(ROOT)}:{line} {word}"
        for file in sorted(ROOT.rglob("*.py"))
        for line, word in first_words(file)
        if word in refused
    ]
    assert found == []
