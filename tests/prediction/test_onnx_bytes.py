"""Whether an ONNX file holds what it computes with, found out of its bytes."""

import pickle

import numpy as np
import pytest

import segzoo
from segzoo.prediction.onnx_bytes import has_external_data
from segzoo.prediction.runtimes import BACKENDS, ExportedModel

onnx = pytest.importorskip("onnx")


def file_of(*tensors, nested=False, note=""):
    """An ONNX model of constants, in the graph itself or inside a branch of it."""
    weights = [onnx.numpy_helper.from_array(np.arange(1000, dtype=np.float32), name) for name in tensors]
    nodes = [onnx.helper.make_node("Constant", [], [f"{weight.name}-out"], value=weight) for weight in weights]
    if nested:
        branch = onnx.helper.make_graph(nodes, "branch", [], [])
        nodes, weights = [onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)], []
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], initializer=weights))
    onnx.helper.set_model_props(model, {"note": note})
    return model


def outside(model, tmp_path):
    """The bytes of the same model with its tensors in another file."""
    path = tmp_path / "outside.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path.read_bytes()


def test_a_file_that_holds_its_weights_is_told_from_one_that_does_not(tmp_path):
    whole = file_of("a", "b", note="the location of a lesion").SerializeToString()
    assert not has_external_data(whole)
    assert has_external_data(outside(file_of("a", "b"), tmp_path))
    branched = file_of("a", nested=True)
    assert not has_external_data(branched.SerializeToString())
    for attribute in branched.graph.node[0].attribute:
        tensor = attribute.g.node[0].attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../private")
    assert has_external_data(branched.SerializeToString())


@pytest.mark.parametrize("end", [1, 7, 100])
def test_a_cut_file_is_not_gone_through_for_ever(end):
    content = file_of("location").SerializeToString()
    with pytest.raises(ValueError, match=r"cut|after the file"):
        has_external_data(content[:-end])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_keeps_its_weights_elsewhere_is_refused(tmp_path, backend, refused):
    outside(file_of("a"), tmp_path)
    with refused(segzoo.SegzooError):
        assert ExportedModel(tmp_path / "outside.onnx", backend).metadata


def test_another_process_takes_no_other_file_than_the_first(tmp_path, refused):
    (tmp_path / "mine.onnx").write_bytes(b"anything")
    model = ExportedModel(tmp_path / "mine.onnx", "onnxruntime", digest="0" * 64)
    with refused(segzoo.SegzooError):
        assert pickle.loads(pickle.dumps(model)).session
