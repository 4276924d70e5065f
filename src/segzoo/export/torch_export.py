"""Programs of torch.export, which PyTorch runs without the model's code."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from segzoo.export.base import ExportFormat, Request
from segzoo.prediction.runtimes import FACTS


class TorchExport(ExportFormat):
    """Exported program, metadata among its extra files."""

    suffix = ".pt2"

    def write(self, request: Request, path: Path) -> None:
        """Write the program."""
        program = torch.export.export(
            self.graph(request),
            (request.example,),
            dynamic_shapes=tuple(
                {axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in request.dynamic
            ),  # least size found
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        with warnings.catch_warnings():
            # of weights in channels-last layout, which it saves whole for all that
            warnings.filterwarnings("ignore", message="No complete tensor found")
            whole = io.BytesIO()  # for on a full disk PyTorch ends the process
            torch.export.save(program, whole, extra_files={FACTS: json.dumps(request.facts)})
        path.write_bytes(whole.getbuffer())

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what the program computes."""
        program = torch.export.load(path).module()
        return torch.inference_mode()(lambda x: program(x)[1])
