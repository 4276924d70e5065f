"""OpenVINO's own files (IR), which its tools and Intel's devices take: the graph in an .xml, its weights in a .bin.

int8 is NNCF's, of every convolution: what passes between them is in integers too, which is where the time is saved.
"""

import errno
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzoo.errors import MissingPackageError, first_line
from segzoo.export.base import Request
from segzoo.export.onnx import Onnx
from segzoo.nn.woven import for_openvino
from segzoo.prediction.runtimes import WEIGHTS, compile_openvino, import_openvino, import_unreported, read_weights


class OpenVINO(Onnx):
    """OpenVINO IR, converted from an ONNX file; metadata and the sha256 of the weights in the .xml."""

    suffix = ".xml"
    precisions = ("float32", "float16", "int8")
    packages = ("onnxscript", "openvino")
    extra = "onnx,openvino"
    companion = ".bin"

    def require_packages(self, precision: str) -> None:
        """Refuse too what lacks NNCF."""
        super().require_packages(precision)
        if precision == "int8" and find_spec("nncf") is None:
            raise MissingPackageError(
                f"int8 in {self.suffix} files needs nncf: pip install 'medsegzoo[{self.extra},nncf]'"
            )

    def write(self, request: Request, path: Path) -> None:
        """Write both files.

        Raises:
            OSError: they cannot be written.
        """
        openvino = import_openvino()
        with tempfile.TemporaryDirectory() as folder:
            graph = Path(folder) / "model.onnx"
            with for_openvino():
                self.write_float(request, graph)
            model = openvino.Core().read_model(graph)  # metadata come along
            if request.precision == "int8":
                model = quantize(model, request.calibration, lambda image: self.input_of(request, image))
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


def quantize(model: Any, images: Sequence[Any], input_of: Callable[[Any], Any]) -> Any:
    """Return the int8 form of a float32 model.

    Args:
        model: as OpenVINO read it.
        images: to find the ranges of what passes between layers.
        input_of: from one to float32 [1, C, H, W]; some are large, so one by one.
    """
    passes = import_unreported("openvino.passes")
    nncf = import_unreported("nncf")
    folding = passes.Manager()
    folding.register_pass(passes.ConstantFolding())  # or weights of groups, reshaped in the graph, stay in float32
    folding.run_passes(model)
    nncf.set_log_level(logging.ERROR)
    with redirect_stdout(io.StringIO()):  # its progress
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: {"image": input_of(image)}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            # of images and probabilities to another size; files of one size have none
            ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
            # weights of 7 bits: with 8, sums overflow on older x86 CPUs, and masks with them
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        )
