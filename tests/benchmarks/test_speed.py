"""benchmarks/speed.py: processes that take turns, runs that are stored, and the page of what they took."""

import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import contestants
import exporting
import numpy as np
import pytest
import speed
import speed_runs
import speed_tables
import stopwatch
from test_quality import ROOT

import processes
import segzoo

PEER, RUNS = contestants.PEER, speed_runs.RUNS
AMD, INTEL = (
    RUNS / f"{name}-unknown.json"
    for name in ("amd-epyc-family-25-model-17-avx-512", "intel-r-xeon-r-processor-family-6-model-207-avx-512")
)
BFLOAT16 = RUNS / "amd-epyc-family-26-model-2-avx-512-0.1.0-2410868.json"


def row(name, form, seconds, **facts):
    found = {"name": name, "form": form, "shape": [1, 3, 256, 256], "threads": 2, "seconds": seconds, "rounds": 50}
    found |= {"processor_seconds": 1.5 * seconds, "quartiles": [0.9 * seconds, 1.2 * seconds], "date": "2026-02-01"}
    return {**found, "megabytes": 100, "difference": 0.0, "gain_of_threads": 1.9, **facts}


ROWS = [
    row(PEER, "eager", 0.2),
    row(PEER, "torch-export", 0.12),
    row(PEER, "onnxruntime", 0.1, megabytes=90),
    row("LV-UNet", "eager", 0.1),
    row("LV-UNet", "deploy", 0.05),
    row("LV-UNet", "torch-export", 0.04),
    row("LV-UNet", "torch-export, not deployed", 0.1),
    row("LV-UNet", "onnxruntime", 0.01),
    row("LV-UNet", "onnxruntime, not deployed", 0.017),
    {
        "name": "CMUNeXt",
        "form": "eager",
        "shape": [1, 3, 256, 256],
        "threads": 2,
        "failure": "no",
        "date": "2026-02-01",
    },
    row(PEER, "eager", 3.0, threads=1, shape=[8, 3, 512, 512]),
    row("LV-UNet", "eager", 1.5, threads=1, shape=[8, 3, 512, 512]),
    row("Med-URWKV", "eager", 1.0, growth=128),
    row("Med-URWKV", "eager", 4.0, growth=256),
    row(contestants.ATTENTION, "eager", 1.0, growth=128),
    row(contestants.ATTENTION, "eager", 8.0, growth=256),
    row(PEER, "training", 2.0, shape=[8, 3, 256, 256]),
    row("LV-UNet", "training", 1.0, shape=[8, 3, 256, 256], megabytes=777),
    {"name": "Bi-WKV", "tokens": 1024, "channels": 192, "seconds": 0.0002, "both": 0.0006, "date": "2026-02-01"},
]


def made_up(device, release, rows):
    """A run of somebody's."""
    known = {"kind": "cpu", "device": device, "processor": device, "features": ["avx2", "fma"], "cores": 2}
    known |= {"release": release, "torch": "2.15", "packages": {"openvino": "2026.4"}}
    return {**known, "rows": rows, "releases": []}


def of_day(day, seconds, **facts):
    """A table in which LV-UNet takes so long, and its peer a second."""
    return [row(PEER, "eager", 1.0, date=day, **facts), row("LV-UNet", "eager", seconds, date=day, **facts)]


RUN = made_up("a made-up machine", "1.0 (abc1234)", ROWS)


def cells(page, start):
    """The cells of the first row that starts so."""
    line = next(line for line in page.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


# ---- one run


def test_each_cell_is_a_ratio_to_the_peer_in_the_same_form():
    page = speed_tables.section(RUN)
    # eager, deploy, torch-export, onnxruntime; best against best; what deploying gains in each; memory
    assert cells(page, "LV-UNet")[:4] == ["2.00", "4.00", "3.00", "10.00"]
    assert cells(page, "LV-UNet")[4:9] == ["10.00", "2.00", "2.50", "1.70", "100"]
    # the best form's milliseconds, processor time by wall time, and noise
    assert cells(page, "LV-UNet")[9:] == ["10.0", "1.50", "30 %"]
    assert cells(page, PEER)[:9] == ["1.00", "-", "1.00", "1.00", "1.00", "-", "-", "-", "90"]
    assert set(cells(page, "CMUNeXt")) == {"-"}


def test_growth_training_and_mixing_have_tables_of_their_own():
    page = speed_tables.section(RUN)
    assert cells(page, "attention / Bi-WKV") == ["1.00", "2.00"]
    assert "| LV-UNet | 0.50 | 777 | 1000 | 1.50 | 30 % |" in page
    assert cells(page, "Bi-WKV") == ["1024", "0.20", "0.60"]


def test_what_computes_something_else_has_no_figure():
    rows = [row(PEER, "eager", 1.0), row("LV-UNet", "eager", 0.5, difference=0.005)]
    low = "deploy, float16, channels last"
    rows += [row(PEER, low.replace("deploy", "eager"), 0.5), row("LV-UNet", low, 0.1, difference=0.005)]
    found = cells(speed_tables.section(made_up("x", "1", rows)), "LV-UNet")
    # eager; the peer's and the zoo's own float16; none of them is the best in float32
    assert found[:4] == ["-", "-", "5.00", "-"]


def test_volumes_are_relative_to_a_network_for_volumes():
    rows = [row(contestants.VOLUME_PEER, "eager", 3.0, shape=[1, 1, 64, 64, 64])]
    rows += [row("MedNeXt-S k3, 3D", "eager", 1.5, shape=[1, 1, 64, 64, 64])]
    page = speed_tables.section(made_up("x", "1", rows))
    assert "1 patch of 64 x 64 x 64, 2 threads" in page
    assert cells(page, "MedNeXt-S k3, 3D")[0] == "2.00"


# ---- several runs


def test_machines_have_a_median_with_the_least_and_the_most():
    runs = [
        made_up("one", "1", of_day("2026-01-01", 0.1)),
        made_up("two", "1", of_day("2026-01-02", 0.25)),
        made_up("three", "2", of_day("2026-01-03", 0.5)),
        made_up("one", "2", of_day("2026-01-04T09:30", 0.2)),  # its former run is shown, and does not count twice
        made_up("one", "3", of_day("2026-01-04T08:15", 0.9)),  # nor one of that morning
        made_up("one", "4", of_day("2026-01-05", 0.9, shape=[1, 3, 512, 512])),  # one of others is none
    ]
    merged = speed_tables.page(runs).partition("## All")[2]
    assert cells(merged, "LV-UNet")[:5] == ["4.00 (2.00 to 5.00)", "10.00", "4.00", "2.00", "5.00"]


def test_processors_and_gpus_are_not_averaged():
    runs = [made_up("a processor", "1", of_day("2026-01-01", 0.5)), made_up("a GPU", "1", of_day("2026-01-01", 0.1))]
    runs[1]["kind"] = "cuda"
    page = speed_tables.page(runs)
    assert cells(page.partition("## All processors")[2], "LV-UNet")[:2] == ["2.00", "2.00"]
    assert cells(page.partition("## All GPUs")[2], "LV-UNet")[:2] == ["10.00", "10.00"]


def test_training_steps_of_several_machines_are_relative_to_the_peers():
    shape = [8, 3, 256, 256]
    rows = [row(PEER, "training", 2.0, shape=shape), row("LV-UNet", "training", 1.0, shape=shape)]
    slower = [row(PEER, "training", 2.0, shape=shape), row("LV-UNet", "training", 1.8, shape=shape)]
    page = speed_tables.page([made_up("one", "1", rows), made_up("two", "1", slower)])
    merged = page.partition("A step of training")[2]
    assert cells(merged, "LV-UNet") == ["0.70 (0.50 to 0.90)", "0.50", "0.90"]


def test_the_page_says_what_each_run_was_measured_on():
    old = made_up("an old machine", speed_runs.UNKNOWN, [{**ROWS[0]}])
    old |= {"features": speed_runs.UNKNOWN, "packages": speed_runs.UNKNOWN}
    del old["rows"][0]["date"], old["rows"][0]["quartiles"], old["rows"][0]["gain_of_threads"]
    page = speed_tables.page([RUN, old])
    said = cells(page, "A")
    assert said[:3] == ["a made-up machine", "1.0 (abc1234)", "2026-02-01"]
    assert said[4:] == ["avx2 fma", "torch 2.15, openvino 2026.4", "1.90", "30 %"]
    assert cells(page, "B") == [
        "an old machine", "unknown", "unknown", "2", "unknown", "torch 2.15; others unknown", "unknown", "unknown",
    ]  # fmt: skip


def test_newer_runs_come_first_and_those_of_an_unknown_day_last(tmp_path):
    days = {"one": "2026-01-01", "two": "2026-03-01", "three": ""}
    for device, day in days.items():
        run = made_up(device, "1", [])
        speed_runs.store(
            {key: run[key] for key in run if key not in ("rows", "releases")}, of_day(day, 1), [], tmp_path
        )
    assert [run["device"] for run in speed_runs.read_runs(tmp_path)] == ["two", "one", "three"]


# ---- what is stored


def stored_beside(folder, rows, releases=(), **facts):
    """Store a made-up run, and return what then is in its file."""
    run = made_up("a made-up machine", "1.0 (abc1234)", []) | facts
    known = {key: run[key] for key in run if key not in ("rows", "releases")}
    return json.loads(speed_runs.store(known, rows, list(releases), folder).read_text())


def test_a_run_replaces_its_own_tables_and_nobody_elses(tmp_path):
    stored_beside(tmp_path, ROWS)
    stored_beside(tmp_path, of_day("2026-01-01", 7.0), device="another machine")
    stored_beside(tmp_path, of_day("2026-01-01", 8.0), release="1.0 (0000000)")
    found = stored_beside(tmp_path, of_day("2026-03-01", 9.0))
    assert len(list(tmp_path.iterdir())) == 3
    assert [one["seconds"] for one in found["rows"] if one["date"] == "2026-03-01"] == [1.0, 9.0]
    same = [one for one in ROWS if speed_runs.table_of(one) == speed_runs.table_of(ROWS[0])]
    assert [one for one in found["rows"] if one["date"] != "2026-03-01"] == [one for one in ROWS if one not in same]
    others = [run["rows"][1]["seconds"] for run in speed_runs.read_runs(tmp_path) if len(run["rows"]) == 2]
    assert sorted(others) == [7.0, 8.0]


def test_figures_of_other_packages_are_not_mixed(tmp_path):
    stored_beside(tmp_path, ROWS)
    assert stored_beside(tmp_path, of_day("2026-01-01", 9.0), torch="2.16")["rows"] == of_day("2026-01-01", 9.0)


def test_a_table_without_its_first_peer_is_not_stored():
    alone = [row("LV-UNet", "training", 1.0, threads=1), row("LV-UNet", "eager", 1.0, growth=128)]
    assert speed.with_their_peer([*ROWS, *alone]) == [*ROWS, alone[1]]


def test_what_is_stored_is_what_the_page_says():
    assert speed.TABLES.read_text(encoding="utf-8") == speed_tables.page(speed_runs.read_runs())


# ---- releases


def ran(release, laps, form="eager", name="LV-UNet"):
    """A process that has taken its turns."""
    runner = object.__new__(speed.Runner)
    runner.job = {"name": name, "form": form, "shape": (1, 3, 256, 256), "threads": 2, "release": release}
    runner.laps, runner.megabytes, runner.failure = laps, 100.0, ""
    return runner


def test_a_ratio_of_releases_is_the_median_of_the_rounds():
    mine = ran("", [(1.0, 2.0), (2.0, 3.0), (30.0, 9.0)])
    theirs = ran("0.9 (abc1234)", [(2.0, 2.0), (4.0, 4.0), (10.0, 10.0)])  # the last round was slow for both
    found = mine.beside(theirs)
    assert (found["than"], found["ratio"], found["processor_ratio"]) == ("0.9 (abc1234)", 0.5, 0.9)
    assert found["seconds"] == [2.0, 4.0]
    theirs.failure = "no such model"
    assert "ratio" not in mine.beside(theirs)


def test_ratios_of_releases_have_a_table_with_the_best_forms_beside_each_other(tmp_path):
    pairs = [("eager", [3.0, 4.0]), ("openvino", [1.2, 1.0])]
    compared = [ran("", [(mine, mine)], form).beside(ran("0.9", [(old, old)], form)) for form, (mine, old) in pairs]
    stored_beside(tmp_path, [], compared)
    found = stored_beside(tmp_path, [], compared[:1])["releases"]  # measured again: replaced
    assert [one["form"] for one in found] == ["openvino", "eager"]
    page = speed_tables.section({**RUN, "rows": [], "releases": compared})
    assert "that of release 0.9 being 1" in page
    assert cells(page, "LV-UNet")[1:4] == ["0.750 (0.750)", "1.200 (1.200)", "1.200"]


def test_a_release_is_a_version_and_a_commit_with_a_mark_where_files_have_changed(tmp_path):
    package = tmp_path / "src" / "segzoo"
    package.mkdir(parents=True)
    init = package / "__init__.py"
    init.write_text('__version__ = "1.2.3"\n')
    assert speed_runs.release_of(tmp_path / "src") == "1.2.3"
    environment = os.environ | {
        f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    for command in ("init --quiet", "add .", "commit --quiet --no-verify -m one"):
        subprocess.run(["git", "-C", str(tmp_path), *command.split()], check=True, env=environment)
    assert re.fullmatch(r"1\.2\.3 \([0-9a-f]{7,}\)", speed_runs.release_of(tmp_path / "src"))
    (tmp_path / "elsewhere.json").write_text("{}")  # as a run's file
    assert not speed_runs.release_of(tmp_path / "src").endswith("+)")
    init.write_text('__version__ = "1.2.3"\nchanged = True\n')
    assert re.fullmatch(r"1\.2\.3 \([0-9a-f]{7,}\+\)", speed_runs.release_of(tmp_path / "src"))


# ---- what speed depends on


def test_features_are_those_that_decide_on_speed(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    assert speed_runs.features_of(cpuinfo) == speed_runs.UNKNOWN  # not Linux
    cpuinfo.write_text("processor: 0\nflags\t\t: fpu avx2 sse amx_bf16 avx512f\n")
    assert speed_runs.features_of(cpuinfo) == ["avx2", "avx512f", "amx_bf16"]
    cpuinfo.write_text("Features : fp asimd bf16\n")  # Arm
    assert speed_runs.features_of(cpuinfo) == ["asimd", "bf16"]


def test_a_gpu_has_a_run_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(speed.torch.cuda, "get_device_name", lambda: "NVIDIA Made-Up")
    monkeypatch.setattr(speed.torch.cuda, "get_device_capability", lambda: (9, 0))
    here, gpu = speed_runs.facts("cpu"), speed_runs.facts("cuda")
    assert (here["kind"], gpu["kind"], gpu["device"]) == ("cpu", "cuda", "NVIDIA Made-Up")
    assert gpu["processor"] == here["device"]
    assert gpu["packages"]["capability"] == "9.0"
    assert here["release"].startswith(segzoo.__version__)
    assert speed_runs.file_of(here) != speed_runs.file_of(gpu)


# ---- bad input


def refusal(monkeypatch, *arguments):
    """The sentence that a run ends in."""
    monkeypatch.setattr("sys.argv", ["speed.py", "run", *arguments])
    with pytest.raises(SystemExit) as refused:
        speed.main()
    return str(refused.value)


def test_a_missing_peer_is_one_sentence_that_names_the_extra(monkeypatch):
    monkeypatch.setattr(contestants, "find_spec", lambda name: None if name == "segmentation_models_pytorch" else name)
    said = refusal(monkeypatch, "--parts", "forms")
    assert "segmentation_models_pytorch cannot be imported" in said
    assert "medsegzoo[bench]" in said
    assert "segmentation_models_pytorch" in refusal(monkeypatch, "--only", "U-Net, ResNet34 (smp)")
    contestants.refuse_missing(["LV-UNet"], ["openvino"])  # nothing of it is needed


def test_a_release_without_segzoo_is_named(monkeypatch, tmp_path):
    said = refusal(monkeypatch, "--only", "LV-UNet", "--release", str(tmp_path))
    assert str(tmp_path) in said
    assert "src of a checkout" in said


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(speed.torch.cuda, "is_available", lambda: False)
    assert "finds no GPU" in refusal(monkeypatch, "--only", "LV-UNet", "--device", "cuda")


# ---- what the docs say


def figures(columns, file):
    """Cells of a stored run's first table, by their row and column."""
    page = speed_tables.section(json.loads(file.read_text(encoding="utf-8")))
    return [float(cells(page, row)[column]) for row, column in columns]


BEST, EAGER, ONNXRUNTIME = 5, 6, 8  # columns
LV_UNET, CMUNEXT, LRASPP = "LV-UNet", "CMUNeXt-S", "LR-ASPP, MobileNetV3 (torchvision)"
URWKV, MEDNEXT, AUTOCAST = "Med-URWKV", "MedNeXt-S k3, 2D", "deploy, bfloat16, channels last"


def said(start):
    """The figures with one decimal in the paragraph of docs/benchmarks.md that starts so."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    paragraph = page.partition(start)[2].partition("\n\n")[0]
    return [float(figure) for figure in re.findall(r"\b\d+\.\d\b", paragraph)]


def test_what_the_docs_say_of_speed_was_measured():
    here = figures([("LV-UNet, paper's encoder", BEST), (LV_UNET, BEST)], AMD)
    assert said("Like for like") == [round(figure, 1) for figure in here]


def test_what_the_docs_say_of_another_processor_was_measured_on_it():
    there = figures([(LV_UNET, BEST)], INTEL)
    there += figures([(LV_UNET, BEST)], AMD)
    there += figures([(CMUNEXT, BEST), (LRASPP, BEST), (LV_UNET, EAGER), (CMUNEXT, EAGER)], INTEL)
    there += figures([(LV_UNET, ONNXRUNTIME), (CMUNEXT, ONNXRUNTIME)], INTEL)
    assert said("Another processor has other ratios.") == [round(figure, 1) for figure in there]


def test_what_the_docs_say_of_bfloat16_was_measured():
    rows = json.loads(BFLOAT16.read_text(encoding="utf-8"))["rows"]
    seconds = {(row["name"], row["form"]): row["seconds"] for row in rows}
    gains = [
        *(
            seconds[name, "openvino"] / seconds[name, "openvino, bfloat16"]
            for name in (MEDNEXT, CMUNEXT, LV_UNET, URWKV)
        ),
        *(seconds[name, "deploy"] / seconds[name, AUTOCAST] for name in (URWKV, MEDNEXT, LV_UNET, CMUNEXT)),
    ]
    assert said("Where a processor multiplies bfloat16") == [round(gain, 1) for gain in gains]


# ---- processes


def job_of(form, **facts):
    job = {"name": "LV-UNet", "form": form, "shape": [2, 3, 64, 64], "threads": 1, "device": "cpu"}
    return {**job, **facts}


def test_each_turn_is_a_whole_step_of_lightnings():
    network = contestants.build("LV-UNet").train()
    weights = next(network.parameters())
    before, steps = weights.detach().clone(), []

    def turns():
        for number in range(3):
            yield number
            steps.append(network.trainer.global_step)
            assert not speed.torch.equal(weights, before)
            before.copy_(weights.detach())

    x = speed.torch.randn(2, 3, 64, 64, generator=speed.torch.Generator().manual_seed(0))
    batch = {"image": x, "label": (x[:, 0] > 0).long()}
    stopwatch.train_by_lightning(network, batch, job_of("training"), turns())
    assert steps == [1, 2, 3]


def test_a_peer_learns_from_all_its_outputs():
    class Peer(speed.torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = (speed.torch.nn.Conv2d(3, 1, 1) for _ in range(2))

        def forward(self, x):
            return self.fine(x), self.coarse(x[..., ::2, ::2])

    peer = Peer()
    before = [parameter.detach().clone() for parameter in peer.parameters()]
    stopwatch.step_of_peer(peer, speed.torch.ones(1, 3, 8, 8), job_of("training"))()
    assert not any(map(speed.torch.equal, before, peer.parameters()))


@pytest.mark.parametrize("form", ["eager, channels last", "deploy, bfloat16, channels last"])
def test_layouts_and_precisions_of_a_gpu_are_the_same_network(form):
    x = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    expected, found = (stopwatch.as_array(stopwatch.prepare_torch(job_of(one), x)()) for one in ("eager", form))
    assert found.dtype == np.float32
    tolerance = 0.1 if "bfloat16" in form else 1e-4
    assert 0 < np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.slow
def test_networks_are_timed_in_processes_of_their_own_and_one_that_cannot_says_why(tmp_path, monkeypatch):
    # tests of `segzoo export` write ONNX; processes are forked from one that has imported torch, without the
    # interpreter's own options
    quick = {"Popen": lambda command, **options: processes.Process([command[0], *command[3:]], **options)}
    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(**vars(subprocess) | quick))
    shape = (1, 3, 128, 128)
    folders = {release: (speed_runs.own_source(), tmp_path / f"files{release}") for release in ("", "1.0")}
    for _, folder in folders.values():
        folder.mkdir()
        assert exporting.export_all(["LV-UNet"], shape, [".pt2"], folder) == {}
    forms = ["eager", "torch-export"]
    jobs = list(speed.jobs_of(forms, ["LV-UNet"], shape, 1, "cpu", folders))
    assert len(jobs) == 2 * len(forms)
    unknown = {**jobs[0], "name": "nobody", "output": str(tmp_path / "nobody.npy")}
    elsewhere = {**jobs[0], "form": "eager, channels last", "source": str(tmp_path)}
    elsewhere |= {"output": str(tmp_path / "elsewhere.npy")}
    (*rows, bad, wrong), compared = speed.take_turns([*jobs, unknown, elsewhere], rounds=2, minutes=1)
    assert [row["form"] for row in rows] == forms
    assert all(row["difference"] <= speed_tables.EQUAL_IN_FLOAT32 for row in rows), rows
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 and row["rounds"] == 2 for row in rows), rows
    assert all(50 < row["megabytes"] < 20_000 for row in rows), rows
    assert all(Path(job["output"]).is_file() for job in jobs)
    assert [(one["form"], one["than"]) for one in compared] == [(form, "1.0") for form in forms]
    assert all(one["ratio"] > 0 for one in compared)
    assert "nobody" in bad["failure"]
    assert f"not from {tmp_path}" in wrong["failure"]
