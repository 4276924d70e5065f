"""torch.hub, from a cache folder as GitHub's archive leaves it, mostly in processes that have no segzoo installed."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import segzoo

ROOT = Path(__file__).parents[1]
SHIPPED = "model_cards/lv-unet-busi"


def read_hubconf(repository: Path = ROOT) -> ModuleType:
    """Run a hubconf.py as torch.hub does."""
    spec = importlib.util.spec_from_file_location("hubconf", repository / "hubconf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hubconf() -> ModuleType:
    """Of this repository, whose segzoo is the one that is imported."""
    return read_hubconf()


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """A folder for torch.hub with the repository in it, as far as GitHub's archive has weights."""
    hub = tmp_path_factory.mktemp("hub")
    unpacked = hub / "org_segzoo_main"
    for folder in ("src", SHIPPED):
        shutil.copytree(ROOT / folder, unpacked / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "hubconf.py", unpacked)
    return hub


@pytest.fixture(scope="module")
def site(tmp_path_factory, hubconf) -> Path:
    """What is installed, without segzoo in any form, and without what it requires but does not ask torch.hub for."""
    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {re.split(r"\W", line)[0] for line in project["dependencies"]}
    spared = named - {*hubconf.dependencies, "pillow", "pyyaml"}  # the last comes with lightning
    assert spared == {"monai", "jsonargparse", "scipy", "jinja2", "psutil", "pydicom"}
    for installed in [Path(folder) for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]:
        for entry in installed.iterdir():
            hidden = "segzoo" in entry.name or entry.suffix == ".pth" or re.split(r"\W", entry.name)[0] in spared
            if not hidden and not (site / entry.name).exists():
                (site / entry.name).symlink_to(entry)
    return site


@pytest.fixture
def stranger(tmp_path) -> Path:
    """A folder for the path, with a package that has nothing but the name in common."""
    package = tmp_path / "stranger" / "segzoo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "9"\ndef annotate(): pass\n')
    return package.parent


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose path is the standard library and these folders."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a process that succeeded."""
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


FRESH = """
import importlib.util, json, sys
assert importlib.util.find_spec("segzoo") is None
import numpy as np
import torch
from safetensors.torch import save_file
torch.hub.set_dir(hub)
where = "org/segzoo:main"
path = list(sys.path)
listed = torch.hub.list(where, trust_repo=True)
help = torch.hub.help(where, "lv_unet", trust_repo=True)
model = torch.hub.load(where, "lv_unet", pretrained=True, trust_repo=True)
assert sys.path == path
save_file(model.state_dict(), results + "/state.safetensors")
np.save(results + "/probabilities.npy", model.predict(image).probabilities)
import segzoo, segzoo.volumes
print(json.dumps({"listed": listed, "help": help, "training": model.training, "file": segzoo.volumes.__file__}))
"""


def test_a_fresh_cache_without_segzoo_lists_helps_loads_and_predicts(hub, site, samples, tmp_path):
    image = next((samples / "BUSI").rglob("benign (9).png"))
    given = f"hub, image, results = {str(hub)!r}, {str(image)!r}, {str(tmp_path)!r}"
    fresh = json.loads(printed(run(given + FRESH, site)))
    assert fresh["listed"] == segzoo.list_models()
    assert "LV-UNet: a light U-Net" in fresh["help"]
    assert "lv-unet-busi" in fresh["help"]
    assert Path(fresh["file"]).is_relative_to(hub)
    assert not fresh["training"]
    model = segzoo.from_pretrained("lv-unet-busi")
    state, expected = load_file(tmp_path / "state.safetensors"), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert np.array_equal(np.load(tmp_path / "probabilities.npy"), model.predict(image).probabilities)


def test_a_strangers_segzoo_on_the_path_loses(hub, site, stranger):
    code = f"""
import importlib.util, torch
assert importlib.util.find_spec("segzoo").origin.startswith({str(stranger)!r})
torch.hub.set_dir({str(hub)!r})
listed = torch.hub.list("org/segzoo:main", trust_repo=True)
import segzoo.preprocessing
print(segzoo.preprocessing.__file__, len(listed))
"""
    preprocessing = hub / "org_segzoo_main/src/segzoo/preprocessing/__init__.py"
    assert printed(run(code, stranger, site)) == f"{preprocessing} {len(segzoo.list_models())}"


# No torch is on the path of these: hubconf.py itself does without.
HUBCONF = """
import importlib.util, sys, warnings
import segzoo
warnings.simplefilter("always")
spec = importlib.util.spec_from_file_location("hubconf", REPOSITORY + "/hubconf.py")
hubconf = importlib.util.module_from_spec(spec)
path = list(sys.path)
try:
    spec.loader.exec_module(hubconf)
finally:
    assert sys.path == path
print(hubconf._segzoo.__file__, callable(hubconf.lv_unet))
"""


def test_a_strangers_segzoo_that_is_imported_already_is_one_sentence(hub, stranger):
    done = run(f"REPOSITORY = {str(hub / 'org_segzoo_main')!r}" + HUBCONF, stranger)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: another package called segzoo is imported already, from ")
    assert str(stranger / "segzoo" / "__init__.py") in message
    assert "in a process that does not import the other" in message


def test_another_copy_of_segzoo_that_is_imported_already_is_used_and_named(hub, tmp_path):
    other = shutil.copytree(hub / "org_segzoo_main" / "src", tmp_path / "other")
    package = other / "segzoo" / "__init__.py"
    package.write_text(package.read_text().replace(f'__version__ = "{segzoo.__version__}"', '__version__ = "0.0.7"'))
    done = run(f"REPOSITORY = {str(hub / 'org_segzoo_main')!r}" + HUBCONF, other)
    assert printed(done) == f"{package} True"
    own = hub / "org_segzoo_main" / "src" / "segzoo" / "__init__.py"
    assert f"segzoo 0.0.7 is imported already, from {package}" in done.stderr
    assert f"not segzoo {segzoo.__version__} in {own}" in done.stderr


def test_this_repositorys_own_segzoo_is_used_without_a_word(recwarn):
    assert read_hubconf()._segzoo is segzoo
    assert not recwarn.list


@pytest.mark.parametrize("name", segzoo.list_models())
def test_help_says_what_pretrained_accepts(hubconf, name):
    text = getattr(hubconf, name).__doc__
    facts = segzoo.registry.model_facts(name)
    assert text.startswith(facts.summary)
    assert f'torch.hub.load("<owner>/segzoo:v{segzoo.__version__}", "{name}", ' in text
    assert (f"True: the checkpoint {facts.pretrained}." in text) == (facts.pretrained is not None)
    assert ("True is refused" in text) == (facts.pretrained is None)
    listed = next(line for line in text.splitlines() if "Checkpoints of this model: " in line)
    assert (facts.pretrained or "") in listed


def test_random_weights_are_those_of_create_model(hubconf):
    for pretrained in ({}, {"pretrained": False}, {"pretrained": None}):
        torch.manual_seed(0)
        model = hubconf.cmunext_s(**pretrained, in_channels=1, num_classes=4, multilabel=True)
        torch.manual_seed(0)
        same = segzoo.create_model("cmunext_s", in_channels=1, num_classes=4, multilabel=True)
        assert model.arguments == same.arguments
        assert torch.equal(model.head.weight, same.head.weight)


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """Small checkpoints by name: of a variant, and of a model with an alias under either name."""
    mirror = tmp_path / "mirror"
    segzoo.create_model("cmunext_s").save_pretrained(mirror / "cmunext-s-toys")
    model = segzoo.create_model("mednext", width=2)
    model.save_pretrained(mirror / "mednext-toys")
    model.save_pretrained(mirror / "mednext-s-k3-blocks")
    monkeypatch.setenv("SEGZOO_HUB", str(mirror))
    return mirror


def test_pretrained_is_a_dataset_a_name_or_a_folder(hubconf, mirror, monkeypatch):
    monkeypatch.chdir(mirror)
    (mirror / "toys").mkdir()  # such as the images themselves: no checkpoint
    folder = mirror / "cmunext-s-toys"
    for pretrained in ("toys", "Toys", "cmunext-s-toys", str(folder), folder, "./cmunext-s-toys"):
        model = hubconf.cmunext_s(pretrained=pretrained)
        assert not model.training
        assert Path(model.load_report.source).resolve() == folder
    for entry_point in (hubconf.mednext, hubconf.mednext_s_k3):
        assert Path(entry_point("toys").load_report.source).name == "mednext-toys"
        assert Path(entry_point("blocks").load_report.source).name == "mednext-s-k3-blocks"


def test_help_lists_a_variants_checkpoints_with_that_variant(mirror):
    hubconf = read_hubconf()  # anew, since the text is made then
    assert "cmunext-s-toys" in hubconf.cmunext_s.__doc__
    assert "cmunext-s-toys" not in hubconf.cmunext.__doc__
    for entry_point in (hubconf.mednext, hubconf.mednext_s_k3):
        assert "mednext-s-k3-blocks" in entry_point.__doc__
        assert "mednext-toys" in entry_point.__doc__


def test_pretrained_by_dataset_is_the_default_and_takes_another_task(hubconf):
    model = hubconf.lv_unet("busi", in_channels=1, num_classes=3)
    assert Path(model.load_report.source).name == "lv-unet-busi"
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cmunext_s", {"pretrained": True}),
        ("cmunext", {"pretrained": "toys"}),
        ("cmunext", {"pretrained": "cmunext-s-toys"}),
        ("mednext", {"pretrained": "cmunext-s-toys"}),
        ("lv_unet", {"pretrained": "some/where", "local_files_only": True}),
        ("lv_unet", {"pretrained": 1}),
        ("lv_unet", {"pretrained": ""}),
        ("lv_unet", {"pretrained": True, "encoder": "x"}),
        ("lv_unet", {"revision": "v1"}),
        ("lv_unet", {"classes": 3}),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(hubconf, mirror, name, arguments, refused):
    with refused(segzoo.SegzooError) as raised:
        getattr(hubconf, name)(**arguments)
    assert "\n" not in str(raised.value)


def test_archives_hold_the_default_checkpoints_weights_alone():
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    weights = [f"model_cards/{name}/model.safetensors" for name in ("lv-unet-busi", "med-urwkv-busi", "any-other")]
    asked = subprocess.run(
        ["git", "check-attr", "export-ignore", *weights], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.rpartition(" ")[2] for line in asked.stdout.splitlines()] == ["unset", "set", "set"]
