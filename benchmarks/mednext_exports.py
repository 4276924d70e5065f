"""MedNeXt-S beside MONAI's with equal weights, in the forms that both are deployed in.

    python benchmarks/mednext_exports.py [--dims 2 3] [--kernels 3 5] [--threads 2] [--rounds 7] [--seconds 15]

A batch of one: an image of 256x256, three channels and one class, or a volume of 64x64x64, one channel and three
classes. MONAI's network is run as it is and exported as it is; ours is deployed first. Both are in one process and take
turns; the least of the rounds counts. Processor seconds are those of all threads.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"} | os.environ  # threads that wait count as work

import numpy as np
import torch
from monai.networks.nets.mednext import create_mednext
from speed import write_onnx, write_program

import segzoo

SHAPES = {2: (1, 3, 256, 256), 3: (1, 1, 64, 64, 64)}
CLASSES = {2: 1, 3: 3}
LEAST_ROUNDS = 3
Run = Callable[[], np.ndarray]


def networks(dims: int, kernel: int) -> dict[str, torch.nn.Module]:
    """Build MONAI's network with random weights and norms that do something, and ours with the same."""
    torch.manual_seed(0)
    theirs = create_mednext("S", dims, SHAPES[dims][1], CLASSES[dims], kernel).eval()
    for name, parameter in theirs.named_parameters():
        if "norm" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    arguments = {"spatial_dims": dims, "in_channels": SHAPES[dims][1], "num_classes": CLASSES[dims]}
    ours = segzoo.create_model(f"mednext_s_k{kernel}", deep_supervision=False, **arguments)
    ours.load_state_dict(segzoo.convert(theirs.state_dict(), ours))
    return {"MONAI": theirs, "segzoo": ours.eval().deploy()}


def in_torch(network: Any, x: torch.Tensor) -> Run:
    """Return what runs a network, or a program."""

    def run() -> np.ndarray:
        with torch.inference_mode():
            return network(x).numpy()

    return run


def in_onnxruntime(file: Path, x: torch.Tensor, threads: int) -> Run:
    """Return what runs a file, without threads that wait in a loop."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def in_openvino(file: Path, x: torch.Tensor, threads: int) -> Run:
    """Return what runs a file."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    settings |= {"INFERENCE_NUM_THREADS": threads}
    request = openvino.Core().compile_model(file, "CPU", settings).create_infer_request()
    return lambda: np.array(request.infer([x.numpy()])[0])


def forms(network: torch.nn.Module, x: torch.Tensor, threads: int, folder: Path) -> dict[str, Run]:
    """Return what runs a network in each of its forms."""
    folder.mkdir()
    runs = {"PyTorch": in_torch(network, x)}
    write_program(network, x, folder / "network.pt2")
    runs["torch.export"] = in_torch(torch.export.load(folder / "network.pt2").module(), x)
    write_onnx(network, x, folder / "network.onnx")  # at last: it changes the layout of the weights
    runs["ONNX Runtime"] = in_onnxruntime(folder / "network.onnx", x, threads)
    runs["OpenVINO"] = in_openvino(folder / "network.onnx", x, threads)
    return runs


def seconds(run: Run) -> tuple[float, float]:
    """Return processor and wall seconds of a pass."""
    processor, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - processor, time.perf_counter() - wall


def compare(theirs: Run, ours: Run, rounds: int, limit: float) -> str:
    """Return a row's figures: of both, by turns, for so many rounds or so many seconds."""
    expected, found = theirs(), ours()
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    times: list[list[tuple[float, float]]] = [[], []]
    end = time.monotonic() + limit
    while len(times[0]) < LEAST_ROUNDS or (len(times[0]) < rounds and time.monotonic() < end):
        for run, taken in zip((theirs, ours), times, strict=True):
            taken.append(seconds(run))
    (their_cpu, their_wall), (our_cpu, our_wall) = (map(min, zip(*taken, strict=True)) for taken in times)
    figures = f"{their_cpu:.3f} | {our_cpu:.3f} | {their_wall:.3f} | {our_wall:.3f}"
    return f"{figures} | {their_cpu / our_cpu:.2f} | {their_wall / our_wall:.2f} | {difference:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", type=int, nargs="+", choices=(2, 3), default=[2, 3])
    parser.add_argument("--kernels", type=int, nargs="+", choices=(3, 5), default=[3, 5])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="at most")
    parser.add_argument("--seconds", type=float, default=15, help="for each row, but three rounds at least")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, segzoo {segzoo.__version__}, torch {torch.__version__}\n")
    print("| network | form | CPU s, MONAI | segzoo | wall s, MONAI | segzoo | ratio, CPU | ratio, wall | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dims in options.dims:
        for kernel in options.kernels:
            with tempfile.TemporaryDirectory() as scratch:
                x = torch.randn(SHAPES[dims], generator=torch.Generator().manual_seed(0))
                runs = {
                    name: forms(network, x, options.threads, Path(scratch) / name)
                    for name, network in networks(dims, kernel).items()
                }
                for form in runs["MONAI"]:
                    row = compare(runs["MONAI"][form], runs["segzoo"][form], options.rounds, options.seconds)
                    print(f"| S k{kernel}, {dims}D | {form} | {row} |", flush=True)


if __name__ == "__main__":
    main()
