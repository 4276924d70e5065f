"""One network in one form, run in a process of its own whenever `speed.py` asks for it.

A process each, because whoever deploys a network has one: what its allocator keeps and what it takes at most depend on
nothing else that is measured. Neither torch nor segzoo is imported where the form does not need them.

A form is what runs the network, and how: "eager", "deploy, float16, channels last", "onnxruntime, not deployed",
"training". Float16 and bfloat16 are autocast's, as users have them.

Reads a job as a line of JSON, answers with the output of a first pass (`output`, a .npy file) and then, to every line,
with the seconds of a pass by the clock and on the processor, and the most memory that the process has taken, on a GPU
what its tensors have taken there.
"""

import json
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

Array = np.ndarray[Any, Any]
Job = dict[str, Any]
# of passes before the one that counts: until then threads may still share a core, or a GPU sleep
WARM_SECONDS = {"cpu": 0.1, "cuda": 0.03}
LONG_SECONDS = 1.0  # a pass that takes longer finds its caches cold however it starts
STEPS = 10**6  # of an epoch that does not end


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed
    job = json.loads(sys.stdin.readline())
    x = np.random.default_rng(0).standard_normal(job["shape"]).astype(np.float32)
    if job["form"].startswith("training"):
        train(job, x, turns(job, answers))
        return
    run = PREPARE[job["form"].split(",")[0]](job, x)
    for turn in turns(job, answers):
        output = run()
        if turn == 0:
            np.save(job["output"], as_array(output))


def turns(job: Job, answers: TextIO) -> Iterator[int]:
    """Yield the number of each pass when it is to be run; whoever comes back for the next one has run it."""
    yield 0
    refuse_other_source(job)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for number, _ in enumerate(sys.stdin, 1):
        warm = time.perf_counter() + WARM_SECONDS[job["device"]]
        while True:
            started, processor = time.perf_counter(), time.process_time()
            yield number
            wall, processor = time.perf_counter() - started, time.process_time() - processor
            if wall >= LONG_SECONDS or time.perf_counter() >= warm:
                break
        facts = {"seconds": wall, "processor_seconds": processor, "megabytes": most_megabytes(job["device"])}
        print(json.dumps(facts), file=answers, flush=True)


def refuse_other_source(job: Job) -> None:
    """Refuse a segzoo that is not the one to be timed."""
    found = sys.modules.get("segzoo")
    if found is not None and Path(str(found.__file__)).resolve().parents[1] != Path(job["source"]):
        raise SystemExit(f"segzoo is imported from {found.__file__}, not from {job['source']}")


def most_megabytes(device: str) -> float:
    """Return the most memory that this process has had; `resource` on Linux tells its parent's, if that had more."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+)", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def as_array(output: Any) -> Array:
    return output if isinstance(output, np.ndarray) else output.detach().float().cpu().numpy()


# ---- forwards


def compute_in_float32(job: Job) -> None:
    """By so many threads, or on a GPU, whose convolutions would be in TF32."""
    import torch

    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.allow_tf32 = False


def low_precision(form: str) -> str | None:
    """Return the name of a form's dtype, None for float32."""
    return next((part for part in form.split(", ") if part in ("float16", "bfloat16")), None)


def prepare_torch(job: Job, x: Array) -> Callable[[], Any]:
    """Return the eager network, or the deployed one, or what Inductor makes of that."""
    import torch
    from contestants import build

    compute_in_float32(job)
    device, form = job["device"], job["form"]
    network: Any = build(job["name"], deployed=not form.startswith("eager")).to(device)
    batch = torch.from_numpy(x).to(device)
    if "channels last" in form:
        layout = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        network, batch = network.to(memory_format=layout), batch.to(memory_format=layout)
    if form.startswith("compile"):
        network = torch.compile(network)
    precision = low_precision(form)
    dtype = getattr(torch, precision) if precision else None

    def run() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device, dtype, enabled=dtype is not None):
            return finished(network(batch))

    return run


def finished(output: Any) -> Any:
    """Return a tensor once it has been computed, which a GPU does while the program goes on."""
    if output.is_cuda:
        import torch

        torch.cuda.synchronize()
    return output


def prepare_program(job: Job, x: Array) -> Callable[[], Any]:
    """Return a file of torch.export, which needs no code of the network's."""
    import torch

    torch.set_num_threads(job["threads"])
    program, batch = torch.export.load(job["file"]).module(), torch.from_numpy(x)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return program(batch)

    return run


def prepare_onnxruntime(job: Job, x: Array) -> Callable[[], Array]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(job["file"], options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x}
    return lambda: session.run(None, feed)[0]


def prepare_openvino(job: Job, x: Array) -> Callable[[], Array]:
    import openvino

    precision = low_precision(job["form"]) or "float32"
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job["threads"],
        "NUM_STREAMS": "1",
    }
    request = openvino.Core().compile_model(job["file"], "CPU", settings).create_infer_request()
    return lambda: np.array(request.infer([x], share_inputs=True)[0])


# ---- training


def train(job: Job, x: Array, turns: Iterable[int]) -> None:
    """Take a step of training at each turn: as `segzoo fit` takes it, and of a peer forwards, backwards and AdamW."""
    import torch
    from contestants import ZOO, build

    compute_in_float32(job)
    network = build(job["name"]).train().to(job["device"])
    batch = torch.from_numpy(x).to(job["device"])
    if job["name"] in ZOO:
        train_by_lightning(network, {"image": batch, "label": (batch[:, 0] > 0).long()}, job, turns)
        return
    step = step_of_peer(network, batch, job)
    for _ in turns:
        step()


class Loader:
    """Loader that gives the same batch at each turn; whoever comes back for it has finished a step.

    Args:
        batch: of every step.
        turns: where this waits until a step is asked for.
    """

    def __init__(self, batch: dict[str, Any], turns: Iterable[int]) -> None:
        self.batch, self.turns = batch, turns

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for _ in self.turns:
            yield self.batch
            finished(self.batch["image"])


def train_by_lightning(network: Any, batch: dict[str, Any], job: Job, turns: Iterable[int]) -> None:
    """Train in Lightning's loop, so that what the model's hooks do, and choose for a training, is timed with a step."""
    from lightning import Trainer

    precision = {"float16": "16-mixed", "bfloat16": "bf16-mixed", None: "32-true"}[low_precision(job["form"])]
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(accelerator=job["device"], devices=1, max_epochs=1, precision=precision, **quiet)
    trainer.fit(network, Loader(batch, turns))


def step_of_peer(network: Any, batch: Any, job: Job) -> Callable[[], Any]:
    """Return a step: binary cross-entropy, of coarser outputs too, each half as heavy as the one before."""
    import torch
    from torch.nn import functional as F

    optimizer = torch.optim.AdamW(network.parameters())
    target = (batch[:, :1] > 0).float()
    precision = low_precision(job["form"])
    dtype = getattr(torch, precision) if precision else None
    scaler = torch.amp.GradScaler(job["device"], enabled=precision == "float16")

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(job["device"], dtype, enabled=dtype is not None):
            logits = network(batch)
        outputs = logits if isinstance(logits, list | tuple) else [logits]
        losses = [
            0.5**level * F.binary_cross_entropy_with_logits(one.float(), F.interpolate(target, one.shape[2:]))
            for level, one in enumerate(outputs)
        ]
        loss = torch.stack(losses).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return finished(loss)

    return run


PREPARE = {  # by the first words of a form
    "eager": prepare_torch,
    "deploy": prepare_torch,
    "compile": prepare_torch,
    "torch-export": prepare_program,
    "onnxruntime": prepare_onnxruntime,
    "openvino": prepare_openvino,
}

if __name__ == "__main__":
    main()
