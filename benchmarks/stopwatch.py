"""One network in one form, run in a process of its own whenever `speed.py` asks for it.

A process each, because whoever deploys a network has one: what its allocator keeps and what it takes at most depend on
nothing else that is measured. Neither torch nor segzoo is imported where the form does not need them.

Reads a job as a line of JSON, answers with the output of a first pass (`output`, a .npy file) and then, to every line,
with the seconds of a pass and the most memory that the process has taken.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WARM_SECONDS = 0.1  # of passes before the one that counts: until then threads may still share a core
LONG_SECONDS = 1.0  # a pass that takes longer finds its caches cold however it starts


def main() -> None:
    job = json.loads(sys.stdin.readline())
    x = np.random.default_rng(0).standard_normal(job["shape"]).astype(np.float32)
    run = PREPARE[job["form"]](job, x)
    np.save(job["output"], run())
    answer({"ready": True})
    for _ in sys.stdin:
        warm = time.perf_counter() + WARM_SECONDS
        while (took := seconds(run)) < LONG_SECONDS and time.perf_counter() < warm:
            pass
        answer({"seconds": took, "megabytes": most_megabytes()})


def seconds(run: Callable[[], Array]) -> float:
    """Return the time of a pass."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def most_megabytes() -> float:
    """Return the most memory that this process has had; `resource` on Linux tells its parent's, if that had more."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def answer(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def compute_in_float32(job: dict[str, Any]) -> None:
    """By so many threads, or on a GPU, whose convolutions would be in TF32."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.allow_tf32 = False


def prepare_torch(job: dict[str, Any], x: Array) -> Callable[[], Array]:
    """Return the eager network, or the deployed one."""
    import torch
    from contestants import build

    compute_in_float32(job)
    network = build(job["name"], deployed=job["form"] == "deploy").to(job["device"])
    batch = torch.from_numpy(x).to(job["device"])

    def run() -> Array:
        with torch.inference_mode():
            return network(batch).cpu().numpy()

    return run


def prepare_program(job: dict[str, Any], x: Array) -> Callable[[], Array]:
    """Return a file of torch.export, which needs no code of the network's."""
    import torch

    torch.set_num_threads(job["threads"])
    program, batch = torch.export.load(job["file"]).module(), torch.from_numpy(x)

    def run() -> Array:
        with torch.inference_mode():
            return program(batch).numpy()

    return run


def prepare_training(job: dict[str, Any], x: Array) -> Callable[[], Array]:
    """Return a step of training: forwards, backwards, and what Adam makes of it."""
    import torch
    from contestants import build
    from torch.nn import functional as F

    compute_in_float32(job)
    network = build(job["name"]).train().to(job["device"])
    optimizer = torch.optim.Adam(network.parameters())
    batch = torch.from_numpy(x).to(job["device"])
    target = (batch[:, :1] > 0).float()

    def run() -> Array:
        optimizer.zero_grad()
        logits = network(batch)
        finest = logits[0] if isinstance(logits, list | tuple) else logits
        loss = F.binary_cross_entropy_with_logits(finest, target)
        loss.backward()
        optimizer.step()
        return loss.detach().cpu().numpy()

    return run


def prepare_onnxruntime(job: dict[str, Any], x: Array) -> Callable[[], Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def prepare_openvino(job: dict[str, Any], x: Array) -> Callable[[], Array]:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job["threads"],
        "NUM_STREAMS": "1",
    }
    request = openvino.Core().compile_model(job["file"], "CPU", settings).create_infer_request()
    return lambda: np.array(request.infer([x], share_inputs=True)[0])


PREPARE = {
    "eager": prepare_torch,
    "deploy": prepare_torch,
    "torch-export": prepare_program,
    "torch-export, not deployed": prepare_program,
    "training": prepare_training,
    "onnxruntime": prepare_onnxruntime,
    "onnxruntime, not deployed": prepare_onnxruntime,
    "openvino": prepare_openvino,
    "openvino, not deployed": prepare_openvino,
}

if __name__ == "__main__":
    main()
