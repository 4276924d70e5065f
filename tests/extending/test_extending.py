"""What others add to the zoo: a package installed beside it, and a builder registered in a loose file.

``package/`` holds one of each thing that can be added; CONTRIBUTING.md shows the same files. It is installed as a user
would, but without a network, and used by new processes, which find it by its metadata.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import processes
import segzoo
from hub_server import HubServer, client_environment
from segzoo.extensions import Table, announced

PACKAGE = Path(__file__).parent / "package"
QUIET = [
    "--trainer.logger",
    "false",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.enable_model_summary",
    "false",
]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the package installed in it."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source)
    offline = ["--no-build-isolation", "--no-index", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", target, source]
    subprocess.run([str(part) for part in command], check=True)
    return target


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Ten pictures of bright squares, and their masks."""
    root, random = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for index in range(10):
        mask = np.zeros((32, 32), np.uint8)
        row, column = random.integers(0, 20, 2)
        mask[row : row + 10, column : column + 10] = 255
        for folder, pixels in (("pictures", mask // 2 + random.integers(0, 60, mask.shape)), ("squares", mask)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{index}.png")
    return root


def fresh(home, *command, site=None, server=None):
    """A new process, beside whose segzoo the package is installed or is not."""
    path = [str(site)] if site else []
    environment = client_environment("http://127.0.0.1:9" if server is None else server.url, home)
    path += [str(Path(segzoo.__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = ":".join(path)
    return processes.run([sys.executable, *command], env=environment)


def shell(home, *arguments, **where):
    done = fresh(home, "-m", "segzoo.cli", *arguments, **where)
    assert "Traceback" not in done.stderr, done.stderr
    return done


# in one process, which imports torch once
COMMANDS = """
import contextlib, io, json, sys
from segzoo.cli import main
for command in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(command)
    print(json.dumps({"returncode": status, "stdout": out.getvalue(), "stderr": err.getvalue()}))
"""


def shells(home, *commands, **where):
    """What several commands say, in one new process."""
    done = fresh(home, "-c", COMMANDS, json.dumps([[str(part) for part in one] for one in commands]), **where)
    assert done.returncode == 0, done.stderr
    return [SimpleNamespace(**json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def trained(site, squares, tmp_path_factory):
    """The package's model, trained on its dataset by the command line."""
    home = tmp_path_factory.mktemp("trained")
    options = [
        "--data.root",
        squares,
        "--data.image_size",
        32,
        "--trainer.max_epochs",
        1,
        "--trainer.accelerator",
        "cpu",
    ]
    names = ["--model", "tiny_net", "--model.width", 4, "--data", "Squares", "--trainer.default_root_dir", home / "run"]
    done = shell(home, "fit", *names, *options, *QUIET, site=site)
    assert done.returncode == 0, done.stderr
    return home / "run" / "checkpoint"


def test_names_are_listed_without_an_import(site, tmp_path):
    code = "import sys, segzoo; print(segzoo.list_models('tiny*')); print('segzoo_tiny' in sys.modules)"
    assert fresh(tmp_path, "-c", code, site=site).stdout.splitlines() == ["['tiny_net']", "False"]
    assert "tiny_net         of the package segzoo-tiny" in shell(tmp_path, "list", "tiny*", site=site).stdout
    listed = json.loads(shell(tmp_path, "list", "--json", "tiny*", site=site).stdout)
    assert listed["models"] == {"tiny_net": {"name": "tiny_net", "package": "segzoo-tiny"}}
    assert segzoo.list_models("tiny*") == []  # here, where it is not installed


def test_a_checkpoint_names_its_package(trained):
    model = json.loads((trained / "config.json").read_text())["model"]
    assert (model["name"], model["package"], model["arguments"]["width"]) == ("tiny_net", "segzoo-tiny", 4)
    assert "TinyNet: two convolutions." in (trained / "README.md").read_text()


def test_a_model_of_a_package_does_what_the_zoos_do(trained, site, squares, tmp_path):
    """Described, tested, used, verified and exported, in a new process."""
    run = ["--trainer.default_root_dir", tmp_path / "test", *QUIET, "--trainer.accelerator", "cpu"]
    data = ["--data", "Squares", "--data.root", squares, "--metrics", "[dice,iou,f2]"]
    fixed = ["--size", 32, 32]  # which is written faster
    picture = squares / "pictures" / "0.png"
    np.save(tmp_path / "0.npy", np.asarray(Image.open(picture)))  # which the package's reader reads
    described, tested, predicted, read, verified, *exported = shells(
        tmp_path,
        ["info", "tiny_net"],
        ["test", "--model", trained, *data, *run],
        ["predict", trained, picture, "--output", tmp_path / "masks"],
        ["predict", trained, tmp_path / "0.npy", "--output", tmp_path / "read"],
        ["verify", trained],
        ["export", trained, tmp_path / "tiny.onnx"],
        ["export", trained, tmp_path / "tiny.onnx.gz", *fixed],  # the package's own format
        ["export", trained, tmp_path / "named.gz", "--format", "onnx-gz", *fixed],
        site=site,
    )
    assert "TinyNet: two convolutions." in described.stdout
    assert tested.returncode == 0, tested.stderr
    header, *rows = (tmp_path / "test" / "test_per_image.csv").read_text().splitlines()
    assert header == "id,dice,iou,f2"
    assert len(rows) == 2
    assert predicted.returncode == 0, predicted.stderr
    assert (tmp_path / "masks" / "0.png").is_file()
    assert (tmp_path / "read" / "0.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n", read.stderr
    assert (Image.open(tmp_path / "read" / "0.png").tobytes()) == Image.open(tmp_path / "masks" / "0.png").tobytes()
    assert "files intact" in verified.stdout
    for one in exported:
        assert "agrees with Python" in one.stdout, one.stderr


def test_a_model_of_a_package_goes_to_the_hub_and_comes_back(trained, site, squares, tmp_path):
    with HubServer() as server:
        pushed = shell(tmp_path, "push", trained, "owner/tiny", site=site, server=server)
        assert pushed.returncode == 0, pushed.stderr
        code = "import segzoo; print(segzoo.from_pretrained('owner/tiny').model_name)"
        assert fresh(tmp_path, "-c", code, site=site, server=server).stdout == "tiny_net\n"
        picture, output = squares / "pictures" / "0.png", tmp_path / "masks"
        told = shell(tmp_path, "predict", "owner/tiny", picture, "--output", output, server=server).stderr
    assert "the model 'tiny_net' comes from the package segzoo-tiny, which is not installed: pip install" in told


STEP = """
import sys, numpy, segzoo
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend
model = segzoo.from_pretrained(sys.argv[1])
image = numpy.zeros((32, 32), numpy.uint8)
class TwoSquares(TorchBackend):
    def compute(self, batch):
        found = super().compute(batch) * 0
        found[..., 2:6, 2:6] = found[..., 10:20, 10:20] = 1
        return found
for steps in ([], ["largest_component"]):
    print(int(Pipeline(TwoSquares(model), postprocessing=steps)(image).mask.sum()))
"""


def test_a_step_of_a_package_is_taken_by_its_name(trained, site, tmp_path):
    done = fresh(tmp_path, "-c", STEP, trained, site=site)
    assert done.stdout.split() == ["116", "100"], done.stderr


LOOSE = """
import segzoo
@segzoo.register(parameters=417_505, paper="a notebook")
def loose_net(**arguments) -> segzoo.CMUNeXt:
    return segzoo.CMUNeXt(widths=(8,) * 5, depths=(1,) * 5, kernel_sizes=(3,) * 5, **arguments)
"""


def test_a_model_of_a_loose_file_loads_where_that_was_imported(tmp_path, monkeypatch):
    (tmp_path / "loose.py").write_text(LOOSE)
    folder = tmp_path / "saved"
    with monkeypatch.context() as patch:
        patch.setattr("segzoo.registry._ADDED.added", {})  # what is registered here is forgotten
        exec(LOOSE, {"__name__": "loose"})
        segzoo.create_model("loose_net", num_classes=2).save_pretrained(folder)
    assert "package" not in json.loads((folder / "config.json").read_text())["model"]
    loading = f"import segzoo; print(segzoo.from_pretrained({str(folder)!r}).num_classes)"
    assert fresh(tmp_path, "-c", f"import loose\n{loading}", site=tmp_path).stdout == "2\n"
    with pytest.raises(segzoo.MissingError, match=r"no model 'loose_net'.* import that file first"):
        segzoo.from_pretrained(folder)


# ---- what cannot be added


def announce(folder, package, **entries):
    """Metadata of an installed package: group -> its lines of ``name = module:object``."""
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    groups = [f"[segzoo.{group}]\n" + "\n".join(lines) for group, lines in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(groups) + "\n")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder whose packages this process takes for installed."""
    monkeypatch.syspath_prepend(tmp_path)
    announced.cache_clear()
    yield tmp_path
    announced.cache_clear()


def test_names_of_the_zoo_cannot_be_taken(packages):
    announce(packages, "thief", models=["lv_unet = thief:lv_unet"], things=["round = thief:square"])
    assert type(segzoo.create_model("lv_unet")).__module__ == "segzoo.models.lv_unet"
    table = Table("things", {"round": "a ball"})
    assert (table["round"], list(table)) == ("a ball", ["round"])
    for take in (lambda: table.add("round", "mine"), lambda: exec(LOOSE.replace("loose_net", "cmunext"), {})):
        with pytest.raises(segzoo.SegzooError, match="segzoo's own"):
            take()


def test_a_package_that_cannot_be_imported_is_named(packages):
    announce(packages, "broken", models=["broken_net = broken_package:net"], things=["flat = broken_package:thing"])
    assert "broken_net" in segzoo.list_models()
    with pytest.raises(segzoo.SegzooError, match="comes from the package broken, which cannot be imported"):
        segzoo.create_model("broken_net")
    with pytest.warns(UserWarning, match="comes from the package broken, which cannot be imported"):
        assert list(Table("things", {"round": "a ball"}).usable()) == ["a ball"]


def test_of_two_packages_with_one_name_the_first_counts_and_the_other_is_named(packages):
    announce(packages, "second", things=["flat = json:loads"])
    announce(packages, "first", things=["flat = json:dumps"])
    with pytest.warns(UserWarning, match="first and second both announce 'flat'"):
        assert Table("things", {})["flat"] is json.dumps


def test_what_is_announced_must_be_registered(packages):
    announce(packages, "careless", models=["careless_net = json:loads"])
    with pytest.raises(segzoo.SegzooError, match="careless announces the model 'careless_net', but json:loads is not"):
        segzoo.create_model("careless_net")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "os.system"}, "no model 'os.system'"),
        ({"name": "os.system", "package": "os"}, "comes from the package os, which is not installed"),
        ({"name": "other_net", "package": "torch"}, "the package torch announces no model 'other_net'"),
    ],
)
def test_a_config_cannot_make_segzoo_import_anything(packages, tmp_path, model, message):
    announce(packages, "honest", models=["other_net = honest:other_net"])
    folder = segzoo.create_model("cmunext_s").save_pretrained(tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    config["model"] |= model
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(segzoo.SegzooError, match=message):
        segzoo.from_pretrained(folder)
