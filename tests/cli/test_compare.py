"""``segzoo compare``: anyone's scores image by image, compared."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo import cli
from segzoo.cli.compare import groups_of, read_scored, require_same_images, score_file, shared_metrics
from segzoo.errors import MissingError, SegzooError
from segzoo.metrics.statistics import interval, paired_differences

IMAGES = [f"image{number}" for number in range(12)]


def store(file: Path, names=IMAGES, head: str = "id", **scores) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow([head, *scores])
        writer.writerows(zip(names, *scores.values(), strict=True))
    return file


@pytest.fixture
def runs(tmp_path):
    """Three runs of `segzoo test`: the third is better on every image."""
    drawn = np.random.default_rng(0)
    dice = [drawn.uniform(0.3, 0.6, 12).round(3) for _ in range(2)]
    dice.append((dice[0] + 0.3).round(3))
    for name, values in zip("abc", dice, strict=True):
        rows = {"dice": values, "hd95": 100 * values, "dice_1": values}
        store(tmp_path / name / "test_per_image.csv", **rows)
    return tmp_path


def test_folders_of_tests_are_compared_pair_by_pair(runs, capsys):
    assert cli.main(["compare", *(str(runs / name) for name in "abc"), "--picture", str(runs / "c.png")]) == 0
    printed = capsys.readouterr().out
    scores = {name: read_scored(runs / name / "test_per_image.csv", name).scores["dice"] for name in "abc"}
    for name, values in scores.items():
        low, high = interval(values)
        row = next(line for line in printed.splitlines() if line.startswith(f"{name} "))
        assert f"{values.mean():.3f} [{low:.3f}, {high:.3f}]" in row
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    found = paired_differences([(scores[one], scores[two]) for one, two in pairs], [None] * 3)
    for (one, two), difference in zip(pairs, found, strict=True):
        assert f"{one} - {two}: {difference.mean:+.3f} [" in printed
        assert f"p = {difference.p:.4f}" in printed
    assert found[1].p < 0.05
    assert Image.open(runs / "c.png").size[0] > 1000


def test_images_of_a_group_count_together(runs, capsys):
    groups = store(runs / "groups.csv", [f"{name}.png" for name in IMAGES], "image", group=[1] * 6 + [2] * 6)
    assert cli.main(["compare", *(str(runs / name) for name in "ac"), "--groups", str(groups)]) == 0
    printed = capsys.readouterr().out
    assert "12 images, in 2 groups" in printed
    (p,) = re.findall(r"a - c: .* p = ([\d.]+)", printed)
    assert float(p) == pytest.approx(0.5, abs=0.02)  # 2 of the 2^2 ways to sign two groups are as far from 0


def test_images_in_folders_are_known_by_their_paths_too(tmp_path):
    groups = store(tmp_path / "groups.csv", ["p1/a.png", "p2/a.png"], "image", group=["x", "y"])
    assert groups_of(groups, ["p1/a", "p2/a"]).tolist() == [0, 1]


def test_images_without_a_score_are_left_out_and_said(tmp_path, capsys):
    one = store(tmp_path / "one.csv", ["a", "b", "c"], "image", dice=[0.5, 0.25, 0.75], hd95=[1, "", "inf"])
    two = store(tmp_path / "two.csv", ["c", "b", "a"], "image", dice=[0.5, 0.25, 1.0], hd95=[2, 3, 4])
    assert cli.main(["compare", str(one), str(two), "--metric", "hd95"]) == 0
    printed = capsys.readouterr().out
    assert "left out: 2 images without a hd95" in printed
    assert "one - two: -3.0 [" in printed


def test_other_columns_than_numbers_are_no_metrics(tmp_path):
    one = read_scored(store(tmp_path / "one.csv", ["b", "a"], "scan", dice=[0.5, 1], site=["x", "y"]), "one")
    assert (one.ids, list(one.scores), one.scores["dice"].tolist()) == (("a", "b"), ["dice"], [1, 0.5])


def test_models_scored_on_other_images_are_refused_by_name(tmp_path, refused):
    one, two = (store(tmp_path / f"{name}.csv", ["a", name], dice=[1, 0]) for name in ("one", "two"))
    with refused(SegzooError):
        require_same_images([read_scored(one, "one"), read_scored(two, "two")])


def test_what_is_no_table_of_scores_is_refused(tmp_path, refused):
    (tmp_path / "run").mkdir()
    with refused(MissingError):
        score_file(tmp_path / "run")
    with refused(SegzooError):
        read_scored(store(tmp_path / "empty.csv", [], dice=[]), "x")
    with refused(SegzooError):
        read_scored(store(tmp_path / "twice.csv", ["a", "a"], dice=[1, 0]), "x")
    with refused(SegzooError):
        read_scored(store(tmp_path / "words.csv", ["a"], said=["good"]), "x")
    (tmp_path / "ragged.csv").write_text("id,dice\na,1\nb\n")
    with refused(SegzooError):
        read_scored(tmp_path / "ragged.csv", "x")
    (tmp_path / "latin.csv").write_bytes(b"id,dice\n\xe4,1\n")
    with refused(SegzooError):
        read_scored(tmp_path / "latin.csv", "x")
    one = read_scored(store(tmp_path / "one.csv", ["a"], iou=[1]), "x")
    with refused(SegzooError):
        shared_metrics([one], "dice")
    with refused(SegzooError):
        groups_of(store(tmp_path / "groups.csv", ["z"], "image", group=["1"]), ["a"])


def test_a_picture_without_matplotlib_or_of_another_kind_is_refused_before_anything_is_read(runs, monkeypatch, capsys):
    assert cli.main(["compare", str(runs / "none"), "--picture", str(runs / "c.jpg")]) == 2
    assert "c.jpg" in capsys.readouterr().err
    monkeypatch.setattr("segzoo.metrics.scatter.find_spec", lambda name: None)
    assert cli.main(["compare", str(runs / "none"), "--picture", str(runs / "c.png")]) == 2
    assert "medsegzoo[pictures]" in capsys.readouterr().err


def test_more_images_than_fit_are_refused(runs, monkeypatch, capsys):
    monkeypatch.setattr("segzoo.limits.memory_left", lambda: 24 * 10_000 * 11)
    assert cli.main(["compare", str(runs / "a")]) == 2
    assert "12 images" in capsys.readouterr().err


def test_a_run_is_compared_by_the_test_in_its_folder(tmp_path, refused):
    store(tmp_path / "run" / "test_per_image.csv", dice=[0] * 12)  # perhaps of what the run started from
    own = store(tmp_path / "run" / "test-folder" / "test_per_image.csv", dice=[1] * 12)
    assert score_file(tmp_path / "run") == own
    store(tmp_path / "run" / "test-busi" / "test_per_image.csv", dice=[1] * 12)
    with refused(SegzooError):
        score_file(tmp_path / "run")


def test_comparing_needs_no_torch():
    code = "import sys, segzoo.cli.compare; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
