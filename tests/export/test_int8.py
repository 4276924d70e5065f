"""int8: smaller files whose masks stay, and refusals in one sentence."""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import segzoo
from segzoo import cli

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from segzoo.export.int8 import nodes_to_quantize, quantize, refuse_what_gains_nothing  # noqa: E402
from segzoo.export.measure import calibration_images, read_target, training_data  # noqa: E402
from segzoo.prediction.runtimes import FACTS, import_openvino, open_exported  # noqa: E402

needs_nncf = pytest.mark.skipif(
    None in map(find_spec, ("nncf", "openvino")),
    reason="nncf or openvino is not installed, which int8 in .xml files needs",
)


@pytest.fixture(scope="module")
def images():
    """Smooth ones, of several sizes."""
    random = np.random.default_rng(0)
    coarse = [random.integers(0, 256, (4, 6, 3), np.uint8) for _ in range(4)]
    sizes = ((48, 32), (90, 70), (48, 32), (60, 100))
    return [np.asarray(Image.fromarray(x).resize(size, 3)) for x, size in zip(coarse, sizes, strict=True)]


@pytest.fixture(scope="module")
def model(images):
    """A small CMUNeXt with some character, its two deepest levels wide enough to be quantised."""
    torch.manual_seed(0)
    model = segzoo.CMUNeXt(num_classes=3, widths=(4, 64, 64), depths=(1, 1, 1), kernel_sizes=(3, 3, 3))
    model.preprocessing = segzoo.Preprocessing(3, image_size=(32, 48))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias)
    model.eval()
    with torch.no_grad():  # each class somewhere
        model.head.bias -= model(torch.stack([model.preprocessing(image) for image in images])).mean((0, 2, 3))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def exported(model, images, folder):
    """The float32 file that the model's int8 one was made of, and that."""
    whole = folder / "whole.onnx"

    def keep(source, *given):
        shutil.copy(source, whole)
        quantize(source, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segzoo.export.onnx.quantize", keep)
        int8 = model.export(folder / "int8.onnx", precision="int8", calibration=images, details={"licence": "MIT"})
    return whole, int8


def test_int8_is_smaller_by_its_wide_convolutions(exported):
    whole, quantized = exported
    graph = onnx.load(whole)
    shapes = {tensor.name: tensor.dims for tensor in graph.graph.initializer}
    chosen = [node for node in graph.graph.node if node.name in nodes_to_quantize(graph)]
    weights = [shapes[node.input[1]] for node in chosen if node.op_type == "Conv"]
    assert weights
    assert all(shape[0] >= 64 and shape[1] >= 32 for shape in weights)  # narrow and depthwise ones are left
    saved = whole.stat().st_size - quantized.path.stat().st_size
    assert 2.5 * sum(map(np.prod, weights)) < saved < 3 * sum(map(np.prod, weights))


def test_masks_of_int8_mostly_agree(model, images, exported):
    _, quantized = exported
    assert quantized.difference < 0.1
    assert f"agree with Python's to a Dice of {1 - quantized.difference:.3f}" in str(quantized)
    run = onnxruntime.InferenceSession(quantized.path, providers=["CPUExecutionProvider"]).run
    for image in images:
        found = run(["probabilities"], {"image": image.transpose(2, 0, 1)[None].astype(np.float32)})[0][0].argmax(0)
        expected = model.predict(image).mask
        assert len(np.unique(expected)) > 1
        assert (found == expected).mean() > 0.9


def test_int8_says_what_it_is(model, exported):
    session = onnxruntime.InferenceSession(exported[1].path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    assert (facts["precision"], facts["licence"]) == ("int8", "MIT")
    assert facts["preprocessing"] == model.preprocessing.to_dict()
    assert b"/tmp" not in exported[1].path.read_bytes()  # where it passed through


def test_what_cannot_be_int8_is_said(model, images, tmp_path, refused):
    int8 = {"precision": "int8", "calibration": images}
    for case, path, options in (
        (model, "model.onnx", {"precision": "int8"}),
        (model, "model.pt2", int8),
        (segzoo.create_model("lv_unet"), "model.xml", int8),
        (segzoo.create_model("med_urwkv"), "model.onnx", int8),
    ):
        with refused(segzoo.SegzooError):
            case.export(tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def openvinos(model, images, folder):
    """The int8 file that OpenVINO runs."""
    return model.export(folder / "int8.xml", precision="int8", calibration=images, details={"licence": "MIT"})


@needs_nncf
def test_every_convolution_of_openvinos_int8_has_integer_weights(openvinos):
    operations = import_openvino().Core().read_model(openvinos.path).get_ordered_ops()
    convolutions = [node for node in operations if "Convolution" in node.get_type_name()]
    assert {node.get_type_name() for node in convolutions} == {"Convolution", "GroupConvolution"}
    for node in convolutions:
        weights = node.input_value(1).get_node()
        while weights.get_input_size():  # what makes floats of them
            weights = weights.input_value(0).get_node()
        assert weights.get_element_type().get_type_name() == "i8"
        if node.get_type_name() == "Convolution":  # whose sums are long enough to overflow with more than 7 bits
            assert 60 < np.abs(weights.data.astype(int)).max() <= 64


@needs_nncf
def test_openvinos_int8_says_what_it_is_and_its_masks_mostly_agree(model, images, openvinos):
    opened = open_exported(openvinos.path)
    assert (opened.metadata.precision, opened.metadata.entries["licence"]) == ("int8", "MIT")
    assert opened.metadata.entries["preprocessing"] == model.preprocessing.to_dict()
    assert b"/tmp" not in openvinos.path.read_bytes()
    assert openvinos.difference < 0.1
    predictor = segzoo.Predictor(openvinos.path)
    for image in images:
        assert (predictor(image).mask == model.predict(image).mask).mean() > 0.9


def test_openvinos_int8_without_what_writes_it_is_refused(model, images, tmp_path, monkeypatch, refused):
    monkeypatch.setattr("segzoo.export.base.find_spec", lambda package: True)
    monkeypatch.setattr("segzoo.export.openvino.find_spec", lambda package: None)
    with refused(segzoo.MissingError):
        model.export(tmp_path / "model.xml", precision="int8", calibration=images)
    assert list(tmp_path.iterdir()) == []


def test_int8_that_gains_nothing_is_refused(tmp_path, monkeypatch, refused):
    small, large = tmp_path / "small.onnx", tmp_path / "large.onnx"
    small.write_bytes(bytes(1))
    large.write_bytes(bytes(2))
    for speed in (0.9, 1.1):
        monkeypatch.setattr("segzoo.export.int8.speed_ratio", lambda *given, speed=speed: speed)
        refuse_what_gains_nothing(small, large, np.zeros(1))
    refuse_what_gains_nothing(large, small, np.zeros(1))
    monkeypatch.setattr("segzoo.export.int8.speed_ratio", lambda *given: 0.9)
    with refused(segzoo.SegzooError):
        refuse_what_gains_nothing(large, small, np.zeros(1))


def test_int8_with_other_masks_is_not_written(model, images, tmp_path, monkeypatch, refused):
    monkeypatch.setattr("segzoo.export.onnx.Onnx.write", lambda *given: given[-1].write_bytes(b"a file"))
    monkeypatch.setattr("segzoo.export.onnx.Onnx.open", lambda self, path: None)
    monkeypatch.setattr("segzoo.export.write.compare_masks", lambda *given: 0.2)
    with refused(segzoo.SegzooError):
        model.export(tmp_path / "model.onnx", precision="int8", calibration=images)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dataset(images, tmp_path):
    """Ten images with masks, in the layout of `Folder`."""
    for number in range(10):
        image = images[number % 4][:, ::-1] if number > 4 else images[number % 4]
        for kind, array in (("images", image), ("masks", (image[..., 0] > 127).astype(np.uint8))):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "set" / kind / f"{number}.png")
    return tmp_path / "set"


def test_the_data_of_a_training_are_read_with_the_options_that_their_masks_need(dataset):
    for mask in (dataset / "masks").iterdir():
        values = np.zeros(Image.open(mask).size[::-1], np.uint8)
        values[0, :4] = 0, 80, 160, 255
        Image.fromarray(values).save(mask)
    for options in ({"values": {80: "cyst", 160: "tumour", 255: "ignored"}}, {"foreground": "any"}):
        model = SimpleNamespace(data=json.loads(json.dumps(segzoo.data.Folder(dataset, **options).describe())))
        found = read_target(training_data(model, dataset).samples()[0], training_data(model, dataset))
        assert found[0, :4].tolist() == ([0, 1, 2, -1] if "values" in options else [0, 1, 1, 1])


@pytest.mark.parametrize(
    ("name", "runtime"), [("model.onnx", "ONNX Runtime"), pytest.param("model.xml", "OpenVINO", marks=needs_nncf)]
)
def test_the_command_line_calibrates_on_training_images_and_measures_on_test_images(
    dataset, tmp_path, capsys, small_models, name, runtime
):
    torch.manual_seed(0)
    model = segzoo.create_model("wide_images").eval()
    model.preprocessing = segzoo.Preprocessing(3, image_size=(32, 48))
    data = segzoo.data.Folder(dataset)
    model.data = data.describe()
    saved = str(model.save_pretrained(tmp_path / "checkpoint"))
    arguments = ["export", saved, str(tmp_path / name), "--precision", "int8", "--size", "32", "48"]
    assert cli.main([*arguments, "--data", str(dataset)]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"times as fast as float32 \({runtime} [\d.]+, 1 thread\); Dice", printed)
    assert "on the 2 test images of Folder" in printed
    trained = {path.stem for path in calibration_images(training_data(model, dataset))}
    assert trained == set(data.split_ids["train"])
    files = sorted(file.name for file in tmp_path.glob("model.*"))
    assert files == ([name] if name == "model.onnx" else ["model.bin", name])

    (dataset / "images" / "9.png").unlink()  # another split
    for file in files:
        (tmp_path / file).unlink()
    capsys.readouterr()
    assert cli.main([*arguments, "--data", str(dataset)]) == 2
    assert "is not the Folder that the checkpoint was trained on" in capsys.readouterr().err
    assert cli.main(arguments) == 2
    assert "--data" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / name).exists()


def test_the_command_line_measures_on_volumes_too(samples, tmp_path, capsys, small_models):
    torch.manual_seed(0)
    model = segzoo.create_model("small_volumes", num_classes=3).eval()
    model.preprocessing = segzoo.VolumePreprocessing(1, patch_size=(16, 32, 16))
    data = segzoo.data.Decathlon(samples / "Task04_Hippocampus")
    model.data = data.describe()
    saved = str(model.save_pretrained(tmp_path / "checkpoint"))
    arguments = ["export", saved, str(tmp_path / "model.onnx"), "--precision", "float16", "--data", str(data.root)]
    arguments += ["--size", "16", "32", "16"]
    assert cli.main(arguments) == 0
    words = r"Dice (0\.\d{4}) on the (\d) test images of Task04_Hippocampus \(Python: (0\.\d{4}), lost"
    found = re.search(words, capsys.readouterr().out)
    assert int(found[2]) == len(data.split_ids["test"])
    assert float(found[1]) == pytest.approx(float(found[3]), abs=0.01)


def test_data_of_another_kind_is_refused(model, tmp_path, refused):
    with refused(segzoo.SegzooError):
        training_data(model, Path(tmp_path))
