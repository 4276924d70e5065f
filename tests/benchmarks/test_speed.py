"""benchmarks/speed.py: processes that take turns, and the tables of what they took."""

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import speed
from test_quality import ROOT

import processes

PEER = speed.PEER


def row(name, form, seconds, **facts):
    found = {"name": name, "form": form, "shape": [1, 3, 256, 256], "threads": 2, "seconds": seconds}
    return {**found, "rounds": 50, "megabytes": 100, "difference": 0.0, "gain_of_threads": 1.9, **facts}


FACTS = {
    "device": "a made-up machine",
    "torch": "2.15",
    "rows": [
        row(PEER, "eager", 0.2),
        row(PEER, "torch-export", 0.12),
        row(PEER, "onnxruntime", 0.1, megabytes=90),
        row("LV-UNet", "eager", 0.1),
        row("LV-UNet", "deploy", 0.05),
        row("LV-UNet", "torch-export", 0.04),
        row("LV-UNet", "torch-export, not deployed", 0.1),
        row("LV-UNet", "onnxruntime", 0.01),
        row("LV-UNet", "onnxruntime, not deployed", 0.017),
        {"name": "CMUNeXt", "form": "eager", "shape": [1, 3, 256, 256], "threads": 2, "failure": "no"},
        row("LV-UNet", "eager", 1.5, threads=1, shape=[8, 3, 512, 512]),
        row("Med-URWKV", "eager", 1.0, growth=128),
        row("Med-URWKV", "eager", 4.0, growth=256),
        row(speed.ATTENTION, "eager", 1.0, growth=128),
        row(speed.ATTENTION, "eager", 8.0, growth=256),
        row(PEER, "training", 2.0),
        row("LV-UNet", "training", 1.0, megabytes=777),
    ],
}


def cells(page, start):
    """The cells of the first row that starts so."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_each_cell_is_a_ratio_to_the_peer_in_the_same_form():
    page = speed.tables(FACTS)
    # eager, deploy, torch-export, onnxruntime; best against best; what deploying gains in each; memory
    assert cells(page, "LV-UNet")[:4] == ["2.00", "4.00", "3.00", "10.00"]
    assert cells(page, "LV-UNet")[4:] == ["10.00", "2.00", "2.50", "1.70", "100"]
    assert cells(page, PEER) == ["1.00", "-", "1.00", "1.00", "1.00", "-", "-", "-", "90"]
    assert set(cells(page, "CMUNeXt")) == {"-"}


def test_growth_and_training_have_tables_of_their_own():
    page = speed.tables(FACTS)
    assert cells(page, "attention / Bi-WKV") == ["1.00", "2.00"]
    assert "| LV-UNet | 0.50 | 777 |" in page


def test_the_page_has_the_machine_and_every_input(tmp_path):
    (tmp_path / speed.RESULTS).write_text(json.dumps(FACTS))
    speed.report(tmp_path)
    page = (tmp_path / speed.TABLES).read_text()
    assert "a made-up machine" in page
    assert "1 image of 256 x 256, 2 threads" in page
    assert "8 images of 512 x 512, 1 thread" in page


def test_what_is_stored_is_what_the_page_says():
    stored = ROOT / "benchmarks" / speed.RESULTS
    assert stored.with_name(speed.TABLES).read_text() == speed.tables(json.loads(stored.read_text()))


def figures(columns, name):
    """Cells of a stored run's first table, by their row and column."""
    page = speed.tables(json.loads((ROOT / "benchmarks" / name).read_text()))
    return [float(cells(page, row)[column]) for row, column in columns]


BEST, EAGER, ONNXRUNTIME = 5, 6, 8  # columns
LV_UNET, CMUNEXT, LRASPP = "LV-UNet", "CMUNeXt-S", "LR-ASPP, MobileNetV3 (torchvision)"


def said(start):
    """The figures with one decimal in the paragraph of docs/benchmarks.md that starts so."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    paragraph = page.partition(start)[2].partition("\n\n")[0]
    return [float(figure) for figure in re.findall(r"\b\d+\.\d\b", paragraph)]


def test_what_the_docs_say_of_speed_was_measured():
    here = figures([("LV-UNet, paper's encoder", BEST), (LV_UNET, BEST)], speed.RESULTS)
    assert said("Like for like") == [round(figure, 1) for figure in here]


def test_what_the_docs_say_of_another_processor_was_measured_on_it():
    there = figures([(LV_UNET, BEST)], "speed-intel.json")
    there += figures([(LV_UNET, BEST)], speed.RESULTS)
    there += figures([(CMUNEXT, BEST), (LRASPP, BEST), (LV_UNET, EAGER), (CMUNEXT, EAGER)], "speed-intel.json")
    there += figures([(LV_UNET, ONNXRUNTIME), (CMUNEXT, ONNXRUNTIME)], "speed-intel.json")
    assert said("Another processor has other ratios.") == [round(figure, 1) for figure in there]


@pytest.mark.slow
def test_networks_are_timed_in_processes_of_their_own_and_one_that_cannot_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "write_onnx", lambda *arguments: None)  # tests of `segzoo export` write it
    # forked from one that has imported torch; without the interpreter's own options
    quick = {"Popen": lambda command, **options: processes.Process([command[0], *command[3:]], **options)}
    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(**vars(subprocess) | quick))
    monkeypatch.setattr(speed, "ZOO", {"LV-UNet": speed.ZOO["LV-UNet"]})
    monkeypatch.setattr(speed, "PEERS", {})
    shape = (1, 3, 128, 128)
    assert speed.export_all(shape, tmp_path) == {}
    jobs = [job for runtime in speed.RUNTIMES for job in speed.jobs_of(runtime, shape, 1, tmp_path, "cpu")]
    unknown = {**jobs[0], "name": "nobody", "output": str(tmp_path / "nobody.npy")}
    *rows, bad = speed.take_turns([*jobs, unknown], rounds=2, minutes=1)
    assert [row["form"] for row in rows] == ["eager", "deploy", "torch-export", "torch-export, not deployed"]
    assert all(row["difference"] <= speed.EQUAL for row in rows), rows
    assert all(row["seconds"] > 0 and row["rounds"] == 2 and 50 < row["megabytes"] < 20_000 for row in rows), rows
    assert all(Path(job["output"]).is_file() for job in jobs)
    assert "nobody" in bad["failure"]


def test_only_the_tables_that_are_measured_are_replaced(tmp_path, monkeypatch):
    machine = {"processor": "a made-up machine", "torch": "2.15", "threads": 2}
    monkeypatch.setattr(speed, "machine", lambda: machine)
    monkeypatch.setattr(speed, "BENCHMARKS", tmp_path)
    monkeypatch.setitem(speed.PARTS, "forms", lambda options: [row("LV-UNet", "eager", 7.0)])
    stored = tmp_path / speed.RESULTS
    options = SimpleNamespace(parts=["forms"], device="cpu")
    for torch, kept in (("2.15", 7), ("2.16", 0)):
        stored.write_text(json.dumps({**FACTS, "processor": machine["processor"], "torch": torch}))
        speed.run(options)
        rows = json.loads(stored.read_text())["rows"]
        assert rows[-1]["seconds"] == 7.0
        assert len(rows) == kept + 1
        assert len([one for one in rows if speed.table_of(one) == speed.table_of(rows[-1])]) == 1
