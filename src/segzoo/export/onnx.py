"""ONNX files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzoo.export.graph import Graph
from segzoo.prediction.runtimes import FACTS

OPSET = 20  # of ONNX: the first that knows GELU
OUTPUTS = ("probabilities", "logits")
LARGEST_FOLDED = 2**22  # elements of a constant


# ---- export


def write_onnx(graph: Graph, x: Tensor, dynamic: Any, facts: Mapping[str, Any], path: Path) -> None:
    """As ONNX, weights and metadata inside."""
    program = torch.onnx.export(
        graph,
        (x,),
        dynamo=True,
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        input_names=["image"],
        output_names=list(OUTPUTS),
        verbose=False,
        optimize=False,
    )
    assert program is not None
    simplify(program.model)
    graph_of_onnx = program.model.graph
    for node in graph_of_onnx.all_nodes():  # the exporter leaves in every node where on this machine it comes from
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = None  # sizes that vary are named after how they come about, and not all names hold
    graph_of_onnx.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.metadata_props[FACTS] = json.dumps(facts)
    program.save(path)


def simplify(model: Any) -> None:
    """Fold constants, and drop what is unused or there twice.

    That is the exporter's own optimisation but for its search for patterns, which runtimes do again when they load a
    file: it goes through the whole graph for every node, for ten minutes where there are thousands (Med-URWKV).
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    # what is made of weights too, such as resized position embeddings: in float16 not every runtime can
    fold_constants_ir(model, input_size_limit=LARGEST_FOLDED)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
