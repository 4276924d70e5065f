import numpy as np
import pytest
import torch
from PIL import Image

import segzoo


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return segzoo.create_model("cmunext_s").eval()


@pytest.fixture(scope="module")
def image(samples):
    return sorted((samples / "BUSI").rglob("*[0-9]).png"))[0]


def test_a_prediction_lies_on_the_images_own_grid(model, image):
    result = model.predict(image)
    width, height = Image.open(image).size
    assert result.mask.shape == (height, width)
    assert result.mask.dtype == np.uint8
    assert result.probabilities.shape == (1, height, width)
    assert result.probabilities.dtype == np.float32
    np.testing.assert_array_equal(result.mask, result.probabilities[0] > 0.5)
    assert result.overlay().size == (width, height)


def test_paths_pictures_arrays_and_tensors_are_the_same_image(model, image):
    picture = Image.open(image).convert("RGB")
    array = np.asarray(picture)
    expected = model.predict(str(image)).probabilities
    for form in (picture, array, array.astype(np.float32), torch.from_numpy(array.transpose(2, 0, 1).copy())):
        np.testing.assert_array_equal(model.predict(form).probabilities, expected)


def test_predicting_leaves_the_model_as_it_was(image):
    model = segzoo.create_model("lv_unet").train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.predict(image)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_flips_average_to_a_prediction_that_flips_with_the_image(model, image):
    array = np.asarray(Image.open(image).convert("RGB").resize((256, 256)))
    result = model.predict(array, tta=True).probabilities
    mirrored = model.predict(array[:, ::-1], tta=True).probabilities[:, :, ::-1]
    np.testing.assert_allclose(result, mirrored, atol=1e-5)
    assert np.abs(model.predict(array).probabilities - result).max() > 1e-4


def test_multi_label_masks_are_one_file_a_class(image, tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=2, multilabel=True).eval()
    model.class_names = ("left lung", "heart")
    result = model.predict(image)
    assert result.mask.ndim == 3
    result.save(tmp_path / "scan.png")
    assert {file.name for file in tmp_path.iterdir()} == {"scan_left-lung.png", "scan_heart.png"}
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scan_heart.png")), result.mask[1])


def test_multi_class_masks_hold_class_indices(image, tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=4).eval()
    result = model.predict(image)
    np.testing.assert_allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(result.mask, result.probabilities.argmax(axis=0))
    result.save(tmp_path / "scan.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "scan.png")), result.mask)


def test_the_overlay_outlines_the_mask():
    image, mask = np.full((20, 30, 1), 100, np.uint8), np.zeros((20, 30), np.uint8)
    mask[5:15, 10:20] = 1
    overlay = np.asarray(
        segzoo.Segmentation(mask, mask[None].astype(np.float32), ("background", "lesion"), image).overlay()
    )
    assert (overlay[0, 0] == 100).all()
    assert (overlay[5, 12] == (230, 159, 0)).all()
    assert not (overlay[10, 15] == overlay[5, 12]).all()  # tinted, not painted over
    assert not (overlay[10, 15] == 100).all()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((8, 8, 5), np.uint8), "5 channels"),
        (np.full((8, 8), np.nan), "NaN"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_images_that_cannot_be_read_are_one_sentence(model, bad, message):
    with pytest.raises(segzoo.SegzooError, match=message):
        model.predict(bad)
