"""Masks of regions: several that overlap, in one file."""

import numpy as np
import pytest

import segzoo
from segzoo.errors import SegzooError
from segzoo.imaging.masks import read_mask
from segzoo.tasks import Task

WHOLE = np.array([[1, 1, 1, 0]])
CORE = np.array([[0, 1, 1, 0]])
TIP = np.array([[0, 0, 1, 1]])


def of(*masks: np.ndarray, values: tuple[int, ...] = ()) -> segzoo.Segmentation:
    mask = np.stack(masks).astype(np.uint8)
    return segzoo.Segmentation(mask, mask.astype(np.float32), tuple("abc"[: len(mask)]), region_values=values)


@pytest.mark.parametrize(("values", "expected"), [((1, 2, 3), [1, 2, 3, 3]), ((3, 1, 300), [3, 1, 300, 300])])
def test_regions_are_written_over_each_other_in_their_order(values, expected, tmp_path):
    found = of(WHOLE, CORE, TIP, values=values)
    assert found.label_map().tolist() == [expected]
    if max(values) < 256:
        found.save(tmp_path / "mask.png")
        assert [file.name for file in tmp_path.iterdir()] == ["mask.png"]
        assert read_mask(tmp_path / "mask.png", binary=False).tolist() == [expected]
    assert [mask.tolist() for mask in found.class_masks()] == [one.astype(bool).tolist() for one in (WHOLE, CORE, TIP)]


def test_classes_that_overlap_have_no_label_map(tmp_path, refused):
    found = of(WHOLE, CORE)
    with refused(SegzooError):
        found.label_map()
    found.save(tmp_path / "mask.png")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mask_a.png", "mask_b.png"]


@pytest.mark.parametrize(("classes", "multilabel", "values"), [(2, False, (1, 2)), (2, True, (1,)), (2, True, (0, 1))])
def test_values_that_no_regions_have(classes, multilabel, values, refused):
    with refused(SegzooError):
        Task(classes, multilabel, values)
