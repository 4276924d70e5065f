"""Notebooks are whole, run from the first cell to the last, and show what their cells put out."""

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from pages import ROOT
from run_notebook import MADE_BY, METADATA, NOTEBOOKS, FailedCellError, code_cells, hash_of, read, run

KEYS = {"code": {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}}
KEYS["markdown"] = KEYS["code"] - {"execution_count", "outputs"}
BYTES = 300_000
of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def notebook_of(*cells: str) -> dict:
    return {"cells": [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]}


def test_there_are_three():
    assert len(NOTEBOOKS) == 3


@of_each
def test_it_is_a_notebook_as_this_project_keeps_them(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert {key: value for key, value in notebook["metadata"].items() if key != MADE_BY} == METADATA
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        assert cell.keys() == KEYS[cell["cell_type"]]
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert cell["metadata"] == {}
        assert all(line.endswith("\n") for line in cell["source"][:-1])
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")


@of_each
def test_its_outputs_are_those_of_its_cells_and_small(path):
    notebook = read(path)
    again = f"python {Path(run.__code__.co_filename).relative_to(ROOT)} {path.relative_to(ROOT)}"
    if not any(cell["outputs"] for cell in code_cells(notebook)):
        assert MADE_BY not in notebook["metadata"]
        pytest.skip(f"no outputs are kept, which `{again}` writes")
    assert notebook["metadata"].get(MADE_BY) == hash_of(notebook), f"run `{again}`"
    assert path.stat().st_size < BYTES
    assert [cell["execution_count"] for cell in code_cells(notebook)] == [*range(1, len(code_cells(notebook)) + 1)]
    put_out = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    assert any("data" in output and output["data"].keys() & {"image/png", "image/jpeg"} for output in put_out)
    assert {output["output_type"] for output in put_out} <= {"stream", "execute_result", "display_data"}
    printed = "".join(line for output in put_out for line in output.get("text", ()))
    assert not re.search(r"(?<![\w.])/[a-z]+/|\\Users|Traceback", printed)  # a folder of the machine that it ran on


@of_each
def test_its_links_lead_somewhere(path):
    text = "\n".join("".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target = path.parent / link.partition("#")[0]
        assert target.exists(), link
        if "#" in link:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert link.partition("#")[2] in anchors, link


@pytest.mark.slow
@of_each
def test_it_runs(path, tmp_path, monkeypatch):
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    for outputs in run(read(path)):
        assert all("Error" not in line for output in outputs for line in output.get("text", ()))


@of_each
def test_alone_it_asks_for_a_folder_of_yours(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"There is no .* (DATA|IMAGES|VOLUME) above"):
        list(run(read(path)))
    assert list(tmp_path.iterdir()) == []


# ---- what runs them


def test_cells_share_names_and_put_out_what_jupyter_shows():
    figure = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2]);"
    first, last, drawn, picture = run(
        notebook_of("a = 2\nprint('words')", "a + 1", figure, "from PIL import Image\nImage.new('RGB', (9, 9))")
    )
    assert first == [{"name": "stdout", "output_type": "stream", "text": ["words\n"]}]
    assert [output["data"] for output in last] == [{"text/plain": ["3"]}]
    assert [[*output["data"]] for output in drawn] == [["image/png"]]
    assert picture[0]["data"].keys() <= {"image/png", "image/jpeg"}
    assert plt.get_fignums() == []


def test_what_lightning_says_is_put_out():
    code = "import logging\nlogging.getLogger('lightning.pytorch').warning('of a training')"
    (only,) = run(notebook_of(code))
    assert only[0]["text"] == ["of a training\n"]


def test_a_cell_that_fails_is_named():
    with pytest.raises(FailedCellError, match="code cell 2"):
        list(run(notebook_of("a = 1", "a / 0")))
