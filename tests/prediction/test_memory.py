"""Memory that a volume's segmentation takes: by its voxels, and not by its windows."""

import tracemalloc
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import Volume
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.files import segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.window import slide
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.tasks import Task


@dataclass
class Thresholds:
    """A backend whose classes lie in ranges of the intensity."""

    task: Task
    class_names: tuple[str, ...] = ("background", "one", "two")
    contract = VolumePreprocessing(patch_size=(8, 8, 8), mirror_axes=())
    postprocessing = Postprocessing()
    batch_size, device, description, subject = 1, "cpu", "no network", "no network"

    def require_size(self, given: Any, file: object) -> None: ...

    def place(self, batch: Any) -> Any:
        return batch

    def compute(self, batch: Any) -> Any:
        return torch.cat([batch.sigmoid() * (index + 1) / 3 for index in range(self.task.num_classes)], 1)


def test_windows_are_let_go_as_they_are_put_in_place():
    alive: list[weakref.ref] = []
    most = []

    def run(windows: torch.Tensor) -> torch.Tensor:
        found = windows.sigmoid()
        alive.extend(map(weakref.ref, (windows, found)))
        most.append(sum(one() is not None for one in alive))
        return found

    for side in (16, 40):
        alive.clear()
        most.clear()
        slide(run, torch.rand(1, 1, side, side, side), (8, 8, 8))
        assert (len(most), max(most) <= 4) == ({16: 27, 40: 729}[side], True)


@pytest.mark.parametrize("shape", [(40, 60, 50), (1500, 2100)], ids=["volume", "image"])
@pytest.mark.parametrize("task", [Task(3, False), Task(2, True), Task(1, False)])
def test_a_mask_takes_little_beside_its_probabilities(task, shape, monkeypatch):
    monkeypatch.setattr("segzoo.prediction.pipeline.PART", 2**16)
    backend = Thresholds(task, ("background", "one", "two")[: task.named_classes])
    predictor = Pipeline(backend)  # type: ignore[arg-type]
    probabilities = np.random.default_rng(0).random((task.num_classes, *shape), dtype=np.float32)
    expected = task.mask(probabilities[None])[0]
    tracemalloc.start()
    mask = predictor.mask(probabilities)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(mask, expected)
    assert mask.dtype == np.uint8
    assert peak < 3 * mask.size


def test_large_pictures_are_kept_in_blocks_that_the_system_takes_back():
    """Of up to 32 MiB the C library may keep them for the thread that had them."""
    Image.core.set_block_size(2**24)  # Pillow's own
    list(segment_files(Pipeline(Thresholds(Task(1, False), ("background", "one"))), []))  # type: ignore[arg-type]
    assert Image.core.get_block_size() > 2**25


@pytest.mark.parametrize("left", [2_000, 10_000])  # bytes: not for the network's grid, not for the rest
def test_what_does_not_fit_is_refused_before_it_is_computed(monkeypatch, refused, left):
    predictor = Pipeline(Thresholds(Task(3, False)))  # type: ignore[arg-type]
    volume = Volume(np.random.default_rng(0).random((1, 10, 10, 10), dtype=np.float32), Geometry.along_axes((10,) * 3))
    assert predictor(volume).mask.shape == (10, 10, 10)
    monkeypatch.setattr(limits, "memory_left", lambda: left)
    with refused(SegzooError):
        predictor(volume)
