"""benchmarks/near_copies.py: what it takes for copies, and what not."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzoo

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "near_copies.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("near_copies", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_shifted_copy_is_found_and_nothing_else(script, samples, tmp_path):
    images = segzoo.data.BUSI(samples / "BUSI").samples()
    assert script.near_copies(images) == []
    pixels = np.asarray(Image.open(images[0].image).convert("L"))
    Image.fromarray(pixels[4:, 9:]).save(tmp_path / "copy.png")
    copy = replace(images[0], id="copy", image=tmp_path / "copy.png", group="another")
    ((alike, one, other),) = script.near_copies([*images, copy])
    assert (one, other) == (images[0], copy)
    assert 0.8 < alike < 1
    assert script.near_copies([*images, replace(copy, group=images[0].group)]) == []
    alike_known = [replace(image, lookalikes="a scene") for image in (images[0], copy)]
    assert script.near_copies([*images[1:], *alike_known]) == []
    parts = {image.id: "train" for image in images} | {"copy": "test"}
    assert script.parted([(alike, one, other)], parts, "test") == {"copy"}
    assert script.parted([(alike, one, other)], parts | {"copy": "train"}, "test") == set()
