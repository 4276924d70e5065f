import json

import pytest

from segzoo.data import BUSI, Folder, Joint
from segzoo.errors import SegzooError


@pytest.fixture
def joint(samples, folder_data):
    busi = BUSI(samples / "BUSI", split="all")
    return Joint([busi, Folder(folder_data, fold=1)], image_size=16, batch_size=4)


def test_every_dataset_keeps_its_own_split(joint, folder_data):
    own = Folder(folder_data, fold=1).split_ids
    for part, ids in joint.split_ids.items():
        assert [name.removeprefix("1-Folder/") for name in ids if name.startswith("1-")] == own[part]
        assert sum(name.startswith("0-BUSI/") for name in ids) == 8
    assert joint.describe()["counts"]["train"] == 8 + len(own["train"])
    assert [facts["dataset"] for facts in joint.describe()["datasets"]] == ["BUSI", "Folder"]
    assert all("image_size" not in facts for facts in joint.describe()["datasets"])  # the joint one is used


def test_every_dataset_says_what_it_holds(joint):
    assert [line.partition(":")[0] for line in joint.summary()] == ["BUSI", "Folder", "Folder"]


def test_the_written_split_says_how_each_dataset_is_split(joint, tmp_path):
    joint.write_split(tmp_path / "split.json")
    record = json.loads((tmp_path / "split.json").read_text())
    assert (record["name"], record["sha256"], record["ids"]) == ("Joint", joint.split_sha256, joint.split_ids)
    assert [(own["name"], own["split"], own["fold"]) for own in record["datasets"]] == [
        ("BUSI", "all", 0),
        ("Folder", "grouped", 1),
    ]
    assert [own["sha256"] for own in record["datasets"]] == [data.split_sha256 for data in joint.datasets]
    assert not {"split", "fold", "seed"} & set(record)  # which Joint has, and does not use


def test_batches_mix_the_datasets(joint):
    batches = list(joint.train_dataloader())
    assert {tuple(batch["image"].shape[1:]) for batch in batches} == {(3, 16, 16)}
    assert sorted(name for batch in batches for name in batch["id"]) == joint.split_ids["train"]


def test_only_binary_datasets_go_together(folder_data, refused):
    with refused(SegzooError):
        Joint([Folder(folder_data, class_names=("background", "a", "b"))])
    with refused(SegzooError):
        Joint([])
