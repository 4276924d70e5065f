"""Weights of classes, from the labels of the training part."""

import numpy as np
import pytest
from PIL import Image

from segzoo.data import Decathlon, Folder
from segzoo.errors import SegzooError


def test_rare_classes_weigh_as_much_as_common_ones(folder_data):
    data = Folder(folder_data, class_weights="balanced", image_size=16)
    marked = 8 * 12 / (20 * 30)  # the rectangle of each mask
    assert data.loss_weights() == pytest.approx([0.5 / (1 - marked), 0.5 / marked])
    assert Folder(folder_data, image_size=16).loss_weights() is None


def test_each_class_of_a_multi_label_folder_has_a_pair(folder_data, draw):
    for number in range(10):
        draw(folder_data / "masks" / "one" / f"{number}.png", mask=True)
        two = draw(folder_data / "masks" / "two" / f"{number}.png", mask=True)
        Image.fromarray(255 - np.asarray(Image.open(two))).save(two)
    data = Folder(folder_data, class_names=("one", "two"), multilabel=True, class_weights="balanced", image_size=16)
    one, two = data.loss_weights()
    assert one == pytest.approx(two[::-1])
    assert one @ [1 - 0.16, 0.16] == pytest.approx(1)


def test_ignored_pixels_are_not_counted_and_volumes_are(folder_data, samples):
    for path in (folder_data / "masks").iterdir():
        mask = np.full((20, 30), 255, np.uint8)
        mask[0, :4] = 0, 0, 1, 2
        Image.fromarray(mask).save(path)
    data = Folder(folder_data, class_names=("a", "b", "c"), class_weights="balanced", image_size=16)
    assert data.loss_weights() == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    volumes = Decathlon(samples / "Task04_Hippocampus", split="all", class_weights="balanced")
    counts = sum(np.bincount(volumes.label_of(one).ravel()) for one in volumes.part_samples("train"))
    assert volumes.loss_weights() * counts == pytest.approx([counts.sum() / 3] * 3)


def test_a_class_that_nobody_has_marked_has_no_weight(folder_data, refused):
    data = Folder(folder_data, class_names=("background", "lesion", "vessel"), class_weights="balanced")
    for path in (folder_data / "masks").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(path)
    with refused(SegzooError):
        data.loss_weights()
    with refused(SegzooError):
        Folder(folder_data, class_weights="rare")
