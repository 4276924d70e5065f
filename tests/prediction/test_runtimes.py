"""``segzoo predict FILE.onnx``: by each backend what the checkpoint finds, images without torch."""

import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

import processes
import segzoo
from segzoo.cli.command import main
from segzoo.imaging.images import read_image
from segzoo.imaging.volumes import read_volume_mask
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.runtimes import BACKENDS, choose_backend, open_exported, thread_count
from segzoo.preprocessing import exported

pytest.importorskip("onnxscript", reason="nothing can be exported without onnxscript")
onnx = pytest.importorskip("onnx")

ROUNDING = 2e-5  # of a probability


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


def lively(model: segzoo.CMUNeXt, image: Path) -> segzoo.CMUNeXt:
    """A random network for 64 x 48 pixels that is of many minds: on this image every class has the same say."""
    torch.manual_seed(1)
    model.preprocessing = segzoo.Preprocessing(3, image_size=(64, 48))
    for layer in model.eval().modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias)
    with torch.no_grad():
        std, mean = torch.std_mean(model(model.preprocessing(read_image(image))[None]), (0, 2, 3))
        model.head.weight.div_(std[:, None, None, None])
        model.head.bias.sub_(mean).div_(std)
    return model


@pytest.fixture(scope="module")
def zoo(samples: Path, tmp_path_factory: pytest.TempPathFactory, small_models: None) -> SimpleNamespace:
    """Checkpoints and the files exported from them, by name; that of "labels" has the network's own size alone."""
    root = tmp_path_factory.mktemp("zoo")
    image = next((samples / "BUSI").rglob("benign (9).png"))
    torch.manual_seed(0)
    models = {
        "classes": lively(segzoo.create_model("small_images", num_classes=3), image),
        "labels": lively(segzoo.create_model("small_images", num_classes=2, multilabel=True), image),
        "volumes": segzoo.create_model("small_volumes", num_classes=3).eval(),
    }
    models["labels"].class_names = ("left", "right/outer side")
    models["volumes"].preprocessing = segzoo.VolumePreprocessing(1, patch_size=(16, 32, 16), mirror_axes=(0, 2))
    sizes = {"labels": (64, 48)}
    files = {name: model.export(root / f"{name}.onnx", size=sizes.get(name)).path for name, model in models.items()}
    checkpoints = {name: model.save_pretrained(root / name) for name, model in models.items()}
    return SimpleNamespace(root=root, models=models, files=files, checkpoints=checkpoints)


@pytest.fixture
def images(samples: Path, tmp_path: Path) -> Path:
    """Real images of two sizes, one of them in grey, in a folder."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("benign (9)", "malignant (21)"):
        shutil.copy(next((samples / "BUSI").rglob(f"{name}.png")), folder)
    Image.open(folder / "benign (9).png").convert("L").resize((90, 71)).save(folder / "grey.png")
    return folder


@pytest.fixture
def scan(samples: Path) -> Path:
    return samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_149.nii.gz"


def predict(source: Path, given: Path, output: Path, *options: Any) -> int:
    return main([str(word) for word in ("predict", source, given, "--output", output, *options)])


def differing(one: Path, other: Path) -> float:
    """The largest part of the pixels in which pictures of the same name in two folders differ."""
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in other.iterdir())
    parts = []
    for name in names:
        pixels, others = (np.asarray(Image.open(folder / name)) for folder in (one, other))
        assert (pixels.shape, pixels.dtype) == (others.shape, others.dtype)
        parts.append(float((pixels != others).mean()))
    return max(parts)


# ---- images


@pytest.mark.parametrize("name", ["classes", "labels"])
def test_masks_and_overlays_are_those_of_the_checkpoint(name, backend, zoo, images, tmp_path, capsys):
    assert predict(zoo.checkpoints[name], images, tmp_path / "expected", "--overlay") == 0
    expected = capsys.readouterr().out.splitlines()
    assert predict(zoo.files[name], images, tmp_path / "found", "--overlay", "--backend", backend) == 0
    printed = capsys.readouterr()
    assert len(list((tmp_path / "found").iterdir())) == {"classes": 6, "labels": 9}[name]
    assert differing(tmp_path / "expected", tmp_path / "found") < 1e-4  # where rounding decides
    assert [line.replace("/found/", "/expected/") for line in printed.out.splitlines()] == expected
    (told,) = printed.err.splitlines()
    assert {"onnxruntime": "ONNX Runtime ", "openvino": "OpenVINO "}[backend] in told
    assert told.endswith("on the CPU, 1 thread, float32")


def test_a_large_image_is_resized_outside_of_the_graph(backend, zoo, images, monkeypatch):
    """Where resizing takes less memory."""
    monkeypatch.setattr(exported, "GRAPH_PIXELS", 1000)
    predictor, model = Pipeline(open_exported(zoo.files["classes"], backend)), zoo.models["classes"]
    for file in images.iterdir():
        given = predictor.read(file)
        assert given.batch.shape[2:] == model.preprocessing.image_size
        (found,) = predictor.segment([given])
        np.testing.assert_allclose(found.probabilities, model.predict(file).probabilities, atol=ROUNDING)


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("name", ["classes", "labels"])
def test_probabilities_are_those_of_the_checkpoint(name, tta, backend, zoo, images, scan):
    model = zoo.models[name]
    predictor = Pipeline(open_exported(zoo.files[name], backend), tta=tta)
    for file in [*sorted(images.iterdir()), scan]:
        (found,) = predictor.segment([predictor.read(file)])
        expected = model.predict(file, tta=tta)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=ROUNDING)
        assert found.probabilities.dtype == expected.probabilities.dtype
        assert (found.mask.shape, found.mask.dtype) == (expected.mask.shape, expected.mask.dtype)
        assert (found.mask != expected.mask).mean() < 1e-4
        assert any(0.01 < part.mean() < 0.99 for part in expected.class_masks()), "nothing to tell apart"
        assert found.class_names == expected.class_names
        np.testing.assert_array_equal(found.image, expected.image)
        assert (found.geometry is None) == (expected.geometry is None)


def test_a_predictor_of_a_file_takes_frames_and_streams_of_them(backend, zoo, images):
    predictor, model = segzoo.Predictor(zoo.files["classes"], backend=backend), zoo.models["classes"]
    assert {"onnxruntime": "ONNX Runtime ", "openvino": "OpenVINO "}[backend] in predictor.description
    frames = [read_image(file) for file in sorted(images.iterdir())]
    expected = model.predict(frames)
    for found in (predictor(frames), predictor.stream(iter(frames))):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=ROUNDING)


def test_masks_of_slices_lie_where_their_volume_does(zoo, scan, tmp_path):
    for name, source in (("expected", zoo.checkpoints["labels"]), ("found", zoo.files["labels"])):
        assert predict(source, scan, tmp_path / name, "--overlay") == 0
    written = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert written == [f"hippocampus_149_{end}" for end in ("left.nii.gz", "overlay.png", "right-outer-side.nii.gz")]
    for name in written[::2]:
        (mask, grid), (expected, own) = (read_volume_mask(tmp_path / folder / name) for folder in ("found", "expected"))
        assert (mask != expected).mean() < 1e-4
        np.testing.assert_array_equal(grid.affine, own.affine)


def test_an_image_needs_neither_torch_nor_a_second(zoo, images, tmp_path):
    pytest.importorskip("onnxruntime")
    Image.open(images / "malignant (21).png").resize((256, 256)).save(images / "square.png")
    arguments = ["predict", str(zoo.files["classes"]), str(images / "square.png"), "--output", str(tmp_path / "masks")]
    heavy = ("torch", "lightning", "monai", "timm", "onnx", "openvino", "SimpleITK", "huggingface_hub", "scipy")
    heavy += ("tqdm", "multiprocessing", "importlib.metadata", "matplotlib", "segzoo.prediction.workers")
    code = (
        "import sys\n"
        "from segzoo.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "import numpy, segzoo\n"
        f"frame, predictor = numpy.zeros((40, 50, 3), 'uint8'), segzoo.Predictor({arguments[1]!r})\n"
        "assert [found.mask.shape for found in predictor.stream([frame] * 2)] == [(40, 50)] * 2\n"
        f"print('imported', *(name for name in {heavy!r} if name in sys.modules))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.splitlines()[-1] == "imported", done.stderr
    assert (tmp_path / "masks" / "square.png").is_file()
    # of the processor, in one thread, whatever else keeps this machine busy
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


# ---- volumes


@pytest.mark.parametrize("tta", [False, True])
def test_volumes_are_segmented_window_by_window(tta, backend, zoo, scan, tmp_path):
    options = ["--overlap", 0.25, *["--tta"] * tta]
    assert predict(zoo.checkpoints["volumes"], scan, tmp_path / "expected", *options) == 0
    assert predict(zoo.files["volumes"], scan, tmp_path / "found", *options, "--backend", backend) == 0
    expected, found = (read_volume_mask(tmp_path / name / scan.name)[0] for name in ("expected", "found"))
    assert len(np.unique(expected)) > 1
    assert (expected != found).mean() < 1e-4
    predictor = Pipeline(open_exported(zoo.files["volumes"], backend), tta=tta, overlap=0.25)
    (segmentation,) = predictor.segment([predictor.read(scan)])
    probabilities = zoo.models["volumes"].predict(scan, tta=tta, overlap=0.25).probabilities
    np.testing.assert_allclose(segmentation.probabilities, probabilities, atol=ROUNDING)


# ---- again, and in several processes


def test_masks_are_kept_for_as_long_as_the_file_and_the_backend_are_the_same(zoo, images, tmp_path, capsys):
    file = Path(shutil.copy(zoo.files["classes"], tmp_path))
    output = tmp_path / "masks"

    def kept(source: Path, *options: str) -> bool:
        assert predict(source, images, output, *options) == 0
        return "3 of 3 were done before" in capsys.readouterr().out

    assert not kept(file)
    assert kept(file)
    assert not kept(file, "--tta")
    assert not kept(file)
    changed = onnx.load(file)
    changed.doc_string = "another one"
    onnx.save(changed, file)
    assert not kept(file)
    assert kept(file)
    if find_spec("openvino"):
        assert not kept(file, "--backend", "openvino")
    assert not kept(zoo.checkpoints["classes"])
    assert not kept(zoo.files["labels"])
    assert kept(zoo.files["labels"])


@pytest.mark.slow
def test_processes_share_the_work(zoo, images, tmp_path):
    assert predict(zoo.files["classes"], images, tmp_path / "one") == 0
    arguments = ["predict", zoo.files["classes"], images, "--output", tmp_path / "two", "--devices", 2]
    command = [sys.executable, "-m", "segzoo.cli", *map(str, arguments)]
    done = processes.run(command)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert differing(tmp_path / "one", tmp_path / "two") == 0


def test_another_process_opens_a_session_of_its_own(zoo):
    model = open_exported(zoo.files["labels"])
    assert "session" in vars(model)
    other = pickle.loads(pickle.dumps(model))
    assert "session" not in vars(other)
    assert (other.mask_names, other.identity) == (model.mask_names, model.identity)


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("", None), ("many", None), ("0", None)])
def test_threads_are_those_that_torch_would_have(said, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(5)), raising=False)
    assert thread_count() == (threads or 5)


# ---- what cannot be done


def made_at_another_size(zoo: SimpleNamespace, root: Path) -> Path:
    """A file of one size, which is not that of its network."""
    model = onnx.load(zoo.files["labels"])
    facts = json.loads(model.metadata_props[0].value)
    facts["preprocessing"]["image_size"] = [32, 32]
    model.metadata_props[0].value = json.dumps(facts)
    onnx.save(model, root / "odd.onnx")
    return root / "odd.onnx"


def foreign(zoo: SimpleNamespace, root: Path) -> Path:
    model = onnx.load(zoo.files["classes"])
    del model.metadata_props[:]
    onnx.save(model, root / "foreign.onnx")
    return root / "foreign.onnx"


def damaged(zoo: SimpleNamespace, root: Path) -> Path:
    content = zoo.files["classes"].read_bytes()
    (root / "damaged.onnx").write_bytes(content[: len(content) // 2])
    return root / "damaged.onnx"


def saying(change: Any) -> Any:
    """The file with other metadata: the text itself, or what is changed of the facts."""

    def write(zoo: SimpleNamespace, root: Path) -> Path:
        model = onnx.load(zoo.files["classes"])
        text = model.metadata_props[0].value
        model.metadata_props[0].value = change if isinstance(change, str) else json.dumps(json.loads(text) | change)
        onnx.save(model, root / "odd.onnx")
        return root / "odd.onnx"

    return write


def odd(reason: str) -> str:
    return rf"error: \S*odd\.onnx was not written by segzoo export, or by another version of it; .* \(.*{reason}.*\)$"


REFUSALS: dict[str, tuple[Any, list[Any], str]] = {
    "no such file": (lambda zoo, root: root / "none.onnx", [], r"no file .*none\.onnx; `segzoo export` writes one"),
    "its suffix in capitals": (lambda zoo, root: root / "none.ONNX", [], r"no file .*none\.ONNX; `segzoo export`"),
    "damaged": (damaged, [], r"damaged\.onnx cannot be opened by onnxruntime: it is damaged"),
    "of somebody else": (foreign, [], r"foreign\.onnx was not written by segzoo export"),
    "metadata that are no JSON": (saying("{oops"), [], odd("property name")),
    "metadata of another form": (saying("[]"), [], odd("lack everything")),
    "metadata that lack a part": (saying('{"model": {}}'), [], odd("lack class_names, multilabel, num_classes, ")),
    "metadata without preprocessing": (saying({"preprocessing": {}}), [], odd("its preprocessing as {}")),
    "metadata without a size": (saying({"preprocessing": {"channels": 3}}), [], odd("its preprocessing as {")),
    "metadata of a volume": (saying({"preprocessing": {"channels": 1, "patch_size": [0]}}), [], odd("patch_size must")),
    "metadata without a model": (saying({"model": "cmunext_s"}), [], odd("its model as 'cmunext_s'")),
    "metadata without a number": (saying({"num_classes": "3"}), [], odd("num_classes is '3'")),
    "metadata of other classes": (saying({"class_names": ["one", "two"]}), [], odd("must name the model's 3 classes")),
    "metadata of more classes": (
        saying({"num_classes": 4, "class_names": ["none", "one", "two", "three"]}),
        [],
        r"3 of 3 inputs .*odd\.onnx gives 3 classes where its metadata announce 4; export it again",
    ),
    "of PyTorch": (
        lambda zoo, root: root / "model.pt2",
        [],
        r"model\.pt2 is a program for torch\.export\.load",
    ),
    "on a GPU": (lambda zoo, root: zoo.files["classes"], ["--device", "cuda"], r"classes\.onnx runs on the CPU; leave"),
    "a checkpoint": (
        lambda zoo, root: "lv-unet-busi",
        ["--backend", "openvino"],
        r"openvino runs \.onnx files, and lv-unet-busi is none; `segzoo export lv-unet-busi FILE\.onnx` writes it",
    ),
    "of one size": (
        made_at_another_size,
        [],
        r"3 of 3 inputs .*benign \(9\)\.png is \d+ x \d+ and .*odd\.onnx takes only 64 x 48; export it again without",
    ),
    "of volumes": (lambda zoo, root: zoo.files["volumes"], [], r"This model segments volumes .*\.png is none"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_done_is_said_in_one_sentence(case, zoo, images, tmp_path, capsys):
    source, options, wanted = REFUSALS[case]
    assert predict(source(zoo, tmp_path), images, tmp_path / "masks", *options) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("segzoo: error: ")
    assert len(err.splitlines()[-1]) < 500
    assert re.search(wanted, err.splitlines()[-1]), err


def test_a_damaged_file_is_one_to_every_backend(backend, zoo, tmp_path, refused):
    for spoil in (damaged, foreign):
        with refused(segzoo.SegzooError):
            open_exported(spoil(zoo, tmp_path), backend)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "there is not enough memory for it"),
        (
            RuntimeError("bad allocation\nin a node"),
            r"onnxruntime cannot compute an input of 71 x 90 \(bad allocation\)",
        ),
    ],
)
def test_an_image_that_a_backend_cannot_take_stops_no_other(error, message, zoo, images, tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxruntime")
    open_session = BACKENDS["onnxruntime"]

    def open_small(*opened):
        def run(x):
            if x.shape[-1] == 90:
                raise error
            return session.run(x)

        session = open_session(*opened)
        return replace(session, run=run)

    monkeypatch.setitem(BACKENDS, "onnxruntime", open_small)
    assert predict(zoo.files["classes"], images, tmp_path / "out", "--backend", "onnxruntime") == 2
    assert re.search(f"{images / 'grey.png'}: {message}", capsys.readouterr().err)
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_volume_smaller_than_a_window_is_segmented_where_windows_may_vary(zoo, scan, tmp_path, capsys):
    whole = sitk.ReadImage(str(scan))
    sitk.WriteImage(whole[:12], str(tmp_path / "thin.nii.gz"))
    for name, source in (("expected", zoo.checkpoints["volumes"]), ("found", zoo.files["volumes"])):
        assert predict(source, tmp_path / "thin.nii.gz", tmp_path / name) == 0
    expected, found = (read_volume_mask(tmp_path / name / "thin.nii.gz")[0] for name in ("expected", "found"))
    assert (expected == found).mean() > 0.999
    model = onnx.load(zoo.files["volumes"])
    for dimension, side in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], (16, 32, 16), strict=True):
        dimension.dim_value = side
    onnx.save(model, fixed := tmp_path / "fixed.onnx")
    assert predict(fixed, tmp_path / "thin.nii.gz", tmp_path / "masks") == 2
    assert "fewer than the windows of 16 x 32 x 16 that" in capsys.readouterr().err


def test_onnx_runtime_reports_nothing(tmp_path):
    """What it would report with keeps a file of its own among the temporary ones."""
    pytest.importorskip("onnxruntime")
    kept = ("PATH", "HOME", "PYTHONPATH")  # not that this is CI, where nothing is reported
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    for first, left in (("", {".ses"}), ("import segzoo; ", set())):
        (folder := tmp_path / f"after{len(left)}").mkdir()
        command = [sys.executable, "-c", first + "import onnxruntime"]
        done = processes.run(command, env=environment | {"TMPDIR": str(folder)})
        assert done.returncode == 0, done.stderr
        assert {file.name for file in folder.iterdir()} == left


def test_openvino_reports_nothing():
    if find_spec("openvino_telemetry") is None:
        pytest.skip("OpenVINO, or what it reports with, is not installed")
    code = "from segzoo.prediction.runtimes import import_openvino; import_openvino()\n"
    code += "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    done = processes.run([sys.executable, "-c", code])
    assert done.stdout == "openvino.tools.ovc.telemetry_stub\n", done.stderr


def test_a_file_is_compiled_by_its_runtime_alone(zoo, refused):
    with refused(segzoo.SegzooError):
        segzoo.Predictor(zoo.files["classes"], compile=True)


@pytest.fixture
def computes_bfloat16() -> None:
    """What OpenVINO computes of it where the processor has no such instructions is refused."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no instructions for bfloat16")


def test_openvino_computes_in_bfloat16_where_asked(zoo, images, tmp_path, capsys, computes_bfloat16):
    file, masks = zoo.files["classes"], tmp_path / "masks"
    assert predict(file, images, masks, "--backend", "openvino") == 0
    capsys.readouterr()
    assert predict(file, images, masks, "--precision", "bfloat16") == 0  # nothing that was done before is taken for it
    printed = capsys.readouterr()
    assert "before" not in printed.out
    assert "OpenVINO" in printed.err
    assert printed.err.strip().endswith("float32 computed in bfloat16")
    image = next(images.iterdir())
    found, expected = (
        segzoo.Predictor(file, backend="openvino", precision=one)(image) for one in ("bfloat16", "float32")
    )
    difference = np.abs(found.probabilities - expected.probabilities).mean()
    assert 1e-4 < difference < 0.2  # in a random network, made to be of many minds


def test_workers_compute_in_what_was_asked_for(zoo, computes_bfloat16):
    copied = pickle.loads(pickle.dumps(open_exported(zoo.files["classes"], precision="bfloat16")))
    assert "bfloat16" in copied.description


def test_onnx_runtime_computes_in_what_the_file_is_written_in(zoo, refused):
    with refused(segzoo.SegzooError):
        segzoo.Predictor(zoo.files["classes"], backend="onnxruntime", precision="bfloat16")


def test_openvino_needs_instructions_for_bfloat16(zoo, monkeypatch, refused):
    pytest.importorskip("openvino")
    core = SimpleNamespace(get_property=lambda *_: ["FP32", "INT8"])
    old = SimpleNamespace(Core=lambda: core, __version__="2026.4.1")
    monkeypatch.setattr("segzoo.prediction.runtimes.import_openvino", lambda: old)
    with refused(segzoo.SegzooError):
        segzoo.Predictor(zoo.files["classes"], backend="openvino", precision="bfloat16")


def test_nncf_reports_nothing():
    if None in map(find_spec, ("openvino_telemetry", "nncf")):
        pytest.skip("NNCF, or what it reports with, is not installed")
    code = "from segzoo.prediction.runtimes import import_unreported; import_unreported('nncf')\n"
    code += "from nncf.telemetry import wrapper; print(type(wrapper.telemetry).__name__, hasattr(wrapper, 'Telemetry'))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NNCF_")}
    done = processes.run([sys.executable, "-c", code], env=kept)
    assert done.stdout.splitlines()[-1] == "MagicMock False", done.stderr


def test_the_first_backend_that_is_installed_is_taken(monkeypatch, refused):
    monkeypatch.setattr("segzoo.prediction.runtimes.find_spec", lambda name: None if name == "onnxruntime" else 1)
    assert choose_backend(None) == "openvino"
    with refused(segzoo.MissingError):
        choose_backend("onnxruntime")
    monkeypatch.setattr("segzoo.prediction.runtimes.find_spec", lambda name: None)
    with refused(segzoo.MissingError):
        choose_backend(None)
    monkeypatch.undo()
    assert choose_backend("openvino" if find_spec("openvino") else "onnxruntime") in BACKENDS
