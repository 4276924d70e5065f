"""Metadata of exported files: what `segzoo export` writes is read back, and nothing else is taken for it."""

import json
from pathlib import Path

import pytest

import segzoo
from segzoo.catalogue import finding
from segzoo.checkpoints.metadata import Metadata
from segzoo.tasks import Task

FILE = Path("mine.onnx")


@pytest.fixture(scope="module")
def entries():
    model = segzoo.create_model("cmunext_s", num_classes=3)
    model.preprocessing = segzoo.Preprocessing(image_size=(96, 64))
    details = {"checkpoint": {"name": "mine"}, "licence": "MIT"}
    return Metadata.of(model, state_sha256="0", precision="float16", details=details).entries


def test_what_is_written_is_read_back(entries):
    found = Metadata.read(FILE, json.dumps(entries))
    assert found.entries == entries
    assert list(entries)[-1] == "precision"
    assert (found.name, found.precision, found.task, found.mask_names) == ("mine", "float16", Task(3), None)
    assert found.class_names == ("background", "class 1", "class 2")
    assert found.contract == segzoo.Preprocessing(image_size=(96, 64))
    nameless = {key: value for key, value in entries.items() if key != "checkpoint"}
    assert Metadata(nameless).name == "cmunext_s"


def test_every_channel_of_a_multi_label_file_has_its_mask(entries):
    of_channels = {**entries, "multilabel": True, "class_names": ["one", "two", "three"]}
    assert Metadata(of_channels).mask_names == ["one", "two", "three"]
    of_regions = Metadata({**of_channels, "region_values": [1, 3, 2]})
    assert (of_regions.mask_names, of_regions.task.region_values) == (None, (1, 3, 2))


def test_an_exported_file_knows_its_regions_and_channels():
    model = segzoo.create_model("mednext_s_k3", in_channels=2, num_classes=2, multilabel=True, width=4)
    model.preprocessing, model.task = segzoo.VolumePreprocessing(2), Task(2, True, (2, 1))
    found = Metadata.of(model, state_sha256="0", precision="float32", details={})
    assert (found.task, found.volume_channels) == (model.task, 2)


def test_a_file_says_what_it_was_trained_on_and_what_the_licences_are():
    model = segzoo.create_model("cmunext_s")
    model.data = {"dataset": "Hospital", "channels": ["MRI"], "ranges": {"size": [[64], [96]]}, "folder": "private"}
    details = {"checkpoint": {"licences": {"weights": "MIT", "data": None}}}
    found = Metadata.of(model, state_sha256="0", precision="float32", details=details)
    assert found.data == {name: value for name, value in model.data.items() if name != "folder"}
    assert found.licences == {"weights": "MIT", "data": None}
    model.data = {}
    assert (Metadata.of(model, state_sha256="0", precision="float32", details={}).licences) == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"dataset": "BUSI"}, "lesion in breast ultrasound"),
        ({"dataset": "KvasirSEG + CVCClinicDB"}, "lesion in colonoscopy"),
        ({"dataset": "BUSI + DSB2018"}, "lesion in breast ultrasound and microscopy of cells"),
        ({"dataset": "Task999_Liver", "channels": ["CT"]}, "lesion in CT"),
        ({"dataset": "Folder"}, "lesion"),
        ({}, "lesion"),
    ],
)
def test_what_is_found_in_what_is_said_as_far_as_it_is_known(data, words):
    assert finding(["lesion"], data) == words
    assert finding(["organ", "lesion"], data) == f"organ, {words}"


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": None},
        {"num_classes": "3"},
        {"num_classes": 0},
        {"model": "cmunext_s"},
        {"checkpoint": 1},
        {"preprocessing": {}},
        {"preprocessing": {"channels": 3, "image_size": 96}},
        {"preprocessing": {"channels": 1, "patch_size": [0]}},
        {"region_values": [1, 2, 3]},
        {"multilabel": True, "class_names": ["one", "two", "three"], "region_values": [1, 2]},
        {"multilabel": True, "class_names": ["one", "two", "three"], "region_values": [1, 2, 0]},
        {"checkpoint": {"licences": "MIT"}},
        {"checkpoint": {"licences": {"weights": ["MIT"]}}},
    ],
)
def test_strange_metadata_are_refused_by_the_files_name(entries, changes, refused):
    with refused(segzoo.SegzooError):
        Metadata.read(FILE, json.dumps({**entries, **changes}))


@pytest.mark.parametrize(
    "text",
    [None, "{oops", "[]"],
)
def test_what_segzoo_did_not_export_is_refused(text, refused):
    with refused(segzoo.SegzooError):
        Metadata.read(FILE, text)


def test_parts_that_are_lacking_are_named(entries, refused):
    lacking = {key: value for key, value in entries.items() if key not in ("precision", "model")}
    with refused(segzoo.SegzooError):
        Metadata.read(FILE, json.dumps(lacking))
