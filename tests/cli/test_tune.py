"""``segzoo tune``: post-processing that helps on the validation images, and a new folder with it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.opened import pin_of
from segzoo.checkpoints.weights import read_safetensors, sha256, write_safetensors
from segzoo.cli.command import main
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.hub.tuned import next_version, write_tuned
from segzoo.hub.verify import verify
from segzoo.imaging.segmentation import Segmentation
from segzoo.metrics.score_file import read_image_scores
from segzoo.postprocessing import DOUBTS, Cleaning, Postprocessing
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend
from segzoo.prediction.tuning import Tuner, keep
from segzoo.tasks import Task

VAL, TRAIN, TEST = 6, 1, 1  # of the eight images


@pytest.fixture(scope="module")
def data(samples: Path, tmp_path_factory) -> Path:
    """The sample images as a folder of one's own, by a split whose test part cannot be decoded."""
    root = tmp_path_factory.mktemp("data")
    for name in ("images", "masks"):
        (root / name).mkdir()
    images = sorted(file for file in (samples / "BUSI").rglob("*.png") if "_mask" not in file.stem)
    for file in images:
        shutil.copy(file, root / "images")
        masks = [np.asarray(Image.open(mask).convert("L")) for mask in file.parent.glob(f"{file.stem}_mask*.png")]
        Image.fromarray(np.maximum.reduce(masks)).save(root / "masks" / file.name)
    names = [file.stem for file in images]
    parts = {"val": names[:VAL], "train": names[VAL : VAL + TRAIN], "test": names[VAL + TRAIN :]}
    (root / "split.json").write_text(json.dumps({"ids": parts}))
    for name in parts["test"]:
        file = root / "images" / f"{name}.png"
        file.write_bytes(file.read_bytes()[:100])  # the header, and no more
    return root


@pytest.fixture(scope="module")
def biased(tmp_path_factory) -> Path:
    """The zoo's checkpoint for these images, spoiled: it calls too much a lesion."""
    model = segzoo.from_pretrained("lv-unet-busi")
    with torch.no_grad():
        model.head.bias.add_(3.0)
    model.data = {}
    return model.save_pretrained(tmp_path_factory.mktemp("biased") / "biased", dtype="float16")


def options(checkpoint: Path, data: Path, output: Path) -> list[str]:
    split = ["--data.split", str(data / "split.json")]
    where = ["--data", "Folder", "--data.root", str(data), *split, "--output", str(output), "--device", "cpu"]
    return ["tune", str(checkpoint), *where]


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def tuned(biased, data, tmp_path_factory) -> Path:
    """What tuning that one writes."""
    before, output = files_of(biased), tmp_path_factory.mktemp("new") / "tuned"
    assert main(options(biased, data, output)) == 0
    assert files_of(biased) == before
    assert [*output.parent.iterdir()] == [output]  # nothing left of what was kept meanwhile
    return output


def test_what_helps_on_the_validation_images_is_in_the_new_folder(biased, tuned, data):
    config = read_config(tuned)
    found = config.postprocessing
    assert found.classes["lesion"].threshold > 0.5
    assert (found.tuned["images"], found.tuned["data"]["dataset"]) == (VAL, "Folder")
    assert found.tuned["after"]["dice"] > found.tuned["before"]["dice"]
    assert (config.version, config.name, config.metrics) == ("1.1", "biased", None)
    assert config.sha256 == read_config(biased).sha256
    card = (tuned / "README.md").read_text()
    assert f"- lesion: {found.classes['lesion']}." in card
    assert found.doubt == min(found.tuned["doubt"], key=found.tuned["doubt"].get)
    assert f"{DOUBTS[found.doubt]} (rank correlation with Dice on the validation images: -0." in card
    assert f"| ECE near boundaries | {found.tuned['before']['ece_boundary']:.4f} |" in card
    (train,) = json.loads((data / "split.json").read_text())["ids"]["train"]
    size = Image.open(data / "images" / f"{train}.png").size
    assert config.data["ranges"]["size"] == [[*reversed(size)]] * 2
    assert segzoo.from_pretrained(tuned).postprocessing == found


def test_a_published_checkpoint_becomes_one_of_the_next_version_that_verifies(tmp_path, refused):
    folder, described = tmp_path / "lv-unet-busi", Postprocessing({"lesion": Cleaning(threshold=0.4)})
    published = open_checkpoint("lv-unet-busi")
    write_tuned(published, segzoo.from_pretrained("lv-unet-busi"), described, folder)
    assert str(described) in verify(folder)
    assert (pin_of(published.config), pin_of(read_config(folder))) == ("lv-unet-busi", None)
    card = (folder / "README.md").read_text()
    assert "the tag `v1.1`" in card
    assert 'revision="v1.1"' not in card.partition("On the Hub")[0]  # which nobody has published yet
    probe = read_safetensors(folder / PROBE)
    write_safetensors({**probe, "mask": 1 - probe["mask"]}, folder / PROBE)
    other = read_config(folder).changed(sha256=read_config(folder).sha256 | {PROBE: sha256(folder / PROBE)})
    (folder / "config.json").write_text(other.text())
    with refused(SegzooError):
        verify(folder)
    assert [next_version(version) for version in ("1.9", "2", "1.0-rc1")] == ["1.10", "3", "1.0-rc2"]


def test_test_scores_what_is_given_out_and_raw_what_is_not_cleaned(tuned, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    split = tmp_path / "split.json"
    ids = json.loads((data / "split.json").read_text())["ids"]
    split.write_text(json.dumps({"ids": {**ids, "test": ids["val"], "val": ids["test"]}}))
    found = read_config(tuned).postprocessing.tuned
    where = ["--data", "Folder", "--data.root", str(data), "--data.split", str(split), "--trainer.accelerator", "cpu"]
    for extra, expected in (["--raw", "true"], "before"), ([], "after"):
        assert main(["test", "--model", str(tuned), *where, *extra, "--calibration", "true"]) == 0
        rows = read_image_scores(Path("runs/biased-folder-test/test_per_image.csv"))
        for name in ("dice", "ece", "ece_boundary"):  # a fused network rounds otherwise
            assert np.mean([float(row[name]) for row in rows]) == pytest.approx(found[expected][name], abs=1e-3)
        assert all(0 < float(row["doubt"]) < 1 for row in rows)
        said = capsys.readouterr().out
        (near,) = re.findall(r"ECE near boundaries: (\S+) ", said)
        assert float(near) == pytest.approx(found[expected]["ece_boundary"], abs=1e-3)
        assert DOUBTS["entropy" if extra else read_config(tuned).postprocessing.doubt] in said
        assert "the worst tenth (1 of 6)" in said
        assert len(read_image_scores(Path("runs/biased-folder-test/reliability.csv"))) == 15


def test_predict_cleans_and_raw_does_not(tuned, data, tmp_path):
    found = Pipeline(TorchBackend(segzoo.from_pretrained(tuned).deploy()), raw=True)
    given = {name: found(data / "images" / name) for name in ("benign (190).png", "benign (84).png")}
    for options in ["--raw"], []:  # into one folder: what the other has made is made anew
        files = [str(data / "images" / name) for name in given]
        assert main(["predict", str(tuned), *files, "--output", str(tmp_path), "--device", "cpu", *options]) == 0
        same = [np.array_equal(np.asarray(Image.open(tmp_path / name)), raw.mask) for name, raw in given.items()]
        assert all(same) == (options == ["--raw"])


def test_where_nothing_helps_the_new_folder_is_a_copy_and_that_is_said(biased, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("segzoo.prediction.tuning.interval", lambda changes, groups: (0.0, 0.1))
    monkeypatch.setattr("segzoo.prediction.tuning.rank_correlation", lambda doubts, dice: 0.1)
    assert main([*options(biased, data, tmp_path / "same"), "--ranges", "false"]) == 0
    assert files_of(tmp_path / "same") == files_of(biased)
    said = capsys.readouterr().out
    assert "taken" not in said
    assert "nothing" in said.splitlines()[-1]


def refusal(arguments: list[str], capsys) -> str:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_cannot_be_tuned_is_refused(biased, data, samples, tmp_path, capsys):
    assert "images" in refusal(options(biased, data, data / "images"), capsys)  # which are there
    assert "output" in refusal(options(biased, data, tmp_path / "new")[:-4], capsys)
    seen = ["tune", "lv-unet-busi", "--data", "BUSI", "--data.root", str(samples / "BUSI"), "--output"]
    assert "BUSI" in refusal([*seen, str(tmp_path / "new")], capsys)  # split otherwise than it was trained on
    assert not (tmp_path / "new").exists()


# ---- the rule


TRUTH = np.zeros((2, 24, 24), np.int16)  # of two classes, a square each
TRUTH[0, 4:12, 4:12] = TRUTH[1, 14:20, 12:20] = 1


def found(number: int) -> np.ndarray:
    """Probabilities of a case: the first class with a hole, a speck and a rim, the second as it is."""
    p = 0.9 * TRUTH + 0.05
    p[0, 3:13, 3] = p[0, 3, 3:13] = 0.57
    p[0, 6:9, 6:8] = 0.2
    p[0, 20:22, number : number + 2] = 0.8
    return p.astype(np.float32)


def tuner(folder: Path, groups: list[str], multilabel: bool) -> Tuner:
    task, names = (Task(2, True), ("one", "two")) if multilabel else (Task(3), ("background", "one", "two"))
    label = TRUTH if multilabel else (TRUTH[0] + 2 * TRUTH[1]).astype(np.int16)
    cases = []
    for number, group in enumerate(groups):
        p = found(number)
        if not multilabel:
            p = np.stack([np.maximum(1 - p.sum(axis=0), 0.01), *p])
            p /= p.sum(axis=0)
        image = Segmentation(np.zeros(0), p, names)
        cases.append(keep(folder, number, group, image, label))
    return Tuner(cases, task, names, 2)


@pytest.mark.parametrize("multilabel", [False, True])
def test_each_step_is_taken_where_it_helps_and_for_the_class_that_it_helps(tmp_path, multilabel):
    choice = tuner(tmp_path, list("abcdef"), multilabel).choose()
    one = choice.described.classes["one"]
    assert one.threshold == 0.6
    assert one.filled_holes
    assert 4 < one.smallest_part < 64
    assert not one.largest_component  # there was nothing left for it to do
    assert not choice.described.classes.get("two", Cleaning())
    assert {name: choice.after[name] for name in ("dice", "components")} == {"dice": 1.0, "components": 1.0}
    assert choice.before["dice"] < 0.95
    assert choice.before["components"] == 1.5
    steps = [trial.step for trial in choice.trials if trial.taken and trial.name in ("one", "two")]
    assert steps == ["threshold", "filled_holes", "smallest_part"]


@pytest.mark.parametrize("multilabel", [False, True])
def test_a_temperature_makes_sure_what_is_not_sure_enough_and_doubt_is_chosen_by_rank(tmp_path, multilabel):
    made = tuner(tmp_path, list("abcdef"), multilabel)
    doubts = [{"entropy": 0.5, "flips": number / 10, "members": -number / 10} for number in range(6)]
    made.cases = [replace(case, doubts=one) for case, one in zip(made.cases, doubts, strict=True)]
    trial = made.temperature(Postprocessing())
    assert trial.taken
    assert trial.value < 1
    p = made.pixels(0, made.cases[0])
    steps = [made.losses([p], trial.value * factor)[0] for factor in (0.8, 1, 1.25)]
    assert steps[1] == min(steps)
    errors = [made.errors(Postprocessing(temperature=one)) for one in (1, trial.value)]
    assert errors[1]["ece"] < errors[0]["ece"]
    dice = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert made.correlations(dice) == {"flips": -1, "members": 1}  # a constant has no rank


def test_too_few_groups_are_refused(tmp_path, refused):
    with refused(SegzooError):
        tuner(tmp_path, list("abcdaa"), True)
