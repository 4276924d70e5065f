"""From volumes to a 3D network's input and back."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

import segzoo
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import Volume, read_volume, read_volume_mask
from segzoo.preprocessing.stored import preprocessing_from_dict
from segzoo.preprocessing.volume import VolumePreprocessing

ORIENTATIONS = ["".join(order) for x in itertools.product("SI", "AP", "RL") for order in itertools.permutations(x)]
CT = {"intensity": "window", "window": (-100.0, 300.0), "mean": 80.0, "std": 40.0}
TWO = {"channels": 2, "intensity": ["window", "zscore"]}


@pytest.fixture(scope="module")
def hippocampus(samples: Path) -> tuple[Volume, np.ndarray]:
    """A real volume of the Decathlon and its label."""
    folder = samples / "Task04_Hippocampus"
    volume = read_volume(folder / "imagesTr" / "hippocampus_165.nii.gz")
    return volume, read_volume_mask(folder / "labelsTr" / "hippocampus_165.nii.gz")[0]


def ramps(shape: tuple[int, int, int], spacing: tuple[float, ...], orientation: str) -> Volume:
    """Three channels that hold how far right, anterior and superior (RAS) the centre of every voxel lies, in mm."""
    geometry = Geometry.along_axes(shape, spacing, orientation)
    index = np.stack([*np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), np.ones(shape)])
    place = np.einsum("ij,jdhw->idhw", geometry.affine, index)[:3]
    return Volume(place.astype(np.float32), geometry)


# ---- to the network


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_axes_are_turned_to_where_the_network_wants_them(orientation):
    volume = ramps((3, 4, 5), (1.0, 2.0, 3.0), orientation)
    volume.array += 1.0
    for target in ("SAR", "RIP"):
        contract = VolumePreprocessing(3, target, intensity="window", window=(-99, 99), mean=0, std=1)
        found = contract(volume)
        for axis, letter in enumerate(target):
            world = next(i for i, pair in enumerate(("RL", "AP", "SI")) if letter in pair)
            steps = found[world].diff(dim=axis) * (1 if letter in "RAS" else -1)
            assert (steps > 0).all()
            assert_close(steps, torch.full_like(steps, contract.network_spacing(volume.geometry)[axis]))
        assert contract.grid(volume.geometry) == found.shape[1:]


def test_a_spacing_that_no_scan_has_is_one_sentence(refused):
    volume = ramps((4, 5, 6), (1000.0, 50.0, 3000.0), "SAR")
    with refused(SegzooError):
        VolumePreprocessing(3, spacing=(1.0, 1.0, 1.0))(volume)


def test_the_canonical_orientation_is_nibabels(shared):
    nibabel = pytest.importorskip("nibabel")
    file = shared / "data" / "vertebrae_TPTBox" / "sample_ct" / "sub-ct_label-22_ct.nii.gz"
    contract = VolumePreprocessing(intensity="window", window=(-2000, 5000), mean=0, std=1)
    expected = nibabel.as_closest_canonical(nibabel.load(file)).get_fdata().transpose()
    np.testing.assert_array_equal(contract(read_volume(file))[0].numpy(), expected)


def test_resampling_keeps_every_voxel_in_its_place():
    volume = ramps((12, 20, 16), (2.5, 0.8, 1.0), "IPR")
    contract = VolumePreprocessing(3, "SAR", (1.25, 1.0, 2.0), intensity="window", window=(-99, 99), mean=0, std=1)
    assert contract.grid(volume.geometry) == (24, 16, 8)  # 30, 16 and 16 mm
    found = contract(volume)
    # the outer faces stay where they are: each centre is half a voxel of the new size inside
    right, anterior, superior = (found[axis, 2:-2, 2:-2, 2:-2] for axis in range(3))
    assert_close(superior[:, 0, 0], -28.75 + 0.625 + 1.25 * torch.arange(2, 22.0))
    assert_close(anterior[0, :, 0], -15.6 + 0.5 + 1.0 * torch.arange(2, 14.0))
    assert_close(right[0, 0], -0.5 + 1.0 + 2.0 * torch.arange(2, 6.0))


def test_zscore_is_of_each_volume_and_channel(hippocampus):
    volume, _ = hippocampus
    two = Volume(np.concatenate([volume.array, 1e6 + 1e3 * volume.array]), volume.geometry)
    kept = two.array.copy()
    found = VolumePreprocessing(2)(two)
    assert found.dtype == torch.float32
    assert found.shape == two.array.shape
    expected = (volume.array[0] - volume.array.mean(dtype=np.float64)) / volume.array.std(dtype=np.float64)
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(found[1], expected, atol=1e-3)
    np.testing.assert_array_equal(two.array, kept)  # the input stays as it was


def test_each_channel_may_have_its_own_window(hippocampus):
    volume, _ = hippocampus
    two = Volume(np.concatenate([volume.array, volume.array]), volume.geometry)
    contract = VolumePreprocessing(**TWO, window=((100, 200), None), mean=(150.0, None), std=(30.0, None))
    found = contract(two)
    np.testing.assert_allclose(found[0], (np.clip(volume.array[0], 100, 200) - 150) / 30, atol=1e-5)
    assert_close(found[1:], VolumePreprocessing()(volume), rtol=0, atol=0)
    stored = json.loads(json.dumps(contract.to_dict()))
    assert stored["window"] == [[100.0, 200.0], None]
    again = VolumePreprocessing.from_dict(stored)
    assert (again, hash(again)) == (contract, hash(contract))
    assert contract.with_channels(2) == contract
    assert contract.with_channels(3) == VolumePreprocessing(3)  # of whose channels no window is known


@pytest.mark.parametrize("value", [0.0, 0.1, -1024.0, 1.7e6 / 3])
def test_a_constant_volume_becomes_zero(value):
    volume = Volume(np.full((1, 30, 40, 50), value, np.float32), Geometry.along_axes((30, 40, 50)))
    assert (VolumePreprocessing()(volume) == 0).all()


def test_ct_is_clipped_to_its_window(shared):
    volume = read_volume(shared / "data" / "Task09_Spleen_crop/ct_scan/sub-spleen2/ct/sub-spleen2_ct.nii.gz")
    assert volume.array.min() < -1000
    found = VolumePreprocessing(**CT)(volume)
    np.testing.assert_allclose(found[0], (np.clip(volume.array[0], -100, 300) - 80) / 40, atol=1e-5)
    assert volume.array.min() < -1000  # the input stays as it was


def test_another_number_of_channels_is_refused(hippocampus, refused):
    with refused(SegzooError):
        VolumePreprocessing(2)(hippocampus[0])


# ---- labels, and back


def test_labels_lie_on_the_grid_of_their_image(hippocampus):
    volume, mask = hippocampus
    for contract in (VolumePreprocessing(), VolumePreprocessing(orientation="RPI", spacing=(1.3, 0.7, 2))):
        image, label = contract(volume), contract.label(mask, volume.geometry)
        assert label.dtype == torch.int32
        assert label.shape == image.shape[1:] == contract.grid(volume.geometry)
        assert set(label.unique().tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(VolumePreprocessing().label(mask, volume.geometry), mask)
    assert set(contract.label(2 * (mask > 0), volume.geometry).unique().tolist()) == {0, 2}  # nothing between
    high = np.full(mask.shape, 65535, np.uint16)
    assert (contract.label(high, volume.geometry) == 65535).all()


def test_labels_are_taken_from_the_nearest_voxel():
    columns = np.broadcast_to(np.arange(9), (3, 3, 9))
    label = VolumePreprocessing(spacing=(1, 1, 3)).label(columns, Geometry.along_axes((3, 3, 9)))
    assert label[0, 0].tolist() == [1, 4, 7]  # the centres of three at a time


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turning_back_is_exact(orientation):
    geometry = Geometry.along_axes((3, 4, 5), (1, 2, 3), orientation)
    mask = np.arange(60).reshape(3, 4, 5)
    for target in ("SAR", "LIP"):
        contract = VolumePreprocessing(orientation=target)
        turned = contract.label(mask, geometry)
        probabilities = torch.stack([turned, -turned])[None].float() / 7
        restored = contract.restore(probabilities, geometry)
        np.testing.assert_array_equal(restored[0, 0], mask.astype(np.float32) / 7)
        np.testing.assert_array_equal(restored[0, 1], -mask.astype(np.float32) / 7)


def test_resampling_back_is_linear_on_the_own_grid(hippocampus):
    volume, mask = hippocampus
    contract = VolumePreprocessing(orientation="PRS", spacing=(0.8, 1.1, 0.9))
    label = contract.label(mask, volume.geometry)
    probabilities = F.one_hot(label.long(), 3).permute(3, 0, 1, 2)[None].float()
    restored = contract.restore(probabilities, volume.geometry)
    assert restored.shape == (1, 3, *mask.shape)
    assert_close(restored.sum(dim=1), torch.ones(1, *mask.shape))
    found = restored[0].argmax(dim=0).numpy()
    for value in (1, 2):
        dice = 2 * ((found == value) & (mask == value)).sum() / ((found == value).sum() + (mask == value).sum())
        assert dice > 0.95
    assert restored[(restored > 0) & (restored < 1)].numel() > 1000  # between the classes


def test_resampling_back_undoes_the_place(hippocampus):
    volume = ramps((12, 20, 16), (2.5, 0.8, 1.0), "IPR")
    contract = VolumePreprocessing(3, "SAR", (1.25, 1.0, 2.0), intensity="window", window=(-99, 99), mean=0, std=1)
    restored = contract.restore(contract(volume)[None], volume.geometry)[0, :, 2:-2, 3:-3, 3:-3]
    assert_close(restored, torch.from_numpy(volume.array)[:, 2:-2, 3:-3, 3:-3], atol=0.01, rtol=0)


# ---- the contract


def test_the_default_keeps_each_volumes_spacing():
    contract = segzoo.VolumePreprocessing()
    assert (contract.spatial_dims, contract.orientation, contract.patch_size) == (3, "SAR", (128, 128, 128))
    geometry = Geometry.along_axes((3, 4, 5), (1, 2, 3), "RAS")
    assert contract.network_spacing(geometry) == (3, 2, 1)
    assert contract.grid(geometry) == (5, 4, 3)
    # 15, 8 and 3 mm: 7.9, 1.6 and 0.3 voxels
    assert segzoo.VolumePreprocessing(spacing=(1.9, 5, 10)).grid(geometry) == (8, 2, 1)
    assert contract.with_channels(4) == VolumePreprocessing(4)


@pytest.mark.parametrize(
    "contract",
    [VolumePreprocessing(), VolumePreprocessing(2, "LPI", (1, 2.5, 1), (20, 30, 40)), VolumePreprocessing(**CT)],
)
def test_round_trip_through_json(contract):
    assert preprocessing_from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


def test_images_and_volumes_are_told_apart():
    assert isinstance(preprocessing_from_dict({"patch_size": [8, 8, 8]}), VolumePreprocessing)
    assert preprocessing_from_dict(segzoo.Preprocessing().to_dict()) == segzoo.Preprocessing()


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": [3, 3]},
        {"channels": 0},
        {"orientation": "SAA"},
        {"orientation": "SARS"},
        {"orientation": "sar"},
        {"patch_size": [16, 16]},
        {"patch_size": [16, 16, 0]},
        {"spacing": [1, 1]},
        {"spacing": [1, 1, 0]},
        {"intensity": "minmax"},
        {"intensity": "window"},
        {"intensity": "window", "window": [0, 1], "mean": 0},
        {**CT, "window": [1, 1]},
        {**CT, "std": 0},
        {"mean": 3},
        {"patch_size": None},
        {**CT, "intensity": ["window"]},
        {**TWO, "window": [[-100, 300], None], "mean": 80, "std": [40, None]},
        {**TWO, "window": [None, [0, 1]], "mean": [None, 0], "std": [None, 1]},
        {"channels": 2, "intensity": ["zscore", "minmax"]},
    ],
)
def test_bad_contract(config, refused):
    with refused(SegzooError):
        VolumePreprocessing.from_dict(config)


def card(contract: VolumePreprocessing, folder: Path) -> str:
    """The card of a checkpoint with this contract."""
    model = segzoo.create_model("mednext_s_k3", in_channels=contract.channels)
    model.preprocessing = contract
    return (model.save_pretrained(folder) / "README.md").read_text()


def test_cards_say_what_is_done_to_a_volume(tmp_path):
    plain = card(VolumePreprocessing(patch_size=(40, 56, 40)), tmp_path / "mri")
    assert "volume of 1 channel, its axes (d, h, w) turned to lead to SAR, at its own spacing, each channel" in plain
    assert "windows of 40 x 56 x 40 voxels" in plain
    ct = card(VolumePreprocessing(4, spacing=(2.5, 1, 1), **CT), tmp_path / "ct")
    assert "4 channels" in ct
    assert "resampled to 2.5 x 1 x 1 mm (trilinear), intensities clipped to -100..300" in ct
