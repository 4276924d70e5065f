"""ONNX files, for ONNX Runtime, OpenVINO and others; in int8 by ONNX Runtime's static quantisation."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from segzoo.export.base import ExportFormat, Request
from segzoo.export.check import check_inputs
from segzoo.export.graph import resize
from segzoo.export.int8 import quantize, refuse_what_gains_nothing
from segzoo.prediction.runtimes import FACTS, open_session

OPSET = 20  # of ONNX: the first that knows GELU
LARGEST_FOLDED = 2**22  # elements of a constant


class Onnx(ExportFormat):
    """ONNX, weights and metadata inside."""

    suffix = ".onnx"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "int8")
    packages: ClassVar[tuple[str, ...]] = ("onnxscript", "onnxruntime")
    extra = "onnx"
    channels_last = False  # the only layout there is the other one
    resize: ClassVar[Callable[[Tensor, Sequence[int]], Tensor]] = staticmethod(resize)

    def write(self, request: Request, path: Path) -> None:
        """Write the file; int8 by way of one in float32."""
        if request.precision != "int8":
            self.write_float(request, path)
            return
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "float32.onnx"
            self.write_float(request, whole)
            # some images are large: one by one
            inputs = (self.input_of(request, image) for image in request.calibration)
            quantize(whole, path, inputs)
            refuse_what_gains_nothing(path, whole, self.input_of(request, request.calibration[0]))

    def write_float(self, request: Request, path: Path) -> None:
        """Write the graph as PyTorch exports it, simplified and without traces of this machine."""
        graph = self.graph(request)
        program = torch.onnx.export(
            graph,
            (request.example,),
            dynamo=True,
            dynamic_shapes=request.dynamic,
            opset_version=OPSET,
            input_names=["image"],
            output_names=list(graph.outputs),
            verbose=False,
            optimize=False,
        )
        assert program is not None
        simplify(program.model)
        written = program.model.graph
        for node in written.all_nodes():  # the exporter leaves in every node where on this machine it comes from
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
                if not value.is_graph_output():
                    value.shape = None  # sizes that vary are named after how they come about, and not all names hold
        written.metadata_props.clear()
        program.model.metadata_props.clear()
        program.model.metadata_props[FACTS] = json.dumps(request.facts)
        program.save(path)

    def input_of(self, request: Request, image: Any) -> Any:
        """Return what the file takes of an image, an array [1, C, H, W]."""
        return check_inputs(request.network, image, request.size)[0].numpy()

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what ONNX Runtime computes."""
        session = open_session(path)
        return lambda x: torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


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
