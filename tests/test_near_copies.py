"""benchmarks/near_copies.py: what it takes for copies, and what not."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image, ImageOps

import segzoo

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "near_copies.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("near_copies", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(samples):
    return segzoo.data.BUSI(samples / "BUSI").samples()


def shifted(picture):
    return picture.crop((9, 4, *picture.size))


def rescaled(picture):
    return picture.resize((picture.width * 7 // 10, picture.height * 7 // 10))


def cropped(picture):
    return picture.crop((picture.width // 5, 0, picture.width, picture.height * 9 // 10))


@pytest.mark.parametrize("change", [shifted, rescaled, cropped, ImageOps.mirror], ids=lambda change: change.__name__)
def test_a_copy_is_found_and_nothing_else(script, images, change, tmp_path):
    file = tmp_path / "copy.jpg"
    change(Image.open(images[0].image).convert("L")).save(file, quality=60)
    copy = replace(images[0], id="copy", image=file, group="another")
    ((alike, one, other),) = script.near_copies([*images, copy])
    assert (one, other) == (images[0], copy)
    assert 0.8 < alike < 1


def test_what_is_known_is_no_news(script, images):
    copy = replace(images[0], id="copy", group="another")
    assert script.near_copies(images) == []
    assert len(script.near_copies([*images, copy])) == 1
    assert script.near_copies([*images, replace(copy, group=images[0].group)]) == []
    alike_known = [replace(image, lookalikes="a scene") for image in (images[0], copy)]
    assert script.near_copies([*images[1:], *alike_known]) == []


def test_copies_of_training_images_are_counted(script, images):
    copy = replace(images[0], id="copy", group="another")
    parts = {image.id: "train" for image in images} | {"copy": "test"}
    assert script.parted([(0.9, images[0], copy)], parts, "test") == {"copy"}
    assert script.parted([(0.9, images[0], copy)], parts | {"copy": "train"}, "test") == set()


def test_rescaled_copies_of_busi_are_found_and_listed(script, shared):
    pairs = {
        ("benign (154)", "benign (21)"),
        ("benign (221)", "benign (246)"),
        ("benign (213)", "benign (253)"),
        ("malignant (11)", "malignant (113)"),  # 0.74 times as large
        ("malignant (114)", "malignant (123)"),
        ("malignant (114)", "malignant (14)"),
    }
    names = {name for pair in pairs for name in pair}
    known = [sample for sample in segzoo.data.BUSI(shared / "data").samples() if sample.id in names]
    assert script.near_copies(known) == []
    # malignant (14) and (123) are of one group
    found = script.near_copies([replace(sample, lookalikes="") for sample in known])
    assert {tuple(sorted((one.id, other.id))) for _, one, other in found} == pairs
