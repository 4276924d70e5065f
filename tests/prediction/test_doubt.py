"""Temperature, doubt, and what of an input is unlike the training data: in the pipeline, and in the report of a run."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_slabs import Convolution

import segzoo
from segzoo.cli.command import main
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import Volume
from segzoo.metrics.calibration import BAND
from segzoo.postprocessing import DOUBTS, Cleaning, Postprocessing
from segzoo.prediction.doubt import agreement, entropies, near_boundary
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend
from segzoo.tasks import Task

RANGES = {"channels": [[1], [1]], "size": [[20, 20], [60, 60]], "intensity": [[0, 100, 200], [10, 150, 255]]}


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> segzoo.SegmentationModule:
    torch.manual_seed(0)
    made = segzoo.create_model("cmunext_s", num_classes=3).eval()
    made.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    made.class_names = ("background", "lesion", "cyst")
    return made


def pipeline(network, described: Postprocessing | None = None, **how) -> Pipeline:
    backend = TorchBackend(network)
    backend.postprocessing = described or Postprocessing()
    return Pipeline(backend, **how)


# ---- temperature


@pytest.mark.parametrize("task", [Task(1), Task(3), Task(2, True)])
def test_a_temperature_divides_logits(task):
    logits = torch.tensor([[-30.0, -1, 0, 2, 30]] * task.num_classes)[None] + torch.arange(task.num_classes)[:, None]
    found = task.tempered(task.activate(logits), 2.5)
    torch.testing.assert_close(found, task.activate(logits / 2.5), atol=2e-4, rtol=0)
    above = np.full((1, task.num_classes, 4), np.float32(1 + 1e-6) if task.independent else 0.5)
    assert np.isfinite(task.tempered(above, 3.0)).all()  # as resizing may leave them


@pytest.mark.parametrize("cleaning", [Cleaning(), Cleaning(threshold=0.3, filled_holes=True)])
def test_no_mask_changes_by_a_temperature(model, cleaning):
    described = Postprocessing({"lesion": cleaning})
    without = pipeline(model, described)(image())
    found = pipeline(model, replace(described, temperature=3.0))(image())
    np.testing.assert_array_equal(found.mask, without.mask)
    root = np.cbrt(without.probabilities)
    np.testing.assert_allclose(found.probabilities, root / root.sum(0), atol=1e-6)
    raw = pipeline(model, replace(described, temperature=3.0), raw=True)(image())
    np.testing.assert_array_equal(raw.probabilities, without.probabilities)


def test_a_volume_has_it_too_and_a_doubt_without_being_held():
    contract = segzoo.VolumePreprocessing(spacing=(1, 1, 1), patch_size=(16, 16, 16))
    backend = Convolution(Task(2), contract)
    array = np.random.default_rng(0).normal(size=(1, 24, 16, 8)).astype(np.float32)
    volume = Volume(array, Geometry.along_axes((24, 16, 8), spacing=(1, 1, 5)))
    kinds = ("entropy", "flips")
    without = Pipeline(backend)(volume)
    streamed = Pipeline(backend, doubt=kinds, keep=None)(volume)
    backend.postprocessing = Postprocessing(temperature=0.5)
    whole = Pipeline(backend, doubt=kinds)(volume)
    np.testing.assert_array_equal(whole.mask, without.mask)
    squared = without.probabilities**2
    np.testing.assert_allclose(whole.probabilities, squared / squared.sum(0), atol=1e-6)
    assert whole.doubts["entropy"] == near_boundary(entropies(without.probabilities, Task(2)), without.mask)
    assert 0 < whole.doubts["flips"] < 1
    assert whole.unlike == ("spacing in mm 1 x 1 x 5 (the model expects 0.5..2 x 0.5..2 x 0.5..2)",)
    assert streamed.doubts == whole.doubts
    assert not len(streamed.probabilities)


@pytest.mark.parametrize(
    "entry", [{"temperature": 0}, {"temperature": "2"}, {"doubt": "feeling"}, {"tuned": {"doubt": 1}}]
)
def test_what_is_none_is_refused(entry, refused):
    with refused(SegzooError):
        Postprocessing.from_dict({"classes": {}, **entry}, Task(1), ("background", "x"), 2)


# ---- doubt


def test_entropy_is_taken_near_boundaries_or_where_it_is_largest():
    task, p = Task(1), np.zeros((1, 60, 60), np.float32)
    p[0, 20:40, 20:40] = 1
    p[0, 0, 0] = 0.5  # too far away from any boundary
    assert near_boundary(entropies(p, task), (p[0] > 0.5).astype(int)) == pytest.approx(0, abs=1e-3)
    p[0, 30 - BAND - 12 : 31 - BAND, 20:40] = 0.5
    assert near_boundary(entropies(p, task), (p[0] > 0.5).astype(int)) > 0.05
    nothing = np.zeros((1, 60, 60), np.float32)
    nothing[0, 30, 30] = 0.5
    assert near_boundary(entropies(nothing, task), np.zeros((60, 60), int)) == pytest.approx(1 / (2 * BAND - 1) ** 2)
    even = entropies(np.full((4, 2, 2), 0.25), Task(4))
    np.testing.assert_allclose(even, 1)


def test_masks_agree_by_their_dice():
    one, other = np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]])
    assert agreement(one, other, Task(3)) == pytest.approx(2 / 3)
    assert agreement(one, one, Task(4)) == 1  # of a class that neither has, too
    assert agreement(one[None] > 1, other[None] > 1, Task(1, True)) == pytest.approx(2 / 3)


def test_flips_and_members_are_what_other_masks_lack_of_agreeing(model):
    torch.manual_seed(1)
    second = segzoo.create_model("cmunext_s", num_classes=3).eval()
    second.preprocessing, second.class_names = model.preprocessing, model.class_names
    ensemble = segzoo.Ensemble([model, second])
    found = pipeline(ensemble, doubt=tuple(DOUBTS))(image())
    members = [pipeline(one)(image()).mask for one in (model, second)]
    expected = 1 - np.mean([agreement(found.mask, one, model.task) for one in members])
    assert found.doubts["members"] == pytest.approx(expected)
    flipped = [np.flip(pipeline(ensemble)(np.flip(image(), axis)).mask, axis) for axis in (0, 1)]
    expected = 1 - np.mean([agreement(found.mask, one, model.task) for one in flipped])
    assert found.doubts["flips"] == pytest.approx(expected, abs=0.01)  # resizing rounds otherwise
    assert found.doubt == found.doubts["entropy"]
    assert pipeline(model)(image()).doubt is None
    alone = pipeline(model, Postprocessing(doubt="members"), doubt=("chosen",))
    assert list(alone(image()).doubts) == ["entropy"]
    assert "members" in alone.description


# ---- the report


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory) -> Path:
    model.postprocessing, model.data = Postprocessing(doubt="flips"), {"ranges": RANGES}
    folder = model.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny")
    model.postprocessing, model.data = Postprocessing(), {}
    return folder


def report_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def test_the_report_lists_doubt_first_and_covers_what_was_done_before(checkpoint, tmp_path, capsys):
    images, output = tmp_path / "in", tmp_path / "masks"
    images.mkdir()
    for name, pixels in ("a", image()), ("b", image(1)[..., 0]), ("c", image(2)[:30, :15, 0]):
        Image.fromarray(pixels).save(images / f"{name}.png")
    command = ["predict", str(checkpoint), str(images), "--output", str(output), "--device", "cpu"]
    assert main(command) == 0  # masks without a report
    assert main([*command, "--report"]) == 0
    rows, whole = report_of(output / "report.csv"), (output / "report.csv").read_bytes()
    doubts = [float(row["doubt"]) for row in rows]
    assert sorted(row["case"] for row in rows) == ["a", "b", "c"]
    assert doubts == sorted(doubts, reverse=True)
    assert {row["doubt_by"] for row in rows} == {"flips"}
    unlike = {row["case"]: row["unlike"] for row in rows}
    assert unlike["a"] == "channels 3 (in training 1)"
    assert unlike["b"] == ""
    assert unlike["c"] == "size 30 x 15 (in training 20..60 x 20..60)"
    said = capsys.readouterr().err
    assert f"by doubt: {rows[0]['case']} ({doubts[0]:.3f}" in said
    assert "2 of 3" in said
    (output / f"{rows[1]['case']}.png").unlink()  # as where it was killed
    (output / "report.csv").write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    measured = tmp_path / "sizes.csv"
    assert main([*command, "--report", "--measure", str(measured)]) == 0
    assert (output / "report.csv").read_bytes() == whole
    assert {row["case"]: row["doubt"] for row in report_of(measured)} == {row["case"]: row["doubt"] for row in rows}
    assert "1 of 3 were done before" in capsys.readouterr().out


def test_a_report_is_a_table_of_its_own(checkpoint, tmp_path, capsys):
    file = tmp_path / "a.png"
    Image.fromarray(image()).save(file)
    command = ["predict", str(checkpoint), str(file), "--output", str(tmp_path / "masks"), "--device", "cpu"]
    other = tmp_path / "other.csv"
    other.write_text("image,dice\n")
    for wrong in ["--report", str(file)], ["--report", str(other)], ["--report", "x.csv", "--measure", "x.csv"]:
        assert main([*command, *wrong]) == 2
        assert wrong[0] in capsys.readouterr().err
    assert other.read_text() == "image,dice\n"
