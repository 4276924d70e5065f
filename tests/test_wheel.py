"""Wheel: with the page where it has been built, and whole without."""

import shutil
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("hatchling")
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path):
    """What a wheel is built from, in a folder to build in."""
    folder = tmp_path / "clone"
    for name in ("src/segzoo", "model_cards/lv-unet-busi"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def names(clone, version):
    (wheel,) = WheelBuilder(str(clone)).build(directory=str(clone / "dist"), versions=[version])
    with ZipFile(wheel) as archive:
        return archive.namelist()


def build_page(clone):
    (clone / "web" / "dist" / "assets").mkdir(parents=True)
    for name in ("index.html", "assets/ort.wasm"):
        (clone / "web" / "dist" / name).touch()


def test_a_wheel_is_whole_without_the_page(clone):
    found = names(clone, "standard")
    assert "segzoo/model_cards/lv-unet-busi/model.safetensors" in found
    assert not [name for name in found if name.startswith("segzoo/page/")]


def test_a_wheel_has_the_page_that_was_built(clone):
    build_page(clone)
    assert {"segzoo/page/index.html", "segzoo/page/assets/ort.wasm"} <= set(names(clone, "standard"))


def test_an_editable_installation_finds_the_page_where_it_is_built(clone):
    build_page(clone)
    assert not [name for name in names(clone, "editable") if "page" in name]
