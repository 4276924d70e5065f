"""MedNeXt-S against MONAI's with equal weights: processor seconds, wall seconds and peak memory on a CPU.

    python benchmarks/mednext.py [--forward 64 128] [--training 64 96] [--kernels 3] [--repeats 3] [--threads 2]

Every measurement is a process of its own that builds one model, warms up on a small volume and runs once at the size
asked for, a batch of one with one channel and three classes: a forward pass (eval, no gradients, no deep supervision)
or a training step (five heads, cross-entropy + Dice, backward, AdamW). The models take turns, so that a busy machine
slows all of them down, and the least of the repeats counts. Peak memory is that of the process (ru_maxrss) minus its
value before the model is built. MONAI's model runs as its users run it, in float32 and PyTorch's default layout.

Rows in bfloat16 need a processor with instructions for it (avx512_bf16 or amx_bf16 in /proc/cpuinfo) to be fast.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FORWARD = ("MONAI", "segzoo", "segzoo, bfloat16")
TRAINING = ("MONAI", "segzoo", "segzoo, checkpointing=expansion", "segzoo, checkpointing=block")
CLASSES, WARM_UP = 3, 32


# ---- in the processes that measure


def build(row: str, kernel: int, training: bool, folder: Path) -> Any:
    import torch

    state = torch.load(folder / f"{row.split(',')[0]}-k{kernel}.pt", weights_only=True)
    if row == "MONAI":
        from monai.networks.nets.mednext import create_mednext

        model = create_mednext("S", 3, 1, CLASSES, kernel, deep_supervision=training)
        state = {name: value for name, value in state.items() if name in model.state_dict()}
    else:
        import segzoo

        checkpointing = row.split("checkpointing=")[1] if "checkpointing" in row else None
        model = segzoo.create_model(
            f"mednext_s_k{kernel}", num_classes=CLASSES, deep_supervision=training, checkpointing=checkpointing
        )
    model.load_state_dict(state)
    return model.train(training)


def measure(row: str, task: str, size: int, kernel: int, threads: int, folder: Path) -> dict[str, float]:
    """Figures of one run, and the largest difference of the outputs to those that MONAI's model left in the folder."""
    import torch

    import segzoo
    from segzoo.training.losses import DiceCELoss, deep_supervision_loss

    torch.set_num_threads(threads)
    training = task == "training"
    start = peak_mib()
    model = build(row, kernel, training, folder)
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=1e-3), DiceCELoss()
    results = []

    def run(side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, 1, side, side, side, generator=generator)
        if not training:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in row):
                results[:] = [model(image)]
            return
        label = torch.randint(0, CLASSES, (1, side, side, side), generator=generator)
        outputs = model(image)
        if not results:  # later ones come after steps of the optimizer, which blow rounding errors up
            results[:] = [part.detach() for part in outputs]
        deep_supervision_loss(loss, outputs, label).backward()
        optimizer.step()
        optimizer.zero_grad()

    run(WARM_UP)
    cpu, wall = time.process_time(), time.perf_counter()
    run(size)
    figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": peak_mib() - start}
    reference = folder / f"{task}-{size}-k{kernel}.pt"
    if row == "MONAI":
        torch.save(results, reference)
    theirs = torch.load(reference, weights_only=True)
    figures["difference"] = max(float((a - b).abs().max()) for a, b in zip(results, theirs, strict=True))
    return figures | {"versions": f"segzoo {segzoo.__version__}, torch {torch.__version__}"}


def peak_mib() -> float:
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def save_weights(kernel: int, folder: Path) -> None:
    import torch
    from monai.networks.nets.mednext import create_mednext

    import segzoo

    torch.manual_seed(0)
    state = create_mednext("S", 3, 1, CLASSES, kernel, deep_supervision=True).state_dict()
    ours = segzoo.create_model(f"mednext_s_k{kernel}", num_classes=CLASSES)
    torch.save(state, folder / f"MONAI-k{kernel}.pt")
    torch.save(segzoo.convert(state, ours), folder / f"segzoo-k{kernel}.pt")


# ---- in the process that starts them; it stays small, since a process inherits its parent's ru_maxrss on Linux


def in_fresh_process(function: str, *arguments: Any) -> Any:
    command = [sys.executable, "-W", "ignore", __file__, "--call", json.dumps([function, *arguments])]
    # threads that wait for each other in a loop would count as processor time
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"} | os.environ
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def call(function: str, *arguments: Any) -> None:
    *values, folder = arguments
    result = {"measure": measure, "save_weights": save_weights}[function](*values, Path(folder))
    print(json.dumps(result))


def least(runs: list[dict[str, float]]) -> dict[str, float]:
    return {
        name: max(run[name] for run in runs) if name == "difference" else min(run[name] for run in runs)
        for name in runs[0]
    }


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}\n")
    print("| | CPU s | wall s | peak MiB | CPU | wall | peak | largest difference |")
    print("|---|---|---|---|---|---|---|---|")
    peer = rows["MONAI"]
    for name, row in rows.items():
        figures = f"{row['cpu']:.2f} | {row['wall']:.2f} | {row['peak']:.0f}"
        ratios = " | ".join(f"{row[key] / peer[key]:.2f}x" for key in ("cpu", "wall", "peak"))
        print(f"| {name} | {figures} | {ratios} | {row['difference']:.1e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forward", type=int, nargs="*", default=[64, 128], help="sides of the volumes")
    parser.add_argument("--training", type=int, nargs="*", default=[64, 96], help="sides of the volumes")
    parser.add_argument("--kernels", type=int, nargs="+", choices=(3, 5), default=[3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="with 1, PyTorch takes other convolutions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--call", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.call:
        call(*json.loads(args.call))
        return
    report = []
    with tempfile.TemporaryDirectory() as folder:
        for kernel in args.kernels:
            in_fresh_process("save_weights", kernel, folder)
            for task, names, sizes in (("forward", FORWARD, args.forward), ("training", TRAINING, args.training)):
                for size in sizes:
                    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
                    for _ in range(args.repeats):
                        for name in names:
                            found = in_fresh_process("measure", name, task, size, kernel, args.threads, folder)
                            versions = found.pop("versions")
                            runs[name].append(found)
                    rows = {name: least(found) for name, found in runs.items()}
                    title = f"{task}, kernel {kernel}, 1 x 1 x {size}³, {args.threads} threads, {versions}"
                    print_table(title, rows)
                    report.append({"task": task, "kernel": kernel, "size": size, "threads": args.threads, "rows": rows})
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
