"""Post-processing steps: none by default, by name or as a function, in their order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import segzoo
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.images import read_image
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.postprocess import POSTPROCESSING
from segzoo.prediction.torch_backend import TorchBackend


@pytest.fixture(scope="module")
def image(samples: Path) -> Path:
    return next((samples / "BUSI").rglob("benign (9).png"))


@pytest.fixture(scope="module")
def backend(image: Path) -> TorchBackend:
    """A random network to which every class is as likely on this image."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s", num_classes=3).eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    with torch.no_grad():
        std, mean = torch.std_mean(model(model.preprocessing(read_image(image))[None]), (0, 2, 3))
        model.head.weight.div_(std[:, None, None, None])
        model.head.bias.sub_(mean).div_(std)
    model.class_names = ("background", "tumour", "cyst")
    return TorchBackend(model)


def no_cysts(found: Segmentation) -> np.ndarray:
    return np.where(found.mask == found.class_names.index("cyst"), 0, found.mask).astype(found.mask.dtype)


def all_cysts(found: Segmentation) -> np.ndarray:
    """A cyst where any class but the background is."""
    return np.where(found.mask > 0, found.class_names.index("cyst"), 0).astype(found.mask.dtype)


def test_steps_change_the_mask_alone_and_in_their_order(backend, image):
    plain = Pipeline(backend)(image)
    assert {*np.unique(plain.mask)} == {0, 1, 2}
    expected = all_cysts(replace(plain, mask=no_cysts(plain)))
    found = Pipeline(backend, postprocessing=[no_cysts, all_cysts])(image)
    assert {*np.unique(expected)} == {0, 2}  # and none where the steps take turns
    np.testing.assert_array_equal(found.mask, expected)
    np.testing.assert_array_equal(found.probabilities, plain.probabilities)


def test_a_step_is_found_by_its_name(backend, image, monkeypatch, refused):
    monkeypatch.setattr(POSTPROCESSING, "added", {})
    with refused(MissingError):
        Pipeline(backend, postprocessing=["no-cysts"])
    POSTPROCESSING.add("no-cysts", no_cysts)
    assert 2 not in Pipeline(backend, postprocessing=["no-cysts"])(image).mask


@pytest.mark.parametrize("spoil", [lambda found: found.mask[1:], lambda found: found.mask.astype(np.float32)])
def test_a_step_must_keep_shape_and_type(backend, image, spoil, refused):
    with refused(SegzooError):
        Pipeline(backend, postprocessing=[spoil])(image)
