"""Structure of the code, beside what the linters check: docs/architecture.md says what is meant."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "segzoo"
SLOW = ("lightning.pytorch.cli", "jsonargparse", "timm", "torchvision", "monai", "scipy", "matplotlib", "pandas")
SLOW += ("tqdm", "importlib.metadata", "huggingface_hub", "onnx", "onnxruntime", "openvino", "SimpleITK", "ray")
TREES = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(SOURCE.rglob("*.py"))}


def test_imports_that_wait_in_functions_are_those_of_the_list():
    found = []
    for file, tree in TREES.items():
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("segzoo"):
                    modules = [f"{node.module}.{alias.name}" for alias in node.names]
                    module = next((name for name in modules if file_of(name).is_file()), str(node.module))
                    found.append((file.relative_to(SOURCE).as_posix(), file_of(module).relative_to(SOURCE).as_posix()))
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)` \| `([\w/]+\.py)`, ", page, re.MULTILINE)
    assert sorted(found) == sorted(rows)


def test_what_takes_long_to_import_is_imported_where_it_is_used():
    """At the top of a file it would make every start wait that comes by the file."""
    found = {
        (file.relative_to(SOURCE).as_posix(), slow)
        for file, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
        for slow in SLOW
        if f"{name}.".startswith(f"{slow}.") and file.relative_to(SOURCE).parts[0] not in ("cli", "data")
    }
    assert found == {("models/lv_unet.py", "timm"), ("models/_timm_weights.py", "timm")}


def file_of(module: str) -> Path:
    return SOURCE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def test_files_and_classes_can_be_read_in_one_sitting():
    long = [file.name for file in TREES if len(file.read_text(encoding="utf-8").splitlines()) > 400]
    classes = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    full = [one.name for one in classes if sum(isinstance(node, ast.FunctionDef) for node in one.body) > 25]
    assert (long, full) == ([], [])


def test_the_library_does_not_print():
    found = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file, tree in TREES.items()
        if file.relative_to(SOURCE).parts[0] != "cli"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert found == []
