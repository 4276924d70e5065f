"""Run notebooks' cells as Jupyter would, without it: `python run_notebook.py NOTEBOOK...` keeps what they put out.

Cells are plain Python and share their names. What a cell puts out is what it prints, the value of its last line, and
its figures. Pictures are kept small, since a notebook with its outputs lies in the repository.
"""

import ast
import base64
import hashlib
import io
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import lightning.fabric
import lightning.pytorch
import matplotlib
import matplotlib.pyplot as plt
from pages import ROOT
from PIL import Image

NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
MADE_BY = "outputs_of"  # in the metadata, a hash of the cells that the outputs are of
LOGGERS = (lightning.pytorch.__name__, lightning.fabric.__name__)
COLOURS, QUALITY, DOTS = 96, 80, 80  # of a kept picture as PNG, as JPEG, and of a figure's inch


class FailedCellError(Exception):
    """A cell that does not run: which one."""


def main() -> None:
    """Run them, each in a folder that holds the samples, and keep what they put out."""
    for path in map(Path, sys.argv[1:]):
        notebook = read(path)
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tests").symlink_to(ROOT / "tests")
            before = Path.cwd()
            os.chdir(folder)
            outputs = list(run(notebook))
            os.chdir(before)
        for number, (cell, out) in enumerate(zip(code_cells(notebook), outputs, strict=True), start=1):
            cell |= {"execution_count": number, "outputs": out}
        notebook["metadata"] = METADATA | {MADE_BY: hash_of(notebook)}
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.name}: {time.process_time() - began:.1f} s of processor time")


def read(path: Path) -> dict[str, Any]:
    """Return a notebook."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells that are run."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def hash_of(notebook: dict[str, Any]) -> str:
    """Hash of the code."""
    code = "\0".join("".join(cell["source"]) for cell in code_cells(notebook))
    return hashlib.sha256(code.encode()).hexdigest()


# ---- run


def run(notebook: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Yield what each cell puts out.

    Raises:
        FailedCellError: one does not run.
    """
    matplotlib.use("Agg")
    plt.close("all")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), start=1):
        code = "".join(cell["source"])
        try:
            yield list(run_cell(code, number, names))
        except Exception as error:
            raise FailedCellError(f"code cell {number} fails:\n{code}") from error


def run_cell(code: str, number: int, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a cell puts out."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) and not code.rstrip().endswith(";") else None
    printed, value = io.StringIO(), None
    with redirect_stdout(printed), redirect_stderr(printed), redirect_logs(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)
    if text := printed.getvalue().replace(f"{ROOT}{os.sep}", ""):  # what is kept names nobody's folders
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
    if value is not None:
        yield {"data": shown(value), "execution_count": number, "metadata": {}, "output_type": "execute_result"}
    for figure in map(plt.figure, plt.get_fignums()):
        file = io.BytesIO()
        figure.savefig(file, dpi=DOTS, bbox_inches="tight")
        yield {"data": kept(file.getvalue()), "metadata": {}, "output_type": "display_data"}
    plt.close("all")


@contextmanager
def redirect_logs(stream: io.StringIO) -> Iterator[None]:
    """Let Lightning say to a stream what it has to say, as where it was imported by a notebook."""
    handler = logging.StreamHandler(stream)
    found = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in found]
    for logger in found:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(found, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def shown(value: Any) -> dict[str, Any]:
    """Return a value as a notebook shows it: its picture, or in words."""
    if (picture := getattr(value, "_repr_png_", lambda: None)()) is not None:
        return kept(picture)
    return {"text/plain": repr(value).splitlines(keepends=True)}


def kept(png: bytes) -> dict[str, str]:
    """Return a picture as a notebook keeps it: lines in few colours, what is speckled as JPEG."""
    picture, forms = Image.open(io.BytesIO(png)).convert("RGB"), {}
    for name, one, options in (("png", picture.quantize(COLOURS), {}), ("jpeg", picture, {"quality": QUALITY})):
        file = io.BytesIO()
        one.save(file, format=name.upper(), optimize=True, **options)
        forms[f"image/{name}"] = base64.b64encode(file.getvalue()).decode()
    smallest = min(forms, key=lambda form: len(forms[form]))
    return {smallest: forms[smallest]}


if __name__ == "__main__":
    main()
