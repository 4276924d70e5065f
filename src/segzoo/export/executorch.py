"""Programs of ExecuTorch, which run on phones and small devices; here by XNNPACK, for their CPUs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from segzoo.export.base import ExportFormat, Request
from segzoo.export.graph import resize
from segzoo.prediction.runtimes import FACTS


class ExecuTorch(ExportFormat):
    """Program for one image of one size at a time; its method "segzoo" returns the metadata, bytes of UTF-8."""

    suffix = ".pte"
    precisions = ("float32",)
    packages = ("executorch",)
    extra = "executorch"
    needs_size = True
    channels_last = False  # XNNPACK lays tensors out as it likes
    resize: ClassVar[Callable[[Tensor, Sequence[int]], Tensor]] = staticmethod(resize)

    def write(self, request: Request, path: Path) -> None:
        """Write the program."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(self.graph(request), (request.example[:1],), strict=False)
        facts = torch.frombuffer(bytearray(json.dumps(request.facts), "utf-8"), dtype=torch.uint8)
        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods={FACTS: facts}
        )
        path.write_bytes(lowered.to_executorch().buffer)

    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return what ExecuTorch computes."""
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        return lambda x: method.execute((x.contiguous(),))[1].clone()
