"""Programs of torch.export."""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segzoo.export.graph import Graph
from segzoo.prediction.runtimes import FACTS


def write_program(graph: Graph, x: Tensor, dynamic: Any, facts: Mapping[str, Any], path: Path) -> None:
    """As an exported program of PyTorch, metadata among its extra files."""
    program = torch.export.export(
        graph,
        (x,),
        dynamic_shapes=tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in dynamic),  # least size found
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    with warnings.catch_warnings():
        # of weights in channels-last layout, which it saves whole for all that
        warnings.filterwarnings("ignore", message="No complete tensor found")
        whole = io.BytesIO()  # for on a full disk PyTorch ends the process
        torch.export.save(program, whole, extra_files={FACTS: json.dumps(facts)})
    path.write_bytes(whole.getbuffer())
