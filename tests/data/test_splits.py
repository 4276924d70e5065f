import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from segzoo.data.samples import Sample
from segzoo.data.splits import FOLDS, group_folds, make_split, split_sha256
from segzoo.errors import MissingError, SegzooError

# 100 images in 61 groups of one to six images, of two kinds
SIZES = [6, 5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2] + [1] * 49


def make_samples() -> list[Sample]:
    samples = []
    for group, size in enumerate(SIZES):
        for _ in range(size):
            name = f"image {len(samples)}"
            stratum = "rare" if group % 4 == 0 else "common"
            samples.append(Sample(name, Path(f"{name}.png"), (), f"group {group}", stratum))
    return samples


SAMPLES = make_samples()
GROUP = {sample.id: sample.group for sample in SAMPLES}
STRATUM = {sample.id: sample.stratum for sample in SAMPLES}


def test_grouped_never_parts_a_group():
    for fold in range(FOLDS):
        parts = make_split(SAMPLES, "grouped", fold, 42)
        groups = [{GROUP[i] for i in ids} for ids in parts.values()]
        assert sum(map(len, groups)) == len(SIZES)
        assert sum(map(len, parts.values())) == len(SAMPLES)


def test_grouped_tests_every_image_once_and_validates_on_the_next_fold():
    splits = [make_split(SAMPLES, "grouped", fold, 42) for fold in range(FOLDS)]
    assert sorted(i for split in splits for i in split["test"]) == sorted(GROUP)
    for fold in range(FOLDS):
        assert splits[fold]["val"] == splits[(fold + 1) % FOLDS]["test"]


def test_grouped_tests_no_image_that_another_part_shows_too():
    alike = {"image 0": "a", "image 30": "a", "image 60": "a", "image 90": "b", "image 91": "b"}
    samples = [replace(sample, lookalikes=alike.get(sample.id, "")) for sample in SAMPLES]
    left_out = set()
    for fold in range(FOLDS):
        plain, parts = (make_split(each, "grouped", fold, 42) for each in (SAMPLES, samples))
        assert parts["train"] == plain["train"]
        assert parts["val"] == plain["val"]
        elsewhere = {alike[i] for part in ("train", "val") for i in parts[part] if i in alike}
        expected = [i for i in plain["test"] if alike.get(i) not in elsewhere]
        assert parts["test"] == expected
        left_out |= set(plain["test"]) - set(parts["test"])
    assert left_out  # or this test would not have tested anything


def listed(path, **parts):
    path.write_text(json.dumps({"ids": parts}))
    return str(path)


def test_a_file_may_list_the_parts(tmp_path):
    parts = {"train": ["image 3", "image 1"], "val": ["image 0"], "test": ["image 0", "image 9"]}
    found = make_split(SAMPLES, listed(tmp_path / "mine.json", **parts), 0, 42)
    assert found == {"train": ["image 1", "image 3"], "val": ["image 0"], "test": ["image 0", "image 9"]}


@pytest.mark.parametrize(
    "parts",
    [
        {"train": ["image 1"], "val": ["image 2"]},
        {"train": 3, "val": [], "test": []},
        {"train": ["image 1"], "val": ["image 2"], "test": []},
        {"train": ["image 1"], "val": ["image 2"], "test": ["new", "newer"]},
        {"train": ["image 1"], "val": ["image 2"], "test": ["image 1"]},
    ],
)
def test_a_list_of_parts_that_cannot_be_used_is_refused(tmp_path, parts, refused):
    with refused(SegzooError):
        make_split(SAMPLES, listed(tmp_path / "mine.json", **parts), 0, 42)


def test_a_list_that_is_not_there_or_has_folds_is_refused(tmp_path, refused):
    with refused(MissingError):
        make_split(SAMPLES, str(tmp_path / "mine.json"), 0, 42)
    with refused(SegzooError):
        make_split(SAMPLES, listed(tmp_path / "mine.json"), 1, 42)


def test_folds_are_balanced_in_every_stratum():
    folds = group_folds(SAMPLES, 42)
    for stratum, total in Counter(STRATUM.values()).items():
        for ids in folds:
            assert abs(sum(STRATUM[i] == stratum for i in ids) - total / FOLDS) <= 1
    assert max(map(len, folds)) - min(map(len, folds)) <= 2


@pytest.mark.parametrize("split", ["grouped", "random-64-16-20", "random-70-30", "all"])
def test_order_of_files_does_not_matter(split):
    shuffled = random.Random(3).sample(SAMPLES, len(SAMPLES))
    assert make_split(SAMPLES, split, 0, 42) == make_split(shuffled, split, 0, 42)


@pytest.mark.parametrize("split", ["grouped", "random-64-16-20", "random-70-30"])
def test_seed_matters(split):
    assert make_split(SAMPLES, split, 0, 1) != make_split(SAMPLES, split, 0, 2)


def test_random_splits():
    parts = make_split(SAMPLES, "random-64-16-20", 0, 42)
    assert {part: len(ids) for part, ids in parts.items()} == _shares(64, 16, 20)
    assert sorted(i for ids in parts.values() for i in ids) == sorted(GROUP)
    parts = make_split(SAMPLES, "random-70-30", 0, 42)
    assert {part: len(ids) for part, ids in parts.items()} == _shares(70, 30, 30)
    assert parts["val"] == parts["test"]
    assert not set(parts["train"]) & set(parts["test"])


def _shares(*percent: int) -> dict[str, int]:
    shares = dict(zip(("train", "val", "test"), (round(len(SAMPLES) * p / 100) for p in percent), strict=True))
    return shares | {"train": len(SAMPLES) - shares["test"] - (shares["val"] if len(set(percent)) == 3 else 0)}


def test_all_is_everything_everywhere():
    parts = make_split(SAMPLES, "all", 0, 42)
    assert parts["train"] == parts["val"] == parts["test"] == sorted(GROUP)


@pytest.mark.parametrize(
    ("split", "sha256"),
    [
        ("grouped", "60d899b59442755aa696dc5801a520f8d940043898776685e7899fbf8ad6ffa4"),
        ("random-64-16-20", "6186e2068ff37fdccfabf00eeff7f2b1339e83346886f57b34051e09e1cead2b"),
    ],
)
def test_frozen(split, sha256):
    """The splits that published checkpoints were made with must never change."""
    assert split_sha256(make_split(SAMPLES, split, 0, 42)) == sha256


@pytest.mark.parametrize(
    ("split", "fold"),
    [
        ("group", 0),
        ("grouped", 5),
        ("grouped", -1),
        ("random-70-30", 1),
    ],
)
def test_unknown_choice(split, fold, refused):
    with refused(SegzooError):
        make_split(SAMPLES, split, fold, 42)


def test_too_few(refused):
    two_groups = [s for s in SAMPLES if s.group in ("group 0", "group 1")]
    with refused(SegzooError):
        make_split(two_groups, "grouped", 0, 42)
    with refused(SegzooError):
        make_split(SAMPLES[:1], "random-70-30", 0, 42)
