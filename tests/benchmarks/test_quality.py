"""The table of quality against cost: its statistics, its words, and that what is stored is what it says."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import measuring
import numpy as np
import pytest
import quality
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import processes
import segzoo
from benchmarks import baselines
from layouts import write_layouts
from segzoo import cli
from segzoo.data import CHASEDB1
from segzoo.errors import MissingError, SegzooError
from segzoo.metrics.score_file import read_image_scores
from segzoo.metrics.statistics import holm, interval, paired_p, resampled

ROOT = Path(__file__).parents[2]
STORED = ROOT / "benchmarks" / "results"


# ---- the report


SPLIT = {"split": "grouped", "seed": 42}


def store(folder, name, scores, *, tested_on="", ids=None, **facts):
    """Made-up results of one model; scores: metric -> values."""
    known = {
        "name": name,
        "model": name.rpartition("-")[0],
        "data": {**SPLIT, "dataset": "BUSI", "fold": 0, "split_sha256": "a" * 64, "longest_side": 320},
        "input": [3, 256, 192],
        "parameters": 1_234_567,
        "deployed_parameters": 1_234_567,
        "macs": 4_560_000_000,
        "latency_ms": 78.94,
        "wall_ms": 79.0,
        "repeats": 7,
        "machine": {"processor": "Abacus 3", "threads": 1, "torch": "9.8.7"},
    } | facts
    folder.mkdir(parents=True, exist_ok=True)
    if not tested_on:
        (folder / f"{name}.json").write_text(json.dumps(known))
    with (folder / f"{name}{tested_on}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *scores])
        names = ids or [f"image {number}" for number in range(len(next(iter(scores.values()))))]
        writer.writerows(zip(names, *scores.values(), strict=True))


POLYPS = {**SPLIT, "dataset": "KvasirSEG", "fold": 1, "split_sha256": "b" * 64, "longest_side": 384}


@pytest.fixture
def made_up(tmp_path):
    """Two models on one dataset (one is published), one on another and on both."""
    drawn = np.random.default_rng(3)

    def scores(middle):
        dice = np.clip(drawn.normal(middle, 0.05, 50), 0, 1)
        return {"dice": dice, "iou": dice / (2 - dice), "hd95": 100 * (1 - dice)}

    folder = tmp_path / "benchmarks" / "results"
    store(folder, "lv-unet-busi", scores(0.9), deployed_parameters=765_432)
    store(folder, "bad-busi", scores(0.7), model="BasicUNet 2.0 M", built_from={}, latency_ms=321.04, wall_ms=321.04)
    store(folder, "good-polyps", scores(0.8), data=POLYPS, macs=123_400_000)
    store(folder, "good-polyps", scores(0.5), tested_on="@busi")
    store(folder, "good-polyps", scores(0.85), tested_on="+tta")
    (tmp_path / "README.md").write_text("before\n<!-- quality:begin -->\nto be replaced\n<!-- quality:end -->\nafter\n")
    return tmp_path


def run_report(folder):
    quality.report(folder / "benchmarks", folder / "README.md")
    return (folder / "README.md").read_text(), (folder / "benchmarks" / "quality.md").read_text()


def words(text):
    """Text without its line breaks."""
    return " ".join(text.split())


def rows(text, name):
    """The cells of a model's rows."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(f"| `{name}`")]


def stored_scores(folder, name):
    with (folder / "benchmarks" / "results" / f"{name}.csv").open() as file:
        read = sorted(csv.DictReader(file), key=lambda row: row["id"])
    return {name: np.array([float(row[name]) for row in read]) for name in quality.METRICS if name in read[0]}


def written(scores, digits):
    """A mean and its interval as a table has them."""
    mean, low, high = (f"{number:.{digits}f}" for number in (scores.mean(), *interval(scores)))
    return f"{mean} [{low}, {high}]"


def test_the_report_states_every_number_of_the_files(made_up):
    readme, page = run_report(made_up)
    scores = stored_scores(made_up, "good-polyps")
    costs = ["3 x 256 x 192", "1,234,567", "0.123 G", "78.9 ms"]
    dice, iou, hd95 = (written(scores[metric], digits) for metric, digits in (("dice", 3), ("iou", 3), ("hd95", 1)))
    averaged = written(stored_scores(made_up, "good-polyps+tta")["dice"], 3)
    assert rows(page, "good-polyps")[1:] == [["`good-polyps`", "50", *costs, dice, iou, hd95, averaged]]
    assert rows(page, "lv-unet-busi")[0][-1] == "-"
    assert rows(page, "lv-unet-busi")[0][3] == "765,432 (1,234,567 in training)"
    assert rows(page, "bad-busi")[0][0] == "`bad-busi` (BasicUNet 2.0 M)"
    for text in (readme, page):
        assert "Abacus 3, 1 thread, torch 9.8.7, median of 7 passes" in words(text)
        assert "busy" not in text
    assert "(sha256 `aaaaaaaaaaaa`)" in page


def test_the_readme_has_the_published_checkpoints_alone(made_up):
    readme, _ = run_report(made_up)
    dice = written(stored_scores(made_up, "lv-unet-busi")["dice"], 3)
    files = (ROOT / "model_cards" / "lv-unet-busi").iterdir()
    size = sum(file.stat().st_size for file in files if file.name not in ("README.md", "config.json"))
    assert [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| ")][2:] == [
        [
            "[`lv-unet-busi`](model_cards/lv-unet-busi/README.md)",
            "lesion in breast ultrasound (BUSI)",
            dice,
            f"{size / 1e6:.1f} MB",
            "78.9 ms, 256 x 192",
        ]
    ]


def test_every_two_models_on_the_same_images_are_compared(made_up):
    _, page = run_report(made_up)
    pairs = re.findall(r"^\| `([^`]+)` - `([^`]+)` \| (\S+) \[(\S+), (\S+)\] \| (\S+) \|$", page, re.MULTILINE)
    assert [pair[:2] for pair in pairs] == [
        ("lv-unet-busi", "bad-busi"),
        ("lv-unet-busi", "good-polyps"),
        ("bad-busi", "good-polyps"),
    ]
    names = {"good-polyps": "good-polyps@busi"}
    raw = []
    for first, second, *numbers, _ in pairs:
        values = [stored_scores(made_up, names.get(name, name))["dice"] for name in (first, second)]
        difference = values[0] - values[1]
        raw.append(paired_p(difference))
        assert numbers == [f"{number:+.3f}" for number in (difference.mean(), *interval(difference))]
    assert [pair[-1] for pair in pairs] == [f"{p:.4f}" for p in holm(raw)]
    assert "` - `" not in (made_up / "README.md").read_text()


def test_groups_of_the_images_widen_what_is_reported(made_up):
    groups = {f"image {number}": f"sequence {number // 10}" for number in range(50)}
    _, before = run_report(made_up)
    (made_up / "benchmarks" / "results" / "groups.json").write_text(json.dumps({"KvasirSEG": groups}))
    _, page = run_report(made_up)
    assert "(sha256 `bbbbbbbbbbbb`): 50 images of at most 384 pixels a side, in 5 groups." in page
    assert "(sha256 `aaaaaaaaaaaa`): 50 images of at most 320 pixels a side." in page
    assert "own resolution (longest side: BUSI 320, KvasirSEG 384 pixels or voxels)" in words(page)
    assert rows(page, "good-polyps")[1] != rows(before, "good-polyps")[1]
    assert rows(page, "good-polyps")[0] == rows(before, "good-polyps")[0]  # tested on BUSI


def test_processors_that_virtual_machines_call_the_same_are_told_apart():
    first = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 1\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 fma\n"
    second = first.replace("processor\t: 0", "processor\t: 1").replace("avx2", "avx2 avx512f")
    assert measuring.processor_name(f"{first}\n{second}") == "AMD EPYC (family 25, model 1), AVX2"
    assert measuring.processor_name(second) == "AMD EPYC (family 25, model 1), AVX-512"
    assert measuring.processor_name("processor: 0\nCPU implementer: 0x41\n") == ""


def test_other_images_or_another_split_are_not_compared(made_up):
    results = made_up / "benchmarks" / "results"
    scores = {metric: np.full(50, 0.5) for metric in quality.METRICS}
    store(results, "elsewhere-busi", scores, ids=[f"other {number}" for number in range(50)])
    store(results, "resplit-busi", scores, data={**POLYPS, "dataset": "BUSI"})
    _, page = run_report(made_up)
    assert not re.search(r"`elsewhere-busi` - |- `elsewhere-busi`", page)
    assert not re.search(r"`resplit-busi` - `(good|bad)-busi`|`(good|bad)-busi` - `resplit-busi`", page)
    assert re.search(r"`resplit-busi` - `good-polyps`|`good-polyps` - `resplit-busi`", page)
    assert "`aaaaaaaaaaaa`), of the split `grouped`, fold 1 (sha256 `bbbbbbbbbbbb`)" in page


def test_a_model_on_data_of_another_kind_is_told_apart(made_up):
    _, page = run_report(made_up)
    busi, polyps = page.split("### KvasirSEG")
    assert rows(busi, "good-polyps")[0][0] == "`good-polyps` (trained on KvasirSEG, tested on BUSI)"
    assert rows(polyps, "good-polyps")[0][0] == "`good-polyps`"
    assert quality.dataset_name("kvasir-seg") == quality.dataset_name("KvasirSEG") == "KvasirSEG"
    assert quality.dataset_name("Task04_Hippocampus") == "Task04_Hippocampus"


def test_volumes_are_measured_in_millimetres(tmp_path, made_up):
    scores = {metric: np.linspace(0.5, 0.9, 9) for metric in quality.METRICS}
    data = {**POLYPS, "dataset": "Task04_Hippocampus"}
    store(tmp_path / "benchmarks" / "results", "net-volumes", scores, data=data, input=[1, 32, 48, 32])
    _, page = run_report(made_up)
    section = page.split("### Task04_Hippocampus")[1]
    assert "HD95, mm" in section
    assert rows(section, "net-volumes")[0][2] == "1 x 32 x 48 x 32"
    assert rows(section, "net-volumes")[0][-2].startswith("0.70 [")
    assert "of volumes one patch" in words(page)


def test_a_person_has_scores_and_no_costs(made_up, samples, tmp_path):
    write_layouts(tmp_path / "data", samples)
    results = made_up / "benchmarks" / "results"
    file = measuring.score_reader("second-reader", "CHASEDB1", str(tmp_path / "data"), results)
    drawn = {one["id"]: float(one["dice"]) for one in read_image_scores(file)}
    assert set(drawn) == set(CHASEDB1(tmp_path / "data").split_ids["test"])
    assert 0 < min(drawn.values()) <= max(drawn.values()) < 1  # lesions there, shifted by a pixel
    _, page = run_report(made_up)
    (row,) = rows(page, "second-reader")
    assert row[2:6] == ["-"] * 4
    assert row[6] == written(np.array([drawn[one] for one in sorted(drawn)]), 3)


def test_no_distance_is_told_where_none_was_measured(made_up):
    store(made_up / "benchmarks" / "results", "heart", {"dice": [0.5, 1.0], "iou": [0.4, 1.0]}, input=[1, 8, 64, 64])
    _, page = run_report(made_up)
    assert rows(page, "heart")[0][-2] == "-"


def test_the_report_is_the_same_again(made_up):
    written = [made_up / "README.md", *(made_up / "benchmarks" / name for name in ("quality.md", "quality.png"))]
    run_report(made_up)
    first = [path.read_bytes() for path in written]
    resampled.cache_clear()
    run_report(made_up)
    assert [path.read_bytes() for path in written] == first
    assert first[0].startswith(b"before\n")
    assert first[0].endswith(b"after\n")
    assert b"to be replaced" not in first[0]


def test_the_picture_shows_what_the_table_says(made_up):
    shown = quality.panels(quality.read_results(made_up / "benchmarks" / "results"))
    assert [(title, len(points)) for title, points in shown.items()] == [("BUSI", 3), ("KvasirSEG", 1)]
    bad, elsewhere = shown["BUSI"][1:]
    dice = stored_scores(made_up, "bad-busi")["dice"]
    expected = (321.04, dice.mean(), *interval(dice))
    assert (bad.x, bad.y, bad.low, bad.high) == pytest.approx(expected, abs=1e-6)
    assert (bad.label, bad.hollow, elsewhere.hollow) == ("BasicUNet 2.0 M", False, True)
    run_report(made_up)
    path = made_up / "benchmarks" / "quality.png"
    before = Image.open(path)
    before.load()  # the file is written anew
    facts = made_up / "benchmarks" / "results" / "bad-busi.json"
    facts.write_text(facts.read_text().replace("321.04", "32.104"))
    run_report(made_up)
    after = Image.open(path)
    assert before.text["sha256"] != after.text["sha256"]
    assert np.any(np.asarray(before.convert("RGB")) != np.asarray(after.convert("RGB")))


def test_a_busy_machine_and_another_one_are_named(made_up):
    facts = made_up / "benchmarks" / "results" / "bad-busi.json"
    changed = json.loads(facts.read_text())
    changed |= {"wall_ms": 2.5 * changed["latency_ms"], "machine": {**changed["machine"], "processor": "Abacus 4"}}
    facts.write_text(json.dumps(changed))
    _, page = run_report(made_up)
    assert "by the clock a pass took up to 2.5 times as long" in words(page)
    assert "not comparable between machines: `bad-busi`: Abacus 4" in words(page)


def test_what_is_missing_is_named(made_up, refused):
    (made_up / "benchmarks" / "results" / "bad-busi.json").unlink()
    with refused(MissingError):
        run_report(made_up)
    store(made_up / "benchmarks" / "results", "bad-busi", stored_scores(made_up, "bad-busi"))
    averaged = made_up / "benchmarks" / "results" / "good-polyps+tta.csv"
    whole = averaged.read_text()
    averaged.write_text("\n".join(whole.splitlines()[:-1]) + "\n")
    with refused(SegzooError):
        run_report(made_up)
    averaged.write_text(whole)
    (made_up / "README.md").write_text("no beginning <!-- quality:end -->")
    with refused(SegzooError):
        run_report(made_up)


# ---- what the repository holds


def test_the_stored_report_is_that_of_the_stored_results(tmp_path):
    shutil.copytree(STORED, tmp_path / "benchmarks" / "results")
    (tmp_path / "README.md").write_bytes((ROOT / "README.md").read_bytes())
    readme, page = run_report(tmp_path)
    assert readme == (ROOT / "README.md").read_text(encoding="utf-8"), "run python benchmarks/quality.py"
    assert page == (ROOT / "benchmarks" / "quality.md").read_text(encoding="utf-8")
    drawn, stored = (Image.open(folder / "benchmarks" / "quality.png") for folder in (tmp_path, ROOT))
    assert (drawn.size, drawn.text) == (stored.size, stored.text)


@pytest.mark.parametrize("name", segzoo.list_checkpoints())
def test_every_checkpoint_is_in_the_table_as_on_its_card(name):
    card = json.loads((ROOT / "model_cards" / name / "config.json").read_text())
    facts = json.loads((STORED / f"{name}.json").read_text())
    assert f"| [`{name}`](model_cards/{name}/README.md) |" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert facts["parameters"] == card["parameters"]
    assert facts["data"]["split_sha256"] == card["data"]["split_sha256"]
    scores = stored_scores(ROOT, name)
    assert {len(values) for values in scores.values()} == {card["metrics"]["images"]}
    for metric, values in scores.items():
        assert values.mean() == pytest.approx(card["metrics"]["original"][metric], abs=1e-5)


def test_the_stored_groups_are_those_of_the_data(shared, tmp_path, monkeypatch):
    for file in STORED.glob("*.csv"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(shared)
    stored = measuring.store_groups(tmp_path)
    assert json.loads(stored.read_text()) == json.loads((STORED / "groups.json").read_text())


def test_the_validation_of_a_run_that_went_on_is_kept_epoch_by_epoch(tmp_path):
    for version, rows in {2: "1,0.6\n2,0.71239\n", 10: "2,0.7\n3,0.65\n"}.items():
        log = tmp_path / "run" / "csv" / f"version_{version}" / "metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text(f"epoch,val/dice\n{rows}3,\n")  # the rows of training have no validation
    measuring.store_validation(tmp_path / "run", "net", tmp_path)
    assert (tmp_path / "validation" / "net.csv").read_text() == "epoch,dice\n1,0.6000\n2,0.7000\n3,0.6500\n"


def test_the_report_needs_no_torch():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import quality; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(ROOT / "benchmarks")], check=True)


# ---- costs and baselines


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (16, 64)])
def test_a_baseline_gives_logits_of_the_inputs_size(size):
    model = baselines.BasicUNet(num_classes=2, features=(4, 4, 4, 4, 4, 4))
    for batch in (1, 2):
        x = torch.randn(batch, 3, *size)
        assert model.train()(x).shape == model.deploy()(x).shape == (batch, 2, *size)


def test_the_baseline_for_volumes_gives_logits_of_the_inputs_size_and_is_trained_as_mednext_is():
    model, mednext = baselines.VolumeUNet(features=(4, 4, 4, 4, 4, 4)), segzoo.create_model("mednext_s_k3")
    assert model(torch.randn(2, 1, 17, 32, 20)).shape == (2, 1, 17, 32, 20)
    ours, theirs = (one.default_optimizer(one.parameters()) for one in (model, mednext))
    assert type(ours) is type(theirs)
    assert ours.defaults == theirs.defaults


def test_the_baselines_are_of_the_sizes_that_they_are_known_by():
    assert measuring.count_parameters(baselines.BasicUNet()) == 1_979_009
    assert measuring.count_parameters(baselines.VolumeUNet(num_classes=3)) == 5_749_443
    with torch.device("meta"):
        large = baselines.BasicUNet(features=(64, 128, 256, 512, 1024, 64))
    assert measuring.count_parameters(large) == 31_113_217


def test_without_its_package_the_smp_baseline_says_what_to_install(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with refused(MissingError):
        baselines.SMPUNet()


def test_the_smp_baseline_gives_logits_of_the_inputs_size():
    pytest.importorskip("segmentation_models_pytorch")
    assert baselines.SMPUNet()(torch.randn(2, 3, 33, 47)).shape == (2, 1, 33, 47)


def test_the_smp_baseline_starts_from_the_weights_that_lv_unet_starts_from(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    weights = timm.create_model("tf_mobilenetv3_large_minimal_100").state_dict()
    save_file(weights, tmp_path / "imagenet.safetensors")
    model = baselines.SMPUNet(encoder_weights=str(tmp_path / "imagenet.safetensors"))
    loaded = model.network.encoder.model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


@pytest.mark.parametrize("kind", ["BasicUNet", "SMPUNet"])
def test_a_baseline_goes_on_from_a_finished_run(tmp_path, kind, refused):
    if kind == "SMPUNet":
        pytest.importorskip("segmentation_models_pytorch")
    baseline = getattr(baselines, kind)
    with refused(MissingError):
        baseline(starts_from=str(tmp_path / "unet-kvasir-seg"))
    weights = baseline().state_dict()
    torch.save({"state_dict": weights}, tmp_path / "best.ckpt")
    loaded = baseline(starts_from=str(tmp_path)).state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_multiply_accumulates_by_hand():
    class OneConvolution(baselines.Baseline):
        def __init__(self):
            super().__init__(3)
            self.network = torch.nn.Conv2d(3, 5, 3, padding=1)

    assert measuring.count_macs(OneConvolution().eval(), torch.randn(1, 3, 8, 10)) == 8 * 10 * 5 * 3 * 3 * 3


@pytest.mark.slow
def test_a_run_without_a_checkpoint_folder_is_scored_and_measured(tmp_path, samples, refused, monkeypatch):
    quick = SimpleNamespace(**vars(subprocess) | {"run": processes.run})  # forked from one that has imported torch
    monkeypatch.setattr(measuring, "subprocess", quick)
    run = tmp_path / "run"
    options = "--trainer.max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false --data BUSI "
    options += "--data.split all --data.image_size 32 --data.batch_size 4 --model benchmarks.baselines.BasicUNet "
    options += "--model.features [4,4,4,4,4,4]"
    fitted = ["fit", *options.split(), "--data.root", str(samples), "--trainer.default_root_dir", str(run)]
    assert cli.main(fitted) == 0
    assert not (run / "checkpoint").exists()
    results = tmp_path / "results"
    measuring.score(run, "unet-tiny", results)
    measuring.measure(["unet-tiny"], 1, results)
    (result,) = quality.read_results(results)["BUSI"]
    assert len(result.ids) == 8
    assert all(math.isfinite(value) for values in result.scores.values() for value in values)
    assert result.facts["model"] == "BasicUNet 0.0 M"
    assert result.facts["input"] == [3, 32, 32]
    assert result.facts["data"]["split_sha256"] == json.loads((run / "split.json").read_text())["sha256"]
    assert result.facts["deployed_parameters"] == result.facts["parameters"] > 0
    assert result.facts["macs"] > 0
    with refused(MissingError):
        measuring.score(tmp_path / "nowhere", "unet-tiny", results)


@pytest.mark.slow
def test_a_checkpoint_is_scored_on_another_dataset(commands_here, tmp_path, samples):
    file = measuring.across(measuring.MODEL_CARDS / "lv-unet-busi", "lv-unet-busi", "BUSI", str(samples), tmp_path)
    assert file == tmp_path / "lv-unet-busi@BUSI.csv"
    with file.open(newline="") as rows:
        assert all(0 <= float(row["dice"]) <= 1 for row in csv.DictReader(rows))


@pytest.mark.slow
def test_a_checkpoint_is_scored_on_mirrored_copies(commands_here, tmp_path, samples, monkeypatch, capfd):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "BUSI").symlink_to(samples / "BUSI")
    monkeypatch.chdir(tmp_path)
    file = measuring.mirrored(measuring.MODEL_CARDS / "lv-unet-busi", "lv-unet-busi", tmp_path)
    assert "averaged over mirrored copies" in capfd.readouterr().out
    assert file == tmp_path / "lv-unet-busi+tta.csv"
    ids, scores = quality.read_scores(file)
    assert len(ids) > 0
    assert scores["dice"].min() > 0.5
