import numpy as np
import pytest
from PIL import Image

from segzoo.data import BUSI
from segzoo.data.samples import read_label, shipped_groups
from segzoo.errors import MissingError


@pytest.mark.parametrize("root", ["BUSI", "BUSI/Dataset_BUSI_with_GT", "."])
def test_root_may_be_the_folder_or_above(samples, root):
    assert len(BUSI(samples / root).samples()) == 8


def test_masks_of_one_image_are_merged(samples):
    double = next(s for s in BUSI(samples).samples() if s.id == "benign (181)")
    assert [p.name for p in double.masks] == ["benign (181)_mask.png", "benign (181)_mask_1.png"]
    first, second = (np.asarray(Image.open(path)) for path in double.masks)
    assert first.any()
    assert second.any()
    np.testing.assert_array_equal(read_label(double, 2, False), first | second)


def test_image_without_mask(tmp_path, draw, refused):
    root = tmp_path / "Dataset_BUSI_with_GT"
    draw(root / "malignant" / "malignant (1).png")
    draw(root / "malignant" / "malignant (1)_mask.png", mask=True)
    draw(root / "benign" / "benign (7).png")
    with refused(MissingError):
        BUSI(tmp_path).setup()


def test_normal_images_only_when_asked_for(tmp_path, draw):
    for name in ("benign", "malignant", "normal"):
        draw(tmp_path / name / f"{name} (1).png")
        draw(tmp_path / name / f"{name} (1)_mask.png", mask=True, high=0)
    assert {s.stratum for s in BUSI(tmp_path).samples()} == {"benign", "malignant"}
    assert {s.stratum for s in BUSI(tmp_path, normal=True).samples()} == {"benign", "malignant", "normal"}


def test_published_counts(shared):
    assert len(BUSI(shared / "data").samples()) == 647
    everything = BUSI(shared / "data" / "BUSI", normal=True).samples()
    kinds, counts = np.unique([s.stratum for s in everything], return_counts=True)
    assert dict(zip(kinds, counts, strict=True)) == {"benign": 437, "malignant": 210, "normal": 133}
    assert sum(len(s.masks) for s in everything) == 797


@pytest.mark.parametrize("normal", [False, True])
@pytest.mark.parametrize("fold", range(5))
def test_near_duplicates_stay_together(shared, fold, normal):
    split = BUSI(shared / "data", fold=fold, normal=normal).split_ids
    part_of = {i: part for part, ids in split.items() for i in ids}
    listed = {i: scene for i, scene in shipped_groups("busi_lookalikes").items() if normal or "normal" not in i}
    left_out = listed.keys() - part_of.keys()
    assert len(part_of) + len(left_out) == (780 if normal else 647)
    scenes = {part: {listed[i] for i in ids if i in listed} for part, ids in split.items()}
    assert not scenes["test"] & (scenes["train"] | scenes["val"])
    assert {listed[i] for i in left_out} <= scenes["train"] | scenes["val"]
    parts_of_group: dict[str, set[str]] = {}
    for image, group in shipped_groups("busi").items():
        if image in part_of:
            parts_of_group.setdefault(group, set()).add(part_of[image])
    assert all(len(parts) == 1 for parts in parts_of_group.values())


def test_how_many_images_have_a_near_copy_and_where_splits_leave_them(shared):
    """The figures of docs/data.md."""
    groups, scenes = shipped_groups("busi"), shipped_groups("busi_lookalikes")
    lesions = [sample.id for sample in BUSI(shared / "data").samples()]
    kind = {image: scenes.get(image, groups.get(image, image)) for image in lesions}  # a scene holds whole groups
    assert sum(list(kind.values()).count(kind[image]) > 1 for image in lesions) == 282
    random = BUSI(shared / "data", split="random-64-16-20").split_ids
    trained = {kind[image] for image in random["train"]}
    assert (sum(kind[image] in trained for image in random["test"]), len(random["test"])) == (36, 129)
    tested = [len(BUSI(shared / "data", fold=fold).split_ids["test"]) for fold in range(5)]
    assert (min(tested), max(tested)) == (95, 105)


def test_shipped_groups_hold_every_pair_of_the_list(shared):
    groups = shipped_groups("busi")
    lines = (shared / "data" / "BUSI" / "near_duplicates.csv").read_text().splitlines()[1:]
    assert len(lines) == 115
    for line in lines:
        first, second, _ = line.split(",")
        assert groups[first.removesuffix(".png")] == groups[second.removesuffix(".png")]


def test_split_of_the_published_checkpoint(shared):
    """The card's numbers stand on exactly these images."""
    data = BUSI(shared / "data")
    assert data.describe() == {
        "dataset": "BUSI",
        "split": "grouped",
        "fold": 0,
        "seed": 42,
        "split_sha256": "ca6788bec9bb8cdfaa3bf6f129d7567144f7a7d8042f08ec2dd6080764bb15df",
        "counts": {"train": 388, "val": 129, "test": 105},
        "longest_side": 320,
        "licence": "CC0-1.0",
        "image_size": [256, 256],
        "normal": False,
    }
