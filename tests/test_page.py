"""Page around its code: in the wheel, and where its tests cannot run. What it does is tested in web/tests."""

import os
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("hatchling")
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
TOOLS = ("env", "bash", "dirname", "head")  # that the script itself needs


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


# ---- where it cannot be tested


@pytest.fixture
def run(tmp_path):
    """Run the script of `make test-web` with these programs, which do nothing."""

    def run(*programs, **environment):
        for name in (*programs, *TOOLS):
            found = shutil.which(name) if name in TOOLS else None
            (tmp_path / name).symlink_to(found or shutil.which("true"))
        environment = {**os.environ, "PATH": str(tmp_path), "SEGZOO_WEB": "", "CHROMIUM": "", **environment}
        return subprocess.run([ROOT / ".ci" / "test-web"], env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("programs", "reason"), [((), "Node.js"), (("node",), "Node.js"), (("node", "npm"), "Chromium")]
)
def test_what_is_missing_to_test_the_page_is_said(run, programs, reason):
    ended = run(*programs)
    assert ended.returncode == 0
    assert "test-web: skipped" in ended.stderr
    assert reason in ended.stderr


def test_a_chromium_that_is_not_there_is_named(run):
    assert "/not/here" in run("node", "npm", CHROMIUM="/not/here").stderr


def test_nothing_may_be_missing_where_the_page_must_be_tested(run):
    assert run(SEGZOO_WEB="required").returncode == 1


def test_with_all_of_it_the_page_is_tested(run):
    ended = run("node", "npm", "npx", "make", "chromium", SEGZOO_WEB="required")
    assert (ended.returncode, ended.stderr) == (0, "")
