"""OpenVINO's own files (IR), which its tools and Intel's devices take: the graph in an .xml, its weights in a .bin."""

import errno
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from segzoo.errors import first_line
from segzoo.export.base import Request
from segzoo.export.onnx import Onnx
from segzoo.prediction.runtimes import WEIGHTS, compile_openvino, import_openvino, read_weights


class OpenVINO(Onnx):
    """OpenVINO IR, converted from an ONNX file; metadata and the sha256 of the weights in the .xml."""

    suffix = ".xml"
    precisions = ("float32", "float16")
    packages = ("onnxscript", "openvino")
    extra = "onnx,openvino"
    companion = ".bin"

    def write(self, request: Request, path: Path) -> None:
        """Write both files.

        Raises:
            OSError: they cannot be written.
        """
        openvino = import_openvino()
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            self.write_float(request, graph)
            model = openvino.Core().read_model(graph)  # metadata come along
            try:
                openvino.save_model(model, path, compress_to_fp16=False)
                weights = path.with_suffix(".bin").read_bytes()
                model.set_rt_info(hashlib.sha256(weights).hexdigest(), [WEIGHTS])
                openvino.save_model(model, path, compress_to_fp16=False)  # the same weights, and what they are
            except RuntimeError as error:  # how OpenVINO says that a disk is full
                raise OSError(errno.EIO, first_line(error)) from error

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what OpenVINO computes."""
        content = path.read_bytes()
        _, compiled = compile_openvino(content, torch.get_num_threads(), read_weights(path, content))
        return lambda x: torch.from_numpy(compiled({"image": x.numpy()})["logits"])
