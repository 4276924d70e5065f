"""Arrays of PIL images, strip by strip: the same values as of the whole."""

import numpy as np
import pytest
from PIL import Image

from segzoo.imaging import strips
from segzoo.imaging.overlay import draw_overlay
from segzoo.imaging.seals import digest
from segzoo.imaging.strips import Strips, array_of


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
@pytest.mark.parametrize("height", [1, 7, 8, 30])
def test_strips_hold_what_the_whole_does(monkeypatch, mode, height):
    monkeypatch.setattr(strips, "STRIP_PIXELS", 40)  # four rows of ten
    values = np.random.default_rng(0).integers(0, 256, (height, 10, 3)).astype(np.uint8)
    source = Image.fromarray(values)
    image = source.convert("L").convert(mode) if mode in ("I", "I;16", "F") else source.convert(mode)
    for wanted in (None, "RGB", "L") if mode not in ("I", "I;16", "F") else (None,):
        expected = np.asarray(image if wanted is None else image.convert(wanted))
        found = array_of(image, wanted)
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_a_digest_is_the_same_strip_by_strip(monkeypatch, mode):
    values = np.random.default_rng(0).integers(0, 256, (30, 10, 3)).astype(np.uint8)
    image = (
        Image.fromarray(values).convert("L").convert(mode) if mode == "I;16" else Image.fromarray(values).convert(mode)
    )
    whole = digest(np.asarray(image))
    monkeypatch.setattr(strips, "STRIP_PIXELS", 40)  # four rows of ten
    assert digest(Strips(image)) == whole


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [1, 37, 100])
def test_an_overlay_is_the_same_strip_by_strip(monkeypatch, channels, pixels):
    random = np.random.default_rng(0)
    image, masks = random.integers(0, 256, (23, 17, channels), np.uint8), random.random((2, 23, 17)) < 0.7
    whole = np.asarray(draw_overlay(image, masks))
    monkeypatch.setattr(strips, "STRIP_PIXELS", pixels)
    np.testing.assert_array_equal(np.asarray(draw_overlay(image, masks)), whole)
