"""Files that run without segzoo, run: they compute what Python does."""

import json
import resource
import tempfile
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import segzoo
from segzoo import cli
from segzoo.export.graph import resize
from segzoo.postprocessing import Cleaning, Postprocessing
from segzoo.prediction.runtimes import FACTS

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("size", [(40, 56), (90, 31), (17, 200)])
@pytest.mark.parametrize("target", [(40, 56), (16, 16), (100, 64), (1, 3)])
def test_resize_is_pytorchs_bilinear_with_antialiasing(size, target):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    expected = F.interpolate(x, size=target, mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(x, target), expected, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def model():
    """A small CMUNeXt, of three levels, with some character: random weights make flat logits."""
    torch.manual_seed(0)
    model = segzoo.CMUNeXt(num_classes=3, widths=(4, 4, 8), depths=(1, 1, 1), kernel_sizes=(3, 3, 3))
    model.preprocessing = segzoo.Preprocessing(3, image_size=(64, 48))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.weight, 1, 0.3)
            torch.nn.init.normal_(layer.bias)
    return model.eval()


@pytest.fixture(scope="module")
def images():
    """Three sizes: the network's own, a larger and a smaller one."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((64, 48), (130, 177), (30, 41))]


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The model's files in float32, by suffix and size; each takes seconds, and is written once."""
    folder = tmp_path_factory.mktemp("files")

    @cache
    def export(suffix, *size):
        return model.export(folder / f"model-{size}{suffix}", size=size or None, details={"licence": "MIT"})

    return export


class OneConvolution(segzoo.SegmentationModule):
    """Of a hundred kilobytes, and written at once."""

    def __init__(self, **arguments):
        super().__init__(3, **arguments)
        self.convolution = torch.nn.Conv2d(3, self.num_classes, 57, padding=28)

    def compute_logits(self, x):
        return self.convolution(x)

    def default_optimizer(self, parameters):
        return torch.optim.SGD(parameters)

    def default_lr_scheduler(self, optimizer):
        return torch.optim.lr_scheduler.ConstantLR(optimizer), "epoch"


@pytest.fixture
def smallest():
    torch.manual_seed(0)
    model = OneConvolution(num_classes=3).eval()
    model.preprocessing = segzoo.Preprocessing(3, image_size=(64, 48))
    return model


def graph_input(*images: np.ndarray) -> np.ndarray:
    return np.stack([image.transpose(2, 0, 1) for image in images]).astype(np.float32)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_one_file_takes_all_sizes_and_computes_what_predict_does(model, images, exported, suffix):
    written = exported(suffix)
    assert written.difference <= 5e-5
    run = runner(written.path)
    for image in images:
        expected = model.predict(image).probabilities
        np.testing.assert_allclose(run(graph_input(image))[0][0], expected, atol=2e-5)
    both = run(graph_input(images[0], images[0][::-1]))[0]
    np.testing.assert_allclose(both[1], model.predict(images[0][::-1]).probabilities, atol=2e-5)


def runner(path):
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda x: session.run(None, {"image": x})
    program = torch.export.load(path).module()
    return lambda x: [output.detach().numpy() for output in program(torch.from_numpy(x))]


def test_the_file_says_what_it_is(model, exported):
    path = exported(".onnx").path
    session = onnxruntime.InferenceSession(path)
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    assert facts["class_names"] == list(model.class_names)
    assert facts["preprocessing"] == model.preprocessing.to_dict()
    assert (facts["segzoo_version"], facts["licence"], facts["precision"]) == (segzoo.__version__, "MIT", "float32")
    assert len(facts["state_sha256"]) == 64
    assert b"site-packages" not in path.read_bytes()  # nothing of the machine that wrote it


def test_half_precision_takes_half_the_bytes_and_is_close(model, images, exported, tmp_path):
    whole = exported(".onnx", 64, 48)
    half = model.export(tmp_path / "half.onnx", size=(64, 48), precision="float16", details={"licence": "MIT"})
    assert half.difference > whole.difference
    parameters = sum(parameter.numel() for parameter in model.deploy().parameters())
    saved = whole.path.stat().st_size - half.path.stat().st_size
    assert 1.7 * parameters < saved < 2.3 * parameters
    found = runner(half.path)(graph_input(images[0]))[0][0]
    np.testing.assert_allclose(found, model.predict(images[0]).probabilities, atol=0.02)


def test_at_a_fixed_size_nothing_is_resized(exported):
    import onnx

    path = exported(".onnx", 64, 48).path
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert not kinds & {"Gather", "GatherND", "Range"}
    with pytest.raises(Exception, match="image"):
        runner(path)(np.zeros((1, 3, 65, 48), np.float32))


def test_programs_keep_the_layout_that_pytorch_is_fast_in(exported):
    weights = torch.export.load(exported(".pt2").path).state_dict
    dense = [value for value in weights.values() if value.ndim == 4 and min(value.shape[1:]) > 1]
    assert len(dense) > 5
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in dense)


def two_levels(patch_size):
    """A MedNeXt of two levels instead of five, whose blocks are alike: exporting takes its time by the layer."""
    model = segzoo.MedNeXt(width=4, depths=1, num_classes=2).eval()
    model.bottleneck, model.encoder, model.down = model.encoder[1], model.encoder[:1], model.down[:1]
    model.up, model.decoder = model.up[3:], model.decoder[3:]
    model.preprocessing = segzoo.VolumePreprocessing(1, patch_size=patch_size)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_windows_of_volumes_are_exported_too_and_vary(tmp_path, suffix):
    model = two_levels((32, 48, 32))
    run = runner(model.export(tmp_path / f"model{suffix}").path)
    for batch, *window in ((1, 32, 48, 32), (3, 48, 32, 64), (2, 40, 56, 33)):
        x = torch.randn(batch, 1, *window)
        with torch.inference_mode():
            expected = model(x)
        probabilities, logits = run(x.numpy())
        assert np.abs(logits - expected.numpy()).max() <= 5e-5 * expected.abs().max()
        np.testing.assert_allclose(probabilities, expected.softmax(1).numpy(), atol=2e-5)


@pytest.mark.slow
def test_token_mixing_is_exported_for_any_size_in_operations_of_onnx(images, tmp_path):
    import onnx

    model = segzoo.MedURWKV(encoder="plain", depths=(1, 1, 1, 1), width=48, head_width=8).eval()
    model.preprocessing = segzoo.Preprocessing(3)
    model.encoder.layers, model.encoder.taps = model.encoder.layers[:4], [0, 1, 2, 3]
    path = model.export(tmp_path / "model.onnx", image=images[0]).path
    graph = onnx.load(path).graph
    assert {node.domain for node in graph.node} == {""}
    constants = {tensor.name for tensor in graph.initializer}
    assert not [node.name for node in graph.node if constants.issuperset(node.input)]  # all folded
    for image in images:
        logits = runner(path)(graph_input(image, image[::-1]))[1]
        with torch.inference_mode():
            expected = model(torch.stack([model.preprocessing(image), model.preprocessing(image[::-1])]))
        assert np.abs(logits - expected.numpy()).max() <= 5e-5 * expected.abs().max()


def test_windows_of_one_size_may_be_larger_than_the_example(tmp_path):
    model = two_levels((64, 32, 16))
    run = runner(model.export(tmp_path / "model.pt2", size=(64, 32, 16)).path)
    x = torch.randn(1, 1, 64, 32, 16)
    with torch.inference_mode():
        np.testing.assert_allclose(run(x.numpy())[1], model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_file_that_computes_something_else_is_not_written(smallest, tmp_path, monkeypatch, refused):
    kind = "segzoo.export.torch_export.TorchExport"
    monkeypatch.setattr(f"{kind}.open", lambda self, path: lambda x: torch.zeros(1, 3, 64, 48))
    with refused(segzoo.SegzooError):
        smallest.export(tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said_before_anything_is_done(model, tmp_path, monkeypatch, refused):
    for options in (
        {"path": "model.bin"},
        {"path": "model.tflite"},
        {"path": "model.engine"},
        {"path": "model.mlpackage"},
        {"path": "model.pte"},
        {"path": "model.bin", "format": "openvino"},
        {"path": "model.ONNX", "precision": "int4"},  # its format is known
        {"path": "model.onnx", "precision": "int4"},
        {"path": "model.onnx", "size": (64,)},
        {"path": "model.onnx", "format": "pt2"},
        {"path": "model.onnx", "size": (64, 0)},
        {"path": "model.onnx", "size": 64},
        {"path": "model.onnx", "size": (64.0, 64)},
    ):
        with refused(segzoo.SegzooError):
            model.export(**{**options, "path": tmp_path / options["path"]})
    (tmp_path / "file").touch()
    with refused(segzoo.SegzooError):
        model.export(tmp_path / "file" / "model.onnx")
    (tmp_path / "file").unlink()
    with refused(segzoo.SegzooError):
        segzoo.create_model("lv_unet").export(tmp_path / "model.onnx")
    monkeypatch.setattr("segzoo.export.base.find_spec", lambda name: None)
    with refused(segzoo.MissingError):
        model.export(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_runtime_refuses_is_one_sentence(smallest, tmp_path, monkeypatch, refused):
    """ONNX Runtime 1.32 does so with some convolutions of volumes without a bias, when it opens or runs the file."""

    def open_nothing(self, path):
        raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : FusedConv: bias is missing\nand a page more")

    monkeypatch.setattr("segzoo.export.onnx.Onnx.open", open_nothing)
    with refused(segzoo.SegzooError):
        smallest.export(tmp_path / "model.onnx", size=(64, 48))
    assert list(tmp_path.iterdir()) == []


def onnx_graph(model, x, path):
    """Return the graph that the network alone becomes, and what ONNX Runtime computes by it."""
    torch.onnx.export(model, (x,), path, dynamo=True, opset_version=20, optimize=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return onnx.load(path).graph, session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize(
    "options",
    [
        {"spatial_dims": 2},
        {"spatial_dims": 2, "kernel_size": 5, "norm": "layer"},
        {"kernel_size": 5},
        {"strides": ((1, 2, 2), 2, 2, (2, 1, 2)), "grn": True},
    ],
    ids=str,
)
def test_mednext_becomes_the_layers_that_runtimes_are_fast_in(options, tmp_path):
    torch.manual_seed(0)
    model = segzoo.MedNeXt(width=4, depths=1, num_classes=2, **options).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name or "grn" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 1, *(32, 32, 48)[: model.spatial_dims])
    with torch.inference_mode():
        expected = model(x)
    graph, found = onnx_graph(model.deploy().to(memory_format=torch.contiguous_format), x, tmp_path / "model.onnx")
    assert np.abs(found - expected.numpy()).max() <= 5e-5 * expected.abs().max()
    kinds = {node.op_type for node in graph.node}
    assert not {"ScatterND", "ConvTranspose", "MatMul", "Gemm", "Gather"} & kinds
    by_planes = model.spatial_dims == 3 and options.get("kernel_size") == 5
    assert ("Slice" in kinds) == by_planes
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    assert not by_planes or [1, 5, 5, 5] not in [dims[1:] for dims in weights.values()]
    ones = {tensor.name for tensor in graph.initializer if (onnx.numpy_helper.to_array(tensor) == 1).all()}
    assert sum(node.op_type == "Conv" and node.input[1] in ones for node in graph.node) == 4 * (model.spatial_dims == 2)
    if model.norm == "group":
        norms = [node for node in graph.node if node.op_type == "InstanceNormalization"]
        assert len(norms) == 17  # with scale and shift inside
        produced = {name: node for node in graph.node for name in node.output}
        of_channels = [node for node in graph.node if node.op_type in ("Mul", "Add") and node.input[1] not in produced]
        assert options.get("grn") or of_channels == []
        moved = {tuple(node.attribute[0].ints) for node in graph.node if node.op_type == "Transpose"}
        woven, planes = {(1, 0)}, {(2, 0, 1, 3, 4), (1, 2, 0, 3, 4)}
        assert moved == woven | (planes if by_planes else set())


def test_mednext_with_a_single_voxel_at_the_bottom(tmp_path):
    """Even numbers of taps find nothing to do there."""
    torch.manual_seed(0)
    model = (
        segzoo.MedNeXt(width=4, depths=1, num_classes=2, spatial_dims=2)
        .eval()
        .to(memory_format=torch.contiguous_format)
    )
    varying = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    for number, (traced, shapes) in enumerate((((16, 32), None), ((48, 64), varying))):
        path = tmp_path / f"{number}.onnx"
        torch.onnx.export(
            model,
            (torch.randn(2, 1, *traced),),
            path,
            dynamo=True,
            opset_version=20,
            verbose=False,
            dynamic_shapes=shapes,
        )
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        x = torch.randn(2, 1, 16, 32)
        with torch.inference_mode():
            expected = model(x).numpy()
        found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_full_disk_is_one_sentence(smallest, tmp_path, suffix, refused):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with refused(segzoo.SegzooError):
            smallest.export(tmp_path / f"model{suffix}", size=(64, 48))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_what_the_exporter_writes_meanwhile_is_one_sentence(smallest, tmp_path, monkeypatch):
    """It says so in an error of its own."""
    monkeypatch.setattr(tempfile, "tempdir", None)  # looked for anew
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(segzoo.SegzooError, match=r"model\.onnx cannot be written"):
            smallest.export(tmp_path / "model.onnx", size=(64, 48))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_thresholds_are_in_the_graph_and_the_rest_of_the_post_processing_beside_it(smallest, images, tmp_path):
    smallest.class_names = ("background", "one", "two")
    smallest.postprocessing = Postprocessing(
        {"one": Cleaning(threshold=0.3, largest_component=True), "two": Cleaning(threshold=0.4)}, temperature=2.0
    )
    smallest.data = {"ranges": {"channels": [[2], [3]]}}
    written = smallest.export(tmp_path / "model.onnx", size=(64, 48))
    assert written.left == "one: largest component only"
    assert written.left in str(written)
    by_temperature, _, mask, probabilities = runner(written.path)(graph_input(images[0]))
    root = np.sqrt(probabilities[0])
    np.testing.assert_allclose(by_temperature[0], root / root.sum(0), atol=1e-6)
    assert mask.dtype == np.uint8
    weights = np.array([1, 0.7 / 0.3, 0.6 / 0.4], np.float32)[:, None, None]
    np.testing.assert_array_equal(mask[0], (probabilities[0] * weights).argmax(0))
    assert (mask[0] != probabilities[0].argmax(0)).any()
    predictor = segzoo.Predictor(written.path)
    assert predictor._pipeline.backend.ranges == smallest.data["ranges"]
    np.testing.assert_allclose(predictor(images[0]).probabilities, by_temperature[0], atol=1e-6)
    found = predictor(images[0]).mask
    assert (found != smallest.predict(images[0]).mask).sum() < 10  # by the same rule, up to rounding
    assert (found != mask[0]).any()
    assert not (found != mask[0])[mask[0] != 1].any()  # what was taken away is of the first class


@pytest.mark.slow
def test_the_command_line_exports_a_shipped_checkpoint(tmp_path, capsys):
    assert cli.main(["export", "lv-unet-busi", str(tmp_path / "lv.onnx"), "--size", "256", "256"]) == 0
    assert "agrees with Python to" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "lv.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map[FACTS])
    assert facts["checkpoint"]["name"] == "lv-unet-busi"
    assert facts["checkpoint"]["licences"]["data"] == "CC0-1.0"
    assert cli.main(["export", "lv-unet-busi", str(tmp_path / "lv.bin")]) == 2
