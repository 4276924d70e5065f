import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.readers import reader_of
from segzoo.imaging.volumes import Volume
from segzoo.preprocessing.exported import exported_contract
from segzoo.preprocessing.image import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing


@pytest.fixture
def image() -> np.ndarray:
    rough = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((61, 83), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(32, 24), (160, 200), (83, 200)])
def test_resize_is_antialiased_bilinear_as_pillow_does_it(image, size):
    found = Preprocessing(image_size=size).resize(image)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert found.dtype == torch.float32
    assert found.shape == (3, *size)
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() < 1  # Pillow rounds, twice


@pytest.mark.parametrize("size", [None, (83, 61)])
def test_resize_keeps_the_own_size(image, size):
    found = Preprocessing(image_size=size).resize(image)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), image)


def test_normalize_is_mean_and_std_of_0_to_1(image):
    raw = torch.from_numpy(image.copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = (raw.float() / 255 - mean) / std
    for given in (raw, raw.float(), raw[None]):
        kept = given.clone()
        found = Preprocessing().normalize(given)
        assert found.dtype == torch.float32
        assert_close(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-5)
        assert_close(given, kept)  # the input stays as it was


def test_call_resizes_then_normalizes(image):
    contract = Preprocessing(image_size=(16, 16))
    assert_close(contract(image), contract.normalize(contract.resize(image)))


def test_restore_brings_back_to_the_own_grid():
    ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    restored = Preprocessing(image_size=(32, 32)).restore(ramp, (50, 90))
    assert restored.shape == (1, 1, 50, 90)
    assert_close(restored[0, 0, 25, 45], torch.tensor(0.5), atol=0.02, rtol=0)
    assert Preprocessing().restore(ramp, (32, 32)) is ramp


@pytest.mark.parametrize("size", [(30, 1), (1, 30), (1, 1)])
def test_a_mask_one_pixel_wide_is_that_of_the_image_on_its_side(size):
    probabilities = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    preprocessing = Preprocessing(image_size=16)
    on_its_side = preprocessing.restore(probabilities.mT, size[::-1]).mT
    assert_close(preprocessing.restore(probabilities, size), on_its_side)


def test_other_channels():
    grey = Preprocessing.for_channels(1)
    assert grey.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,))
    assert Preprocessing.for_channels(3) == Preprocessing()
    assert Preprocessing.for_channels(4).mean == (*IMAGENET_MEAN, IMAGENET_MEAN[0])
    assert Preprocessing(image_size=(8, 9)).with_channels(1) == Preprocessing(1, (8, 9), grey.mean, grey.std)


RANGED = Preprocessing(1, None, (0.5,), (0.25,), intensity_range=(0, 4095))


@pytest.mark.parametrize("contract", [Preprocessing(), Preprocessing(1, None, (0.5,), (0.25,)), RANGED])
def test_round_trip_through_json(contract):
    assert Preprocessing.from_dict(json.loads(json.dumps(contract.to_dict()))) == contract


@pytest.mark.parametrize(
    "config",
    [
        {"sizes": 3},
        {"channels": 1},
        {"std": [1, 1]},
        {"std": [1, 1, 0]},
        {"image_size": [256]},
        {"image_size": [0, 5]},
        {"channels": 0},
        {"mean": None},
        {"intensity_range": [0]},
        {"intensity_range": 4095},
        {"intensity_range": [4095, 0]},
        {"intensity_range": [0, float("inf")]},
        {"intensity_range": ["black", "white"]},
    ],
)
def test_bad_contract(config, refused):
    with refused(SegzooError):
        Preprocessing.from_dict(config)


def test_resize_refuses_other_images(refused):
    with refused(SegzooError):
        Preprocessing().resize(np.zeros((4, 4, 1), np.uint8))
    with refused(SegzooError):
        Preprocessing().resize(np.zeros((4, 4, 3)))


def test_one_number_is_a_square():
    assert Preprocessing(3, 352) == Preprocessing(3, (352, 352))


# ---- a range of stored values


def test_a_range_that_nobody_states_is_not_stored():
    assert list(Preprocessing().to_dict()) == ["channels", "image_size", "mean", "std"]
    assert RANGED.to_dict()["intensity_range"] == [0, 4095]


def test_a_range_holds_for_what_has_more_than_8_bits_wherever_it_comes_from(tmp_path):
    stored = np.array([[0, 1000, 4095, 60000]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "a.png")
    seen = [0, 62, 255, 255]
    exported = exported_contract(RANGED, None)
    for contract in (RANGED, RANGED.with_channels(3).with_channels(1), exported):
        for source in (tmp_path / "a.png", reader_of(tmp_path / "a.png"), stored, stored.astype(np.float32)):
            assert contract.read(source).ravel().tolist() == seen
        assert contract.read(np.array([[0, 100]], np.uint8)).ravel().tolist() == [0, 100]
    volume = Volume(stored[None, None].astype(np.float32), Geometry.along_axes((1, 1, 4)))
    (slices,) = RANGED.prepare(volume).slices
    (expected,) = [RANGED(np.array([[[value] for value in seen]], np.uint8))]
    np.testing.assert_array_equal(slices[0], expected)


def test_a_model_of_volumes_takes_no_range(refused):
    with refused(SegzooError):
        VolumePreprocessing().with_intensity_range((0, 4095))


# ---- what is given


class Somewhere:
    """A path of somebody else's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_any_path_is_a_path(tmp_path):
    Image.new("L", (4, 3), 7).save(tmp_path / "a.png")
    for path in (str(tmp_path / "a.png"), tmp_path / "a.png", Somewhere(tmp_path / "a.png")):
        assert Preprocessing().read(path).shape == (3, 4, 3)
    with pytest.raises(SegzooError, match=r"a\.png"):
        VolumePreprocessing().read(Somewhere(tmp_path / "a.png"))


@pytest.mark.parametrize("kind", [bytes, bytearray, io.BytesIO])
@pytest.mark.parametrize("contract", [Preprocessing(), VolumePreprocessing()], ids=["images", "volumes"])
def test_an_encoded_file_in_memory_is_refused_by_its_kind(tmp_path, contract, kind):
    Image.new("L", (4, 3)).save(tmp_path / "a.png")
    with pytest.raises(SegzooError, match=kind.__name__):
        contract.read(kind((tmp_path / "a.png").read_bytes()))


@pytest.mark.parametrize("size", [(266, 320), (90, 130), (700, 41)])
def test_channels_are_resized_together_as_one_by_one(size, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    image.flags.writeable = False  # as Pillow's are
    contract = Preprocessing(image_size=(128, 96))
    together = contract.resize(image)
    monkeypatch.setattr("segzoo.preprocessing.image.TOGETHER", 0)
    assert contract.resize(image).equal(together)


def test_resizing_takes_no_float_copy_of_all_channels():
    image = np.zeros((1500, 2000, 3), np.uint8)
    contract = Preprocessing()
    tracemalloc.start()
    try:
        contract.resize(image)
        _, most = tracemalloc.get_traced_memory()  # of NumPy's arrays
    finally:
        tracemalloc.stop()
    assert most < 1.2 * 4 * 1500 * 2000
