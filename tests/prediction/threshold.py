"""An exported file that is made without an exporter, and segments images in processes that need no torch."""

import json
from pathlib import Path

import numpy as np
import pytest

import segzoo
from segzoo.prediction.runtimes import FACTS


def threshold(path: Path) -> str:
    """Write a file such as `segzoo export` writes, whose network finds what is bright; nobody needs torch for it."""
    onnx = pytest.importorskip("onnx")
    make, sides = onnx.helper, ["batch", "height", "width"]
    nodes = [
        make.make_node("ReduceMean", ["image", "channels"], ["grey"]),
        make.make_node("Sub", ["grey", "middle"], ["above"]),
        make.make_node("Sigmoid", ["above"], ["probabilities"]),
    ]
    constants = {"channels": np.array([1]), "middle": np.array([100], np.float32)}
    values = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    ends = [
        make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [sides[0], channels, *sides[1:]])
        for name, channels in (("image", 3), ("probabilities", 1))
    ]
    graph = make.make_graph(nodes, "threshold", ends[:1], ends[1:], initializer=values)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=9)
    facts = {
        "model": {"name": "threshold", "arguments": {}},
        "preprocessing": segzoo.Preprocessing(image_size=None).to_dict(),
        "num_classes": 1,
        "multilabel": False,
        "class_names": ["background", "bright"],
        "precision": "float32",
    }
    onnx.helper.set_model_props(model, {FACTS: json.dumps(facts)})
    onnx.save(model, path)
    return str(path)
