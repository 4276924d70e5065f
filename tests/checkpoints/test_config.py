"""config.json: what is read is what is written, unknown entries included, and models of other packages are named."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import segzoo
from segzoo import extensions
from segzoo.checkpoints.config import Config, read_config
from segzoo.checkpoints.entries import Licences
from segzoo.errors import MissingPackageError
from segzoo.registry import package_of, require_model
from segzoo.tasks import Task

CARDS = [Path(__file__).parents[2] / "model_cards" / name / "config.json" for name in segzoo.list_checkpoints()]


@pytest.fixture
def folder(tmp_path):
    return segzoo.create_model("cmunext_s").save_pretrained(tmp_path / "mine")


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---- what is read and written


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.parent.name)
def test_published_configs_are_written_as_they_were_read(file):
    config = read_config(file.parent)
    assert config.text().encode() == file.read_bytes()
    assert config.changed(metrics=config.entries["metrics"]).text().encode() == file.read_bytes()


def test_reading_imports_neither_torch_nor_the_hubs_client():
    code = (
        "import sys\nfrom pathlib import Path\nfrom segzoo.checkpoints.config import read_config\n"
        "for folder in sys.argv[1:]: print(read_config(Path(folder)).task)\n"
        "print({'torch', 'lightning', 'huggingface_hub', 'numpy'} & set(sys.modules))"
    )
    folders = [str(file.parent) for file in CARDS]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, check=True)
    *tasks, imported = done.stdout.splitlines()
    assert imported == "set()"
    assert len(tasks) == len(CARDS)


def test_entries_of_newer_versions_are_kept_and_written_back(folder):
    edit(folder, calibration={"temperature": 1.5}, metrics={"images": 3, "surface": [1, 2]})
    config = read_config(folder)
    changed = config.changed(version="1.1")
    assert (config.version, changed.version, changed.tag) == ("1.0", "1.1", "v1.1")
    assert json.loads(changed.text()) == {**json.loads((folder / "config.json").read_text()), "version": "1.1"}
    segzoo.from_pretrained(folder)


def test_codes_of_classes_are_taken_from_the_config_and_written_again(folder, tmp_path, refused):
    assert "codes" not in json.loads((folder / "config.json").read_text())
    codes = {"class 1": {"category": ["91723000", "SCT", "Anatomical Structure"], "type": ["10200004", "SCT", "Liver"]}}
    edit(folder, codes=codes)
    model = segzoo.from_pretrained(folder)
    assert model.codes == codes
    assert read_config(model.save_pretrained(tmp_path / "again")).codes == codes
    edit(folder, codes={"class 1": ["Liver"]})
    with refused(segzoo.SegzooError):
        read_config(folder)


def test_a_config_has_a_typed_face():
    config = read_config(next(file.parent for file in CARDS if file.parent.name == "mednext-s-k3-hippocampus"))
    assert (config.name, config.tag, config.spatial_dims) == ("mednext-s-k3-hippocampus", "v1.0", 3)
    assert config.task == Task(3)
    assert config.class_names == ("background", "Anterior", "Posterior")
    assert config.mask_names is None
    assert config.model.name == "mednext_s_k3"
    assert config.contract == segzoo.VolumePreprocessing.from_dict(config.preprocessing)
    assert config.metrics.original["dice"] > 0.8
    assert config.licences == Licences("Apache-2.0", "CC-BY-SA-4.0", "CC-BY-SA-4.0")


def test_what_a_config_does_not_say_is_not_claimed(folder):
    entries = json.loads((folder / "config.json").read_text())
    config = Config({key: entries[key] for key in ("format", "model", "preprocessing", "class_names", "sha256")})
    assert (config.version, config.metrics, config.example, config.licence) == ("1.0", None, None, None)
    assert (config.data, config.started_from) == ({}, {})
    assert "metrics" not in json.loads(config.text())


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"original": 5}},
        {"example": "BUSI"},
        {"model": {"name": "cmunext_s", "arguments": {"num_classes": 0}}},
    ],
)
def test_strange_entries_are_refused_by_the_files_name(folder, changes, refused):
    edit(folder, **changes)
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder)


def test_lightnings_files_of_old_leave_the_licence_as_it_is():
    model, other = segzoo.create_model("cmunext_s", num_classes=3), segzoo.create_model("cmunext_s", num_classes=3)
    model.class_names, model.data, model.licence = ("none", "one", "two"), {"dataset": "BUSI"}, "MIT"
    model.preprocessing = segzoo.Preprocessing(image_size=(96, 64))
    checkpoint = {}
    model.on_save_checkpoint(checkpoint)
    other.on_load_checkpoint(checkpoint)
    assert (other.class_names, other.data, other.licence) == (model.class_names, model.data, "MIT")
    assert other.preprocessing == model.preprocessing
    del checkpoint["segzoo"]["licence"]
    other.licence = "CC0-1.0"
    other.on_load_checkpoint(checkpoint)
    assert other.licence == "CC0-1.0"


def test_lightnings_files_that_lack_a_part_are_refused(refused):
    model = segzoo.create_model("cmunext_s")
    with refused(segzoo.SegzooError):
        model.on_load_checkpoint({"segzoo": {"data": {}}})


# ---- models of other packages


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package, as far as its metadata go, that announces a model and fails when it is imported."""
    site = tmp_path / "site"
    facts = site / "my_nets-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: My.Nets\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[segzoo.models]\nmy_net = my_nets:my_net\nlv_unet = my_nets:other\n")
    (site / "my_nets.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(site)
    importlib.invalidate_caches()
    extensions.announced.cache_clear()
    yield "my-nets"
    extensions.announced.cache_clear()


def test_a_model_of_a_package_is_one_that_it_announces(package, refused):
    assert package_of("my_net") == "My.Nets"
    require_model("my_net", package)
    with refused(segzoo.SegzooError):
        require_model("their_net", package)
    with refused(segzoo.SegzooError):
        require_model("my_net", "torch")


def test_the_zoos_own_models_come_from_no_package(package, refused):
    assert package_of("lv_unet") is None
    with refused(segzoo.SegzooError):
        require_model("lv_unet", package)


def test_a_missing_package_is_one_sentence_that_says_what_to_install(folder):
    model = {"name": "my_net", "arguments": {"num_classes": 1}, "package": "not-installed-nets"}
    edit(folder, model=model)
    assert json.loads(read_config(folder).text())["model"] == model
    sentence = (
        "the model 'my_net' comes from the package not-installed-nets, which is not installed: "
        "pip install not-installed-nets"
    )
    with pytest.raises(MissingPackageError) as raised:
        segzoo.from_pretrained(folder)
    assert str(raised.value) == sentence
    assert isinstance(raised.value, ImportError)


@pytest.mark.parametrize("package", ["", None, 3, ["a"], "a b", "-r", "nets; rm -rf x", "git+https://x/y", "../nets"])
def test_a_package_is_named_and_nothing_else(folder, package, refused):
    edit(folder, model={"name": "cmunext_s", "arguments": {}, "package": package})
    with refused(segzoo.SegzooError):
        segzoo.from_pretrained(folder)


def test_models_without_a_package_say_none(folder):
    assert json.loads((folder / "config.json").read_text())["model"].keys() == {"name", "arguments"}
    assert read_config(folder).model.package is None
