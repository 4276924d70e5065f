"""Patches and their augmentation: image and label stay together, and every part does what it says."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from segzoo.data import VolumeAugmentation
from segzoo.data.volume_augmentation import cut_patch, rotation_about
from segzoo.errors import SegzooError

IDENTITY = torch.eye(3, dtype=torch.float64)
STILL = {"rotation": 0.0, "scaling": (1.0, 1.0), "mirror_axes": (), "intensity": False}


def blob(*size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image [1, D, H, W] with the label of its two halves' bright voxels, no axis like another."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    image = 3 * torch.exp(-2 * ((axes[0] - 0.1) ** 2 + 2 * (axes[1] + 0.1) ** 2 + 0.5 * axes[2] ** 2))[None]
    return image, label_of(image)


def label_of(image: torch.Tensor) -> torch.Tensor:
    """Two classes by brightness."""
    return ((image[0] > 1).long() + (image[0] > 2).long()).to(torch.int16)


# ---- patches


@pytest.mark.parametrize("start", [(0, 0, 0), (3, 2, 1), (4, 6, 8)])
def test_a_patch_is_a_part_of_the_volume(start):
    image, label = blob(10, 12, 14)
    box = tuple(slice(first, first + 6) for first in start)
    for matrix in (None, IDENTITY):
        patch, cut = cut_patch(image, label, start, (6, 6, 6), matrix)
        assert_close(patch, image[:, *box])
        assert torch.equal(cut, label[box])
        assert (patch.dtype, cut.dtype) == (torch.float32, torch.int16)


@pytest.mark.parametrize("matrix", [None, IDENTITY])
def test_beyond_the_volume_the_label_is_ignored_and_the_border_repeated(matrix):
    image, label = blob(4, 5, 6)
    patch, cut = cut_patch(image, label, (-2, -1, 0), (8, 7, 6), matrix)
    assert torch.equal(cut[2:6, 1:6], label)
    assert (cut[:2] == -1).all()
    assert (cut[6:] == -1).all()
    assert (cut[:, 0] == -1).all()
    assert_close(patch[:, 2:6, 1:6], image)
    assert_close(patch[:, 0, 1:6], image[:, 0])
    assert_close(patch[:, -1, 1:6], image[:, -1])


def test_a_quarter_turn_is_exact():
    image, label = blob(8, 8, 8)
    quarter = rotation_about(0, math.pi / 2)
    patch, cut = cut_patch(image, label, (0, 0, 0), (8, 8, 8), quarter)
    assert_close(patch, image.rot90(-1, (2, 3)), atol=1e-5, rtol=0)
    assert torch.equal(cut, label.rot90(-1, (1, 2)))


def test_a_scaled_patch_reads_that_much_of_the_volume():
    ramp = torch.arange(40.0).expand(1, 40, 40, 40)  # along W
    patch, _ = cut_patch(ramp, ramp[0].to(torch.int16), (16, 16, 16), (8, 8, 8), IDENTITY * 2)
    assert_close(patch[0, 4, 4], torch.arange(12.5, 28, 2))


def test_corners_of_a_turned_patch_show_the_volume():
    image, label = blob(30, 30, 30)
    turned = rotation_about(1, math.pi / 4)
    _, cut = cut_patch(image, label, (10, 10, 10), (10, 10, 10), turned)
    assert (cut >= 0).all()
    _, cut = cut_patch(image, label, (0, 0, 0), (30, 30, 30), turned)
    assert (cut < 0).any()


# ---- augmentation


def test_image_and_label_move_together():
    torch.manual_seed(0)
    image, label = blob(40, 44, 36)
    augmentation = VolumeAugmentation(probability=1.0, intensity=False)
    moved = 0
    for _ in range(20):
        matrix = augmentation.draw_matrix((1, 1, 1))
        patch, cut = augmentation(*cut_patch(image, label, (8, 10, 6), (24, 24, 24), matrix))
        agree = (label_of(patch) == cut)[cut >= 0].float().mean()
        assert agree > 0.95  # all but voxels at the surface, where one is interpolated and the other nearest
        moved += not torch.equal(cut, label[8:32, 10:34, 6:30])
    assert moved == 20


def test_every_mirroring_comes_and_no_other():
    torch.manual_seed(0)
    image, label = torch.rand(1, 6, 6, 6), torch.randint(3, (6, 6, 6))
    for axes in ((), (2,), (0, 1, 2)):
        augmentation = VolumeAugmentation(**STILL | {"mirror_axes": axes})
        wanted = [
            [axis - 3 for axis in chosen]
            for count in range(len(axes) + 1)
            for chosen in itertools.combinations(axes, count)
        ]
        seen = set()
        for _ in range(100):
            patch, cut = augmentation(image, label)
            (which,) = (i for i, flips in enumerate(wanted) if torch.equal(patch, image.flip(flips)))
            assert torch.equal(cut, label.flip(wanted[which]))
            seen.add(which)
        assert len(seen) == len(wanted) == 2 ** len(axes)


def test_rotation_and_scaling_are_as_likely_and_as_large_as_said():
    torch.manual_seed(0)
    rotated = [VolumeAugmentation(rotation=10, scaling=(1, 1)).draw_matrix((1, 1, 1)) for _ in range(500)]
    angles = [matrix for matrix in rotated if matrix is not None]
    assert 0.13 < len(angles) / 500 < 0.27
    for matrix in angles:
        assert_close(matrix @ matrix.T, IDENTITY)
        assert (matrix - IDENTITY).abs().max() < 0.35  # three turns of up to 10 degrees
    scaled = [VolumeAugmentation(rotation=0, probability=1).draw_matrix((1, 1, 1)) for _ in range(300)]
    factors = torch.stack([matrix.diagonal() for matrix in scaled])
    assert (factors == factors[:, :1]).all()
    assert 0.7 <= factors.min() < 0.75
    assert 1.35 < factors.max() <= 1.4
    assert 0.4 < (factors[:, 0] < 1).float().mean() < 0.6
    still = [VolumeAugmentation(**STILL).draw_matrix((1, 1, 1)) for _ in range(20)]
    assert still == [None] * 20


def test_angles_are_those_of_the_body():
    torch.manual_seed(0)
    spacing = torch.tensor([5.0, 1.0, 2.0], dtype=torch.float64)
    for _ in range(10):
        voxels = VolumeAugmentation(scaling=(1, 1), probability=1).draw_matrix(spacing.tolist())
        millimetres = voxels * spacing[:, None] / spacing
        assert_close(millimetres @ millimetres.T, IDENTITY)


def test_in_plane_no_voxel_leaves_its_slice():
    torch.manual_seed(0)
    augmentation = VolumeAugmentation(probability=1, in_plane=True)
    for _ in range(20):
        matrix = augmentation.draw_matrix((5.0, 1.0, 1.0))
        assert matrix[0].tolist() == [1, 0, 0]
        assert matrix[:, 0].tolist() == [1, 0, 0]
        scale = matrix[1:, 1:].det().sqrt()
        assert 0.7 <= scale <= 1.4
        assert scale != 1
        assert matrix[1, 2] == -matrix[2, 1] != 0


def test_intensities_change_and_the_label_stays():
    torch.manual_seed(0)
    image, label = blob(12, 12, 12)
    before = image.clone()
    augmentation = VolumeAugmentation(**STILL | {"intensity": True})
    changed = 0
    for _ in range(60):
        patch, cut = augmentation(image, label)
        assert cut is label
        assert type(patch) is torch.Tensor
        assert patch.shape == image.shape
        assert patch.dtype == torch.float32
        assert patch.isfinite().all()
        assert (patch - before).abs().max() < 3
        changed += not torch.equal(patch, before)
    # each of seven changes has its own probability: 1 - .9 * .9 * .85 * .85 * .875 * .9 * .7 = .68
    assert 0.5 < changed / 60 < 0.85
    assert torch.equal(image, before)


def test_torchs_seed_is_all_there_is():
    image, label = blob(12, 12, 12)

    def everything(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        augmentation = VolumeAugmentation()
        found = []
        for _ in range(10):
            matrix = augmentation.draw_matrix((1, 1, 1))
            found += augmentation(*cut_patch(image, label, (2, 2, 2), (8, 8, 8), matrix))
        return found

    assert_close(everything(3), everything(3), rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(everything(3), everything(4), strict=True))


@pytest.mark.parametrize(
    "arguments",
    [{"rotation": -1}, {"scaling": (1.4, 0.7)}, {"scaling": (0, 1)}, {"probability": 2}, {"mirror_axes": (3,)}],
)
def test_bad_arguments(arguments, refused):
    with refused(SegzooError):
        VolumeAugmentation(**arguments)
