"""What strangers write into JSON and into contracts: each in one sentence that names the place, or taken."""

import json
import os
import sys

import pytest

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.description import Learned
from segzoo.checkpoints.metadata import Metadata
from segzoo.checkpoints.parse import parse_json

CONFIG = {
    "format": 1,
    "model": {"name": "cmunext_s", "arguments": {"in_channels": 1, "num_classes": 1, "multilabel": False}},
    "preprocessing": {"channels": 1, "image_size": [32, 32], "mean": [0.5], "std": [0.25]},
    "class_names": ["background", "lesion"],
    "sha256": {"model.safetensors": "0" * 64},
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(text):
        (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(tmp_path)

    return write_and_read


def changed(**changes):
    return json.dumps({**CONFIG, **changes})


def of_model(**arguments):
    model = {**CONFIG["model"], "arguments": {**CONFIG["model"]["arguments"], **arguments}}
    return changed(model=model)


def test_what_is_good_is_taken(read):
    config = read(json.dumps(CONFIG))
    assert config.contract.std == (0.25,)
    assert parse_json(json.dumps([1, -2.5e-300, None, True, "\u00e9"]), "it") == [1, -2.5e-300, None, True, "\u00e9"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe{}",
        json.dumps(CONFIG).replace('"format": 1', '"format": NaN'),
        changed(metrics={"original": {"dice": float("inf")}}),
        changed(other=[1e308]).replace("1e+308", "1e999"),
        changed(other=2**63),
        changed(other=0).replace('"other": 0', '"other": ' + 5000 * "9"),
        changed(other="\ud800"),
        json.dumps(CONFIG)[:-1] + ', "format": 1}',
        changed(other=0).replace('"other": 0', '"other": ' + 40 * "[" + 40 * "]"),
        changed(other=0).replace('"other": 0', '"other": ' + 100_000 * "[" + 100_000 * "]"),
        changed(other="x" * 2**22),
    ],
    ids=str,
)
def test_what_is_no_json_or_goes_on_without_end_is_refused(read, text):
    with pytest.raises(segzoo.SegzooError, match=r"config\.json"):
        read(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ["a"]},
        {"version": 1},
        {"parameters": "many"},
        {"parameters": True},
        {"metrics": {"original": {"dice": "high"}}},
        {"metrics": {"images": [1]}},
        {"metrics": {"protocols": {"dice": 1}}},
        {"licences": {"weights": 7}},
        {"example": {"source": {}}},
        {"started_from": {"encoder_weights": 3}},
        {"data": {"dataset": ["BUSI"]}},
        {"data": {"datasets": 3}},
        {"data": {"datasets": [1]}},
        {"data": {"pretrained_on": {"a": 1}}},
        {"data": {"counts": {"test": "all"}}},
        {"data": {"channels": "MRI"}},
        {"preprocessing": [1]},
        {"sha256": {"model.safetensors": 5}},
        {"sha256": {"model.safetensors": "0" * 64, **{f"{number}.bin": "0" * 64 for number in range(200)}}},
    ],
    ids=str,
)
def test_facts_of_another_kind_are_refused_before_anybody_shows_them(read, changes):
    with pytest.raises(segzoo.SegzooError, match=r"config\.json"):
        read(changed(**changes))


@pytest.mark.parametrize(
    "arguments",
    [
        {"widths": [70_000] * 5},
        {"widths": [1] * 2000},
        {"depths": -70_000},
        {"num_classes": 5000},
        {"in_channels": 10**9},
    ],
    ids=str,
)
def test_numbers_that_no_model_has_are_refused(read, arguments):
    with pytest.raises(segzoo.SegzooError, match="SEGZOO_MAX_"):
        read(of_model(**arguments))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has none")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(segzoo.SegzooError, match=r"config\.json is a named pipe"):
        read_config(tmp_path)


def test_the_other_descriptions_are_held_to_the_same(tmp_path):
    metadata = {**CONFIG, "num_classes": 1, "multilabel": False, "precision": "float32"}
    assert Metadata.read(tmp_path / "mine.onnx", json.dumps(metadata)).precision == "float32"
    for text in ("NaN", 10**6 * "[", json.dumps({**metadata, "num_classes": 10**6})):
        with pytest.raises(segzoo.SegzooError, match=r"mine\.onnx"):
            Metadata.read(tmp_path / "mine.onnx", text)
    learned = {key: CONFIG[key] for key in ("preprocessing", "class_names")} | {"data": {}}
    assert Learned(learned).class_names == ("background", "lesion")
    for changes in (
        {"data": 3},
        {"class_names": [1]},
        {"preprocessing": {"mean": float("nan")}},
        {"data": {1: {2, 3}}},
    ):
        with pytest.raises(segzoo.SegzooError, match="Lightning's file"):
            Learned({**learned, **changes})


# ---- contracts

STRANGE = [float("nan"), float("inf"), -float("inf"), 1e-320, 1e30, 10**400, True, "1", None, [1]]


@pytest.mark.parametrize("value", STRANGE, ids=lambda value: str(value)[:8])
def test_every_number_of_a_contract_is_one_that_can_be_reckoned_with(value):
    volumes = {"intensity": "window", "window": (-100, 100), "mean": 0, "std": 1}
    assert segzoo.VolumePreprocessing(**volumes).std == 1
    for changes in ({"mean": value}, {"std": value}, {"window": (-1, value)}, {"spacing": (1, 1, value)}):
        if value == 1e-320 and "spacing" not in changes and "std" not in changes:
            continue  # as good as 0, which these may be
        with pytest.raises(segzoo.SegzooError):
            segzoo.VolumePreprocessing(**volumes | changes)
    for name in ("mean", "std") if value != 1e-320 else ("std",):
        with pytest.raises(segzoo.SegzooError, match=name):
            segzoo.Preprocessing(1, **{"mean": (0.5,), "std": (0.5,), name: (value,)})


@pytest.mark.parametrize("size", [(10**6, 10**6), (True, 5), (5.5, 5), "ab", (5,), (-1, 5)], ids=str)
def test_a_size_is_two_or_three_whole_numbers_that_fit(size):
    with pytest.raises(segzoo.SegzooError, match="image_size"):
        segzoo.Preprocessing(image_size=size)
    with pytest.raises(segzoo.SegzooError, match="patch_size"):
        segzoo.VolumePreprocessing(patch_size=(*size, 4096) if isinstance(size, tuple) else size)


def test_an_axis_is_mirrored_once():
    """Each doubles the work of a mirrored average."""
    with pytest.raises(segzoo.SegzooError, match="mirror_axes"):
        segzoo.VolumePreprocessing(mirror_axes=(0,) * 1000)
