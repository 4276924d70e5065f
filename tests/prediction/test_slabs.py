"""A volume's mask row by row: to the bit that of the whole, and never more of its probabilities than a window long."""

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch.nn import functional as F

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import Volume
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.window import slide, slide_along, window_weights
from segzoo.preprocessing.rows import resample_rows
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.tasks import Task


class Convolution:
    """A backend of one convolution, whose classes lie close together."""

    batch_size, device, description, subject = 1, "cpu", "no network", "no network"
    postprocessing = Postprocessing()
    members, ranges = (), {}

    def __init__(self, task: Task, contract: VolumePreprocessing) -> None:
        self.task, self.contract = task, contract
        self.class_names = tuple(f"class {number}" for number in range(task.named_classes))
        self.weight = torch.randn(task.num_classes, 1, 3, 3, 3, generator=torch.Generator().manual_seed(0)) / 3

    def require_size(self, given: Any, file: object) -> None: ...

    def place(self, batch: Any) -> torch.Tensor:
        return torch.as_tensor(batch)

    def compute(self, batch: torch.Tensor) -> torch.Tensor:
        return self.task.activate(F.conv3d(batch, self.weight, padding=1))

    def flip(self, batch: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        return batch.flip(axes)


def windows_of_three(windows: torch.Tensor) -> torch.Tensor:
    return torch.cat([windows.sigmoid(), windows.cos().abs(), windows.abs() / 9], dim=1)


@pytest.mark.parametrize(
    ("size", "patch", "overlap"),
    [
        ((21, 9, 14), (8, 4, 6), 0.5),
        ((21, 9, 14), (8, 4, 6), 0),
        ((21, 9, 14), (5, 9, 3), 0.3),
        ((9, 21, 14), (9, 5, 5), 0.8),
        ((7, 30, 8), (64, 4, 64), 0.25),
        ((6, 6, 6), (8, 8, 8), 0.5),
    ],
)
def test_windows_are_monais_to_the_bit(size, patch, overlap):
    batch = torch.randn(2, 1, *size)
    window = tuple(map(min, patch, size))
    expected = sliding_window_inference(
        batch, window, 1, windows_of_three, overlap=overlap, roi_weight_map=window_weights(window)
    )
    found = slide(windows_of_three, batch, patch, overlap=overlap)
    np.testing.assert_allclose(found, windows_of_three(batch), atol=1e-6)
    if window != size:
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("own", "size"),
    [
        ((7, 5, 5), (9, 4, 6)),
        ((9, 4, 6), (7, 5, 5)),
        ((1, 3, 4), (5, 6, 4)),
        ((6, 3, 4), (1, 3, 4)),
        ((6, 3, 4), (6, 5, 2)),
        ((2, 3, 4), (2 * 2, 3, 4)),  # of which two rows lie before the first
        ((3, 2, 2), (40, 2, 2)),
        ((733, 2, 2), (600, 2, 3)),
        ((600, 2, 2), (733, 2, 3)),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_rows_are_resampled_as_the_whole_is(own, size, kind):
    volume = torch.rand(1, 2, *own, dtype=kind)
    expected = torch.cat([F.interpolate(volume[:, [index]], size, mode="trilinear") for index in (0, 1)], dim=1)
    for many in (1, 3, own[0]):
        found = torch.cat([*resample_rows(volume.split(many, dim=2), own[0], size)], dim=2)
        assert torch.equal(found.float(), expected.float())


def scan(orientation: str, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    """Smooth noise."""
    coarse = torch.randn(1, 1, 8, 9, 7, generator=torch.Generator().manual_seed(1))
    array = F.interpolate(coarse, (26, 19, 22), mode="trilinear")[0].numpy()
    return Volume(array, Geometry.along_axes(array.shape[1:], spacing, orientation))


@pytest.mark.parametrize("task", [Task(5), Task(3, multilabel=True), Task(1)], ids=["classes", "overlapping", "binary"])
@pytest.mark.parametrize("orientation", ["SAR", "IPL", "RSA", "ALI"])
@pytest.mark.parametrize("spacing", [None, (1.7, 1, 0.8)], ids=["as it is", "resampled"])
def test_masks_and_probabilities_are_those_of_the_whole(task, orientation, spacing):
    contract = VolumePreprocessing(patch_size=(8, 12, 64), spacing=spacing, mirror_axes=(1, 2))
    backend, volume = Convolution(task, contract), scan(orientation, (1, 1.2, 0.9))
    pipeline = Pipeline(backend, tta=orientation == "IPL")  # type: ignore[arg-type]
    whole = contract.restore(slide(pipeline.averaged, contract(volume)[None], contract.patch_size), volume.geometry)
    expected = task.mask(whole)[0].numpy()
    assert len(np.unique(expected)) > 1
    found = pipeline(volume)
    np.testing.assert_array_equal(found.probabilities, whole[0])
    np.testing.assert_array_equal(found.mask, expected)

    lean = Pipeline(backend, tta=orientation == "IPL", keep=None)(volume)  # type: ignore[arg-type]
    np.testing.assert_array_equal(lean.mask, expected)
    assert lean.probabilities.size == 0
    assert lean.multilabel == task.multilabel


def test_a_step_that_may_look_at_probabilities_has_them():
    def doubtful(found: Any) -> np.ndarray:
        return np.where(found.probabilities.max(axis=0) < 0.6, 0, found.mask).astype(found.mask.dtype)

    backend = Convolution(Task(3), VolumePreprocessing(patch_size=(8, 12, 64)))
    masks = [
        Pipeline(backend, postprocessing=[doubtful], **how)(scan("SAR")).mask  # type: ignore[arg-type]
        for how in ({}, {"keep": None})
    ]
    np.testing.assert_array_equal(*masks)
    assert (masks[0] != Pipeline(backend)(scan("SAR")).mask).any()  # type: ignore[arg-type]


@pytest.fixture
def uncollected() -> Iterator[None]:
    """The collector does not run, so that its youngest generation is all that was made since."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
def test_what_is_held_does_not_grow_with_the_volume_or_the_windows(monkeypatch):
    """Bytes of all tensors at the start of each window, beside the batch."""
    monkeypatch.setattr("segzoo.prediction.window.PART", 2**10)
    window, classes = (8, 8, 8), 6
    held = dict[tuple[int, float], int]()
    for depth, overlap in ((24, 0), (24, 0.75), (160, 0.5)):
        batch, most = torch.randn(1, 1, depth, 20, 20), [0]
        before = storages()

        def run(windows: torch.Tensor, before=before, most=most) -> torch.Tensor:
            most.append(sum(size for place, size in storages().items() if place not in before))
            return torch.cat([windows.sigmoid()] * classes, dim=1)

        assert sum(part.shape[2] for part in slide_along(run, batch, window, overlap=overlap)) == depth
        held[depth, overlap] = max(most)
    slab = 4 * (classes + 1) * window[0] * 20 * 20
    whole = 4 * classes * 24 * 20 * 20
    assert slab < min(held.values()) <= max(held.values()) < 1.3 * slab < whole


def storages() -> dict[int, int]:
    """Bytes of all that tensors made in this test hold, by its place."""
    found = [one.untyped_storage() for one in gc.get_objects(generation=0) if type(one) is torch.Tensor]
    return {one.data_ptr(): one.nbytes() for one in found}


def test_memory_is_asked_for_what_is_held(monkeypatch, refused):
    """A window's length of all classes and their weights, and the mask; and all probabilities where they are kept."""
    volume = scan("SAR")
    backend = Convolution(Task(20), VolumePreprocessing(patch_size=(8, 8, 8)))
    slab, mask, whole = 4 * 21 * 8 * 19 * 22, volume.array.size, 4 * 20 * volume.array.size
    asked = dict[str, int]()
    monkeypatch.setattr(limits, "require_memory", lambda needed, what: asked.__setitem__(what, needed))
    for keep, more in ((None, 0), (np.empty, whole)):
        Pipeline(backend, **({"keep": keep} if keep is None else {}))(volume)  # type: ignore[arg-type]
        assert asked["its probabilities"] == slab + mask + more
    monkeypatch.undo()
    monkeypatch.setattr(limits, "memory_left", lambda: slab + mask - 1)
    given = Pipeline(backend, keep=None).read(volume)  # type: ignore[arg-type]
    with refused(SegzooError):
        Pipeline(backend, keep=None).segment([given])  # type: ignore[arg-type]
