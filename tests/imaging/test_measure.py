"""Measurements of structures: by hand, by SimpleITK where that is quick enough, and bounded where it is not."""

import numpy as np
import pytest
import SimpleITK as sitk

from segzoo.imaging.geometry import Geometry
from segzoo.imaging.measure import corners, ends, largest_diameter, measure
from segzoo.imaging.segmentation import Segmentation

SPACING = (2.5, 0.5, 1.0)


def volume(mask: np.ndarray, *names: str) -> Segmentation:
    grid = Geometry.along_axes(mask.shape[-3:], SPACING)
    return Segmentation(mask, np.empty((0, *mask.shape[-3:]), np.float32), names, geometry=grid)


def test_a_structure_is_measured_in_millilitres_and_millimetres():
    mask = np.zeros((6, 30, 40), np.uint8)
    mask[1:3, 10:30, 5:25] = 1
    mask[3, 9, 25] = 1  # touches by a corner
    mask[5, 0, 0] = mask[0, 29, 39] = 2
    intensities = np.random.default_rng(0).normal(40, 9, (1, *mask.shape)).astype(np.float32)
    one, two, none = measure(volume(mask, "background", "liver", "spleen", "kidney"), intensities)
    inside = intensities[0][mask == 1].astype(np.float64)
    assert (one.structure, one.unit, one.components, one.diameter_unit) == ("liver", "mL", 1, "mm")
    assert one.size == pytest.approx(801 * 2.5 * 0.5 * 1.0 / 1000)
    assert one.diameter == pytest.approx(np.linalg.norm(np.array([2, 20, 20]) * SPACING))
    assert one.means == pytest.approx([inside.mean()])
    assert one.deviations == pytest.approx([inside.std(ddof=1)])
    assert (two.components, two.diameter) == (2, pytest.approx(np.linalg.norm(np.array([5, 29, 39]) * SPACING)))
    assert (none.size, none.components, none.diameter, none.means, none.deviations) == (0, 0, None, (), ())


def test_an_image_is_measured_in_pixels_and_each_channel_by_itself():
    mask = np.zeros((9, 7), np.uint8)
    mask[2:5, 1:3] = 1
    intensities = np.stack([np.arange(63).reshape(9, 7), np.full((9, 7), 4000)]).astype(np.uint16)
    (found,) = measure(Segmentation(mask, np.empty((0, 9, 7)), ("background", "lesion")), intensities)
    assert (found.size, found.unit, found.diameter_unit, found.components) == (6, "pixels", "pixels", 1)
    assert found.diameter == pytest.approx(5**0.5)
    assert found.means == (pytest.approx(intensities[0][mask == 1].mean()), 4000)
    assert found.deviations == (pytest.approx(intensities[0][mask == 1].std(ddof=1)), 0)


def test_structures_that_overlap_are_measured_each():
    mask = np.zeros((2, 5, 6, 7), np.uint8)
    mask[0, 1:4, 1:5, 1:6] = 1
    mask[1, 2:5, 1:5, 1:6] = 1
    inner, outer = measure(volume(mask, "core", "whole"), np.ones((1, 5, 6, 7), np.float32))
    assert (inner.structure, outer.structure) == ("core", "whole")
    assert inner.size == outer.size == pytest.approx(60 * 1.25 / 1000)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("shape", [(9, 12), (7, 5, 9), (1, 1, 6), (1, 8, 3)])
def test_the_diameter_is_simpleitks_feret_diameter(share, shape, monkeypatch):
    monkeypatch.setattr("segzoo.imaging.measure.FEW", 2)  # or so few points would have no hull made
    random = np.random.default_rng(3)
    for _ in range(10):
        mask = random.random(shape) < share
        mask[tuple(random.integers(0, shape))] = True
        spacing = random.choice([0.5, 1.0, 1.7, 3.0], len(shape)).tolist()
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        measured = sitk.LabelShapeStatisticsImageFilter()
        measured.ComputeFeretDiameterOn()
        measured.Execute(image)
        assert largest_diameter(mask, spacing) == pytest.approx(measured.GetFeretDiameter(1))


def test_few_points_of_a_large_structure_are_compared():
    """SimpleITK compares each of a sphere's surface with each other: 3 s for these 462,781 voxels."""
    axes = np.ogrid[:97, :97, :97]
    sphere = sum((axis - 48) ** 2 for axis in axes) <= 48**2
    assert len(corners(ends(sphere).astype(np.float64))) < 2000
    assert largest_diameter(sphere, (1, 1, 1)) == 96


def test_a_slanted_plane_and_a_slanted_line_have_a_diameter(monkeypatch):
    monkeypatch.setattr("segzoo.imaging.measure.FEW", 2)
    depth, height, width = np.indices((30, 30, 30))
    assert largest_diameter(depth == height, (1, 1, 1)) == pytest.approx(29 * 3**0.5)
    assert largest_diameter((depth == height) & (height == width), (1, 2, 1)) == pytest.approx(29 * 6**0.5)
