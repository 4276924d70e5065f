"""Train the zoo's checkpoints, one recipe after another, within a time limit.

    python benchmarks/train_queue.py [NAME...] --hours 2.5 [--publish]

Every YAML file of ``benchmarks/recipes/`` is a `segzoo fit` configuration named after its checkpoint; ``order.txt``
lists them by value. Each is trained in ``runs/NAME`` in a process of its own; one that was interrupted goes on from its
last epoch, one that is finished is passed over, and one that fails does not stop the rest. ``--publish`` writes each
finished one to ``model_cards/`` (see publish.py), of a baseline the test scores alone (see quality.py). A GPU is used
where there is one. Run from the repository's root, with ``data`` and ``weights`` there, as the recipes say.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

RECIPES = Path(__file__).parent / "recipes"
ORDER = (RECIPES / "order.txt").read_text(encoding="utf-8").split()
GRACE_SECONDS = 60  # for a process that is told to stop
# glibc gives large blocks back at once, and every step asks for them anew: on two threads of a CPU, 8 images of 256x256
# a step, MONAI's U-Net took 2.0 s so, and 1.3 s where they are kept (LV-UNet 0.37 and 0.31 s)
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}
# threads that wait by spinning stand nearly still beside one busy process: MedNeXt-S had no epoch in seven minutes, and
# one in 68 s so (65 s by spinning, with nothing beside it)
ENVIRONMENT = {**KEPT_MEMORY, "OMP_WAIT_POLICY": "passive"}
FINISHED = "finished"  # an empty file in a run's folder; one that was interrupted may hold a checkpoint too


def train(name: str, seconds: float, run: Path, options: Sequence[str] = ()) -> str:
    """Train one recipe in a folder for at most so long, with more options of `segzoo fit`; returns how that ended."""
    if (run / FINISHED).is_file():
        return "was finished"
    command = [sys.executable, "-m", "segzoo.cli", "fit", "--config", str(RECIPES / f"{name}.yaml")]
    command += ["--trainer.default_root_dir", str(run), "--ckpt_path", "last", *options]
    run.mkdir(parents=True, exist_ok=True)
    with (run / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, env={**ENVIRONMENT, **os.environ}, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            stop(process)
            return "goes on from last.ckpt when run again" if (run / "last.ckpt").is_file() else "has no epoch yet"
        except BaseException:  # the queue itself is told to stop
            stop(process)
            raise
    if code != 0:
        return f"failed (see {run / 'log.txt'})"
    (run / FINISHED).touch()
    return "finished"


def stop(process: subprocess.Popen) -> None:
    """End a training; its last whole epoch is on disk."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def publishing(name: str) -> list[str]:
    """Return the command that publishes a finished run: a checkpoint of the zoo's models, the scores of a baseline."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    if recipe["model"]["class_path"].startswith("benchmarks."):
        script, arguments = "quality.py", ["score", f"runs/{name}", name]
    else:
        script, arguments = "publish.py", [name, "--run", f"runs/{name}"]
    return [sys.executable, str(Path(__file__).with_name(script)), *arguments]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ORDER)} (default: all, in this order)")
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--publish", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.names) - set(ORDER):
        parser.error(f"there is no recipe {sorted(unknown)[0]}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # and the training too
    end = time.monotonic() + 3600 * options.hours
    for name in options.names or ORDER:
        if time.monotonic() > end:
            break
        outcome = train(name, end - time.monotonic(), Path("runs") / name)
        print(f"{name}: {outcome}", flush=True)
        publish = options.publish and outcome == "finished"
        if publish and subprocess.run(publishing(name), env=os.environ, check=False).returncode:
            print(f"{name}: could not be published", flush=True)


if __name__ == "__main__":
    main()
