"""Networks as files for one input shape, written by one release of segzoo; `speed.py` starts it for each.

Reads a job as a line of JSON (names, shape, suffixes, folder) and answers with a line: what failed, and why. A network
of the zoo's is written deployed and as it is, under `deployed` and `plain`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from contestants import ZOO, build
from stopwatch import refuse_other_source

from segzoo.export.onnx import simplify

try:
    from segzoo.nn.woven import for_openvino
except ImportError:  # a release with one graph for both runtimes
    from contextlib import nullcontext as for_openvino

OPSET = 20


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # exporters print
    job = json.loads(sys.stdin.readline())
    refuse_other_source(job)
    failures = export_all(job["names"], tuple(job["shape"]), job["suffixes"], Path(job["folder"]))
    print(json.dumps(failures), file=answers, flush=True)


def export_all(names: list[str], shape: tuple[int, ...], suffixes: list[str], folder: Path) -> dict[str, str]:
    """Write every network, the zoo's deployed too; returns why some could not be."""
    failures = {}
    for name in names:
        for deployed in (True, False) if name in ZOO else (False,):
            for suffix in suffixes:
                file = folder / file_name(name, "deployed" if deployed else "plain", suffix)
                try:
                    WRITERS[suffix](build(name, deployed=deployed), torch.randn(shape), file)
                except Exception as error:  # whatever an exporter meets: a cell of the table stays empty
                    failures[file.name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return failures


def file_name(*parts: str) -> str:
    """Return the name of a network's file: its own name, what it is like, and a suffix."""
    *words, suffix = parts
    return "-".join(words).replace(",", "").replace(" ", "_").replace("/", "_") + suffix


def write_program(network: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """In PyTorch's own format."""
    torch.export.save(torch.export.export(network, (x,), strict=False), file)


def write_onnx(network: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """Write it as ONNX."""
    network.to(memory_format=torch.contiguous_format)
    program: Any = torch.onnx.export(network, (x,), dynamo=True, opset_version=OPSET, verbose=False, optimize=False)
    simplify(program.model)  # what runtimes find as well is left to them
    program.save(file)


def write_for_openvino(network: torch.nn.Module, x: torch.Tensor, file: Path) -> None:
    """Write the graph that `segzoo export FILE.xml` hands to OpenVINO."""
    with for_openvino():
        write_onnx(network, x, file)


WRITERS = {".pt2": write_program, ".onnx": write_onnx, ".openvino.onnx": write_for_openvino}

if __name__ == "__main__":
    main()
