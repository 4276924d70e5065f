"""benchmarks/orientation.py: volumes under a wrong header, and what is written of them."""

import numpy as np
import orientation
import pytest
import torch

import segzoo
from segzoo.catalogue import known_limit
from segzoo.data import Decathlon
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import read_volume

AXES = list(orientation.CHANGES.values())


def test_the_page_is_that_of_what_was_measured():
    rows = orientation.read(orientation.RESULTS)
    assert orientation.PAGE.read_text(encoding="utf-8") == orientation.page(rows)
    assert {row["checkpoint"] for row in rows} == set(orientation.CHECKPOINTS)
    assert len(rows) == len({(row["checkpoint"], row["change"], row["id"]) for row in rows})
    assert all(row["right_header"] == "same" for row in rows)


def test_the_cards_quote_what_was_measured():
    rows, quoted = orientation.read(orientation.RESULTS), known_limit({"dataset": "Task04_Hippocampus"})
    for name in orientation.CHECKPOINTS:
        for change in ("as stored", "left-right", "left-right and front-back"):
            own = [float(row["dice"]) for row in rows if (row["checkpoint"], row["change"]) == (name, change)]
            assert f"{np.mean(own):.2f}" in quoted


@pytest.mark.parametrize("letters", ["SAR", "LPI", "ARS"])
@pytest.mark.parametrize("axes", AXES)
def test_a_right_header_keeps_every_voxel_in_its_place(letters, axes):
    geometry = Geometry.along_axes((2, 3, 4), (3.0, 1.0, 2.0), letters)
    numbers = np.arange(24).reshape(1, 2, 3, 4)
    reversed_numbers = orientation.reverse(numbers, geometry, axes)
    indices = np.moveaxis(np.indices((2, 3, 4)), 0, -1).reshape(-1, 3)
    homogeneous = np.c_[indices, np.ones(24)]
    grid = orientation.reversed_grid(geometry, axes)
    places = (homogeneous @ grid.affine.T)[np.argsort(reversed_numbers.ravel())]
    np.testing.assert_allclose(places, homogeneous @ geometry.affine.T)
    assert ((reversed_numbers == numbers).all(), grid.orientation == letters) == (not axes, not axes)


@pytest.mark.parametrize("axes", AXES)
def test_masks_are_equal_where_the_header_is_right(samples, axes):
    volume = read_volume(samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz")
    torch.manual_seed(0)  # one of a hundred networks sees a single class everywhere
    model = segzoo.create_model("mednext_s_k3", num_classes=3, width=2)
    model.preprocessing = segzoo.VolumePreprocessing(patch_size=(64, 64, 64))
    flipped = orientation.reverse(volume.array, volume.geometry, axes)
    moved = orientation.Volume(flipped, orientation.reversed_grid(volume.geometry, axes))
    expected, found = model.predict(volume).mask, model.predict(moved).mask
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(orientation.reverse(found[None], volume.geometry, axes)[0], expected)


def test_only_what_was_validated_on_is_read_and_only_once(samples, tmp_path, monkeypatch):
    root, (name, _) = samples / "Task04_Hippocampus", orientation.CHECKPOINTS
    data = Decathlon(root, fold=1)
    model = segzoo.create_model("mednext_s_k3", num_classes=3, width=2)
    model.preprocessing = segzoo.VolumePreprocessing(patch_size=(64, 64, 64))
    model.data = data.describe()
    model.save_pretrained(tmp_path / name)
    monkeypatch.setattr(orientation, "MODEL_CARDS", tmp_path)
    read = []
    whole = orientation.read_image_volume
    monkeypatch.setattr(
        orientation, "read_image_volume", lambda sample, channels: read.append(sample.id) or whole(sample, channels)
    )
    rows = list(orientation.measure(name, root, []))
    assert read == data.split_ids["val"]
    assert [(row["change"], row["id"]) for row in rows] == [
        (change, one) for one in read for change in orientation.CHANGES
    ]
    assert {row["right_header"] for row in rows} == {"same"}
    assert [row["change"] for row in orientation.measure(name, root, rows[1:])] == ["as stored"]
    model.data["split_sha256"] = "other"
    model.save_pretrained(tmp_path / name)
    with pytest.raises(SystemExit):
        next(orientation.measure(name, root, []))
