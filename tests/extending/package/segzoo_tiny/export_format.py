"""An export format: how a deployed network becomes a file, and how the file is run, to check it."""

import gzip
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from segzoo.export.base import Request
from segzoo.export.onnx import Onnx


class PackedOnnx(Onnx):
    """ONNX, compressed by gzip."""

    suffix = ".gz"
    precisions = ("float32",)

    def write(self, request: Request, path: Path) -> None:
        """Write the file."""
        super().write(request, path)
        path.write_bytes(gzip.compress(path.read_bytes()))

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return a function from inputs to the logits that the file computes."""
        session = onnxruntime.InferenceSession(gzip.decompress(path.read_bytes()))
        return lambda x: torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])


FORMAT = PackedOnnx()
