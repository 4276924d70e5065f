"""OpenVINO's and ExecuTorch's files compute what Python does, and what others need is said where it is."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo import cli
from segzoo.export.formats import ROUTES
from segzoo.export.openvino import OpenVINO
from segzoo.imaging.masks import read_mask
from segzoo.prediction.runtimes import FACTS, open_exported

SIZE = (64, 48)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(images):
    """A small CMUNeXt of many minds: on this image every class has the same say."""
    torch.manual_seed(0)
    model = segzoo.CMUNeXt(num_classes=3, widths=(4, 4, 8, 8, 8), kernel_sizes=(3, 3, 3, 3, 3)).eval()
    model.preprocessing = segzoo.Preprocessing(3, image_size=SIZE)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias)
    with torch.no_grad():
        logits = model(model.preprocessing(np.array(Image.open(images / "large.png")))[None])
        std, mean = torch.std_mean(logits, (0, 2, 3))
        model.head.weight.div_(std[:, None, None, None])
        model.head.bias.sub_(mean).div_(std)
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, shape in {"own.png": (*SIZE, 3), "large.png": (130, 177, 3)}.items():
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def ir(model, tmp_path_factory) -> Path:
    """The model as OpenVINO's pair of files."""
    pytest.importorskip("onnxscript")
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    written = model.export(tmp_path_factory.mktemp("ir") / "model.xml", size=SIZE, details={"licence": "MIT"})
    assert written.difference <= 5e-5
    assert written.size == sum(file.stat().st_size for file in written.path.parent.iterdir())
    return written.path


def moved(ir: Path, folder: Path) -> Path:
    """A copy of the pair."""
    for file in ir.parent.iterdir():
        shutil.copy(file, folder)
    return folder / ir.name


def predict(*words) -> int:
    return cli.main(["predict", *map(str, words)])


def test_volumes_become_the_layers_that_openvino_is_fast_in(tmp_path):
    """Kernels of 5 x 5 x 5 whole, and norms of reductions in its own layout: a list of voxels would be another."""
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    model = segzoo.MedNeXt(width=4, depths=1, num_classes=2, kernel_size=5).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    written = model.export(tmp_path / "model.xml", size=(32, 32, 48))
    assert written.difference <= 5e-5
    operations = openvino.Core().read_model(written.path).get_ordered_ops()
    assert "MVN" not in {operation.get_type_name() for operation in operations}
    kernels = [
        list(operation.input(1).get_shape())[-3:]
        for operation in operations
        if operation.get_type_name() == "GroupConvolution"
    ]
    assert kernels.count([5, 5, 5]) == 13  # 9 blocks and 4 that go down


def test_openvinos_files_predict_what_the_model_does(model, ir, images, tmp_path):
    assert {file.name for file in ir.parent.iterdir()} == {"model.xml", "model.bin"}  # and no draft
    assert predict(ir, images, "--output", tmp_path) == 0
    for image in images.iterdir():
        found = read_mask(tmp_path / image.name)
        assert (found == model.predict(image).mask).mean() > 0.999
        assert len(np.unique(found)) == 3
    assert open_exported(ir).metadata.entries["licence"] == "MIT"
    assert b"site-packages" not in ir.read_bytes()
    assert str(ir.parent).encode() not in ir.read_bytes()


def test_a_pair_that_does_not_belong_together_is_refused(ir, tmp_path, refused):
    path = moved(ir, tmp_path)
    beside = path.with_suffix(".bin")
    beside.write_bytes(beside.read_bytes()[:-4] + b"good")
    with refused(segzoo.SegzooError):
        open_exported(path)
    beside.unlink()
    with refused(segzoo.MissingError):
        open_exported(path)
    with refused(segzoo.SegzooError):
        open_exported(ir, "onnxruntime")
    path.write_bytes(re.sub(rb"<segzoo_weights[^>]*>", b"", path.read_bytes()))
    with refused(segzoo.SegzooError):
        open_exported(path)


def test_a_second_file_is_not_written_over_another_programs(model, ir, tmp_path, monkeypatch, refused):
    (tmp_path / "model.bin").write_text("of another program")
    with refused(segzoo.SegzooError):
        model.export(tmp_path / "model.xml", size=SIZE)
    assert [file.name for file in tmp_path.iterdir()] == ["model.bin"]
    path = moved(ir, tmp_path)  # its own pair is replaced
    before = path.with_suffix(".bin").read_bytes()

    def write_again(self, request, draft):
        for suffix in (".xml", ".bin"):
            shutil.copy(ir.with_suffix(suffix), draft.with_suffix(suffix))

    monkeypatch.setattr(OpenVINO, "write", write_again)
    path.with_suffix(".bin").write_bytes(b"")
    model.export(path, size=SIZE)
    assert path.with_suffix(".bin").read_bytes() == before


def test_executorchs_program_computes_what_the_model_does(model, images, tmp_path):
    runtime = pytest.importorskip("executorch.runtime", reason="executorch is not installed")
    written = model.export(tmp_path / "model.pte", size=(130, 177))
    assert written.difference <= 5e-5
    program = runtime.Runtime.get().load_program(written.path)
    facts = json.loads(bytes(program.load_method(FACTS).execute([])[0].tolist()))
    assert facts["class_names"] == list(model.class_names)
    image = torch.from_numpy(np.array(Image.open(images / "large.png"))).permute(2, 0, 1)[None].float().contiguous()
    probabilities = program.load_method("forward").execute([image])[0]
    expected = model.predict(images / "large.png").probabilities
    np.testing.assert_allclose(probabilities[0].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("suffix", ROUTES)
def test_the_page_has_what_an_unknown_suffix_is_sent_to(suffix):
    assert f"### {ROUTES[suffix][0]}\n" in (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
