"""Costs of a model, and scores of a run that left no checkpoint folder; `quality.py` has the commands.

Both end in ``benchmarks/results/``: NAME.csv holds the scores image by image, validation/NAME.csv the validation Dice
epoch by epoch, NAME.json what the model is and costs.
"""

import csv
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml
from quality import GROUPS, MIRRORED, read_scores
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.names import CONFIG, RECIPE
from segzoo.errors import MissingError
from segzoo.hub.listing import list_checkpoints
from segzoo.metrics import image_scores, write_image_scores
from segzoo.module import SegmentationModule
from segzoo.registry import NOT_ARCHITECTURE

REPOSITORY = Path(__file__).parents[1]
MODEL_CARDS = REPOSITORY / "model_cards"
RESULTS = REPOSITORY / "benchmarks" / "results"
RECIPES = REPOSITORY / "benchmarks" / "recipes"
BEST = "best.ckpt"
IMAGE_METRICS, VOLUME_METRICS = ("dice", "iou", "precision", "recall", "hd95"), ("dice", "iou", "hd95")
UNSCALED = {"ACDC_half"}  # folders of volumes whose voxels are of unknown size, so that distances mean nothing
STARTS = NOT_ARCHITECTURE | {"starts_from"}  # how a run was started, not what its model is
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}  # what decides how fast a processor multiplies, widest first

Facts = dict[str, Any]


# ---- costs


def measure(names: list[str], repeats: int, results: Path = RESULTS) -> None:
    """Write what models cost to ``NAME.json``.

    Args:
        names: of checkpoints in model_cards/, and of what `score` has scored; none are all of them.
        repeats: passes of each model, of which the median counts. The models take turns, so that a machine that is busy
            for a while slows all of them down.
        results: the folder that the files are in.
    """
    torch.set_num_threads(1)
    known = {name: facts_of(name, results) for name in names or measurable(results)}
    networks = {name: deployed(name, facts) for name, facts in known.items()}
    inputs = {name: random_input(facts) for name, facts in known.items()}
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in known}
    for _ in range(repeats + 1):  # the first one warms up
        for name, network in networks.items():
            passes[name].append(seconds(network, inputs[name]))
    for name, facts in known.items():
        processor, wall = (1e3 * statistics.median(times[1:]) for times in zip(*passes[name], strict=True))
        facts |= {
            "deployed_parameters": count_parameters(networks[name]),
            "macs": count_macs(networks[name], inputs[name]),
            "latency_ms": round(processor, 2),
            "wall_ms": round(wall, 2),
            "repeats": repeats,
            "machine": machine(),
        }
        (results / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {facts['macs'] / 1e9:.3g} G MACs, {processor:.1f} ms ({wall:.1f} ms by the clock)", flush=True)


def measurable(results: Path) -> list[str]:
    """Return every checkpoint, and every run without a folder that was scored."""
    found = {name for name in list_checkpoints() if (MODEL_CARDS / name / CONFIG).is_file()}
    stored = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in results.glob("*.json")}
    return sorted(found | {name for name, facts in stored.items() if "built_from" in facts})


def facts_of(name: str, results: Path) -> Facts:
    """Return what a model is and what it was trained on."""
    if (MODEL_CARDS / name / CONFIG).is_file():
        config = read_config(MODEL_CARDS / name)
        known = {"name": name, "model": config.model.name, **describe(config.entries)}
        return {**known, "parameters": config.parameters}
    stored = results / f"{name}.json"
    if not stored.is_file():
        raise MissingError(f"there is no checkpoint {name} in model_cards/, and no run was scored under that name")
    return json.loads(stored.read_text(encoding="utf-8"))


def describe(contract: dict[str, Any]) -> Facts:
    """Return the data that a model was trained on and the input that it takes, of its config.json or best.ckpt."""
    preprocessing = contract["preprocessing"]
    size = preprocessing.get("patch_size") or preprocessing["image_size"]
    return {
        "data": describe_data(contract["data"]),
        "input": [preprocessing["channels"], *size],
    }


def describe_data(data: dict[str, Any]) -> Facts:
    """Return what tells data and its split from others."""
    return {key: data.get(key) for key in ("dataset", "split", "fold", "seed", "split_sha256", "longest_side")}


def deployed(name: str, facts: Facts) -> SegmentationModule:
    """Return a model as it predicts; where its weights are not at hand random ones, which cost as much."""
    model = build(facts["built_from"]) if "built_from" in facts else segzoo.from_pretrained(MODEL_CARDS / name)
    if not model.is_deployable:
        model.deep_training_lambda.fill_(1)  # type: ignore[operator]  # of an LV-UNet with random weights
    return model.deploy()


def build(recipe: dict[str, Any]) -> SegmentationModule:
    """Return the model of a train.yaml, with random weights."""
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))  # where the class paths of baselines start
    module, _, kind = recipe["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), kind)(**recipe["init_args"])


def random_input(facts: Facts) -> Tensor:
    """One image, or one patch of a volume."""
    return torch.randn(1, *facts["input"], generator=torch.Generator().manual_seed(0))


def seconds(network: SegmentationModule, x: Tensor) -> tuple[float, float]:
    """Return a pass's time on the processor, which other processes change little, and by the clock."""
    with torch.inference_mode():
        wall, processor = time.perf_counter(), time.process_time()
        network(x)
        return time.process_time() - processor, time.perf_counter() - wall


def count_parameters(network: SegmentationModule) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: SegmentationModule, x: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products; what is done element by element is not counted."""
    with FlopCounterMode(display=False) as counter:
        network(x.clone().requires_grad_())  # with a gradient, since oneDNN's joined layers are unknown to the counter
    return counter.get_total_flops() // 2


def machine() -> dict[str, Any]:
    """Return what latencies depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    named = processor_name(cpuinfo.read_text()) if cpuinfo.is_file() else ""
    processor = named or platform.processor() or platform.machine()
    return {"processor": processor, "threads": torch.get_num_threads(), "torch": torch.__version__}


def processor_name(cpuinfo: str) -> str:
    """Return what Linux calls the first processor, and what tells apart those that virtual machines call the same."""
    facts = dict(re.findall(r"^(model name|cpu family|model|flags)\s*: (.+)$", cpuinfo.partition("\n\n")[0], re.M))
    if not {"model name", "cpu family", "model", "flags"} <= facts.keys():  # Arm's lack some
        return facts.get("model name", "")
    vectors = [name for flag, name in VECTORS.items() if flag in facts["flags"].split()]
    return ", ".join([f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']})", *vectors[:1]])


# ---- scores


def score(run: Path, name: str, results: Path = RESULTS) -> None:
    """Test a run's best.ckpt on the test part of its own recipe, and write ``NAME.csv`` and ``NAME.json``."""
    rows = score_run(run)
    contract = torch.load(run / BEST, map_location="cpu", weights_only=True)["segzoo"]
    recipe = read_recipe(run)
    results.mkdir(exist_ok=True)
    (results / f"{name}.csv").write_text(rows, encoding="utf-8", newline="")
    store_validation(run, name, results)
    built_from = {
        "class_path": recipe["model"]["class_path"],
        "init_args": {key: value for key, value in recipe["model"]["init_args"].items() if key not in STARTS},
    }
    parameters = count_parameters(build(built_from))
    facts = {
        "name": name,
        "model": f"{built_from['class_path'].rpartition('.')[2]} {parameters / 1e6:.1f} M",
        "built_from": built_from,
        **({"starts_from": Path(start).name} if (start := recipe["model"]["init_args"].get("starts_from")) else {}),
        **describe(contract),
        "parameters": parameters,
    }
    (results / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def store_validation(run: Path, name: str, results: Path = RESULTS) -> None:
    """Write the validation Dice of a run's epochs, by which its weights were chosen, to ``validation/NAME.csv``."""
    epochs: dict[int, str] = {}
    for log in sorted(run.glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with log.open(newline="", encoding="utf-8") as file:  # one for each time that the run went on
            epochs |= {int(row["epoch"]): row["val/dice"] for row in csv.DictReader(file) if row.get("val/dice")}
    lines = ["epoch,dice", *(f"{epoch},{float(epochs[epoch]):.4f}" for epoch in sorted(epochs))]
    file = results / "validation" / f"{name}.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def across(folder: Path, name: str, dataset: str, root: str, results: Path = RESULTS) -> Path:
    """Test a checkpoint on the test part of a dataset that it was not trained on; writes ``NAME@DATASET.csv``.

    Args:
        folder: the checkpoint's.
        name: that the model is stored under in the results.
        dataset: a class of segzoo.data, such as "KvasirSEG".
        root: of that dataset.
        results: the folder to write into.
    """
    size = list(read_config(folder).preprocessing["image_size"])
    data = {"class_path": f"segzoo.data.{dataset}", "init_args": {"root": root, "image_size": size}}
    file = results / f"{name}@{dataset}.csv"
    file.write_text(run_test({"data": data}, "--model", folder), encoding="utf-8", newline="")
    return file


def mirrored(folder: Path, name: str, results: Path = RESULTS) -> Path:
    """Test a checkpoint, or a run without one, averaging over mirrored copies; writes ``NAME+tta.csv``."""
    averaged = ("--tta", "true")
    if (folder / CONFIG).is_file():
        rows = run_test({"data": read_recipe(folder)["data"]}, "--model", folder, *averaged)
    else:
        rows = score_run(folder, *averaged)
    file = results / f"{name}{MIRRORED}.csv"
    file.write_text(rows, encoding="utf-8", newline="")
    return file


def score_reader(name: str, dataset: str, root: str, results: Path = RESULTS) -> Path:
    """Score the masks of a dataset's second reader by the first one's; writes ``NAME.csv`` and ``NAME.json``.

    Args:
        name: to store them by.
        dataset: a class of segzoo.data that takes a `reader`, such as "CHASEDB1".
        root: of that dataset.
        results: the folder to write into.
    """
    first, second = (getattr(segzoo.data, dataset)(root, reader=reader) for reader in (1, 2))
    rows = []
    for truth, drawn in zip(first.part_samples("test"), second.part_samples("test"), strict=True):
        drawing, target = torch.from_numpy(second.label_of(drawn)), torch.from_numpy(first.label_of(truth))
        rows += [{"id": truth.id, **image_scores(drawing[None], target[None], names=IMAGE_METRICS)[0]}]
    file = results / f"{name}.csv"
    write_image_scores(file, rows)
    facts = {"name": name, "model": "second reader", "reader": 2, "data": describe_data(first.describe())}
    file.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return file


def score_run(run: Path, *options: str) -> str:
    """Run `segzoo test` on a run's best weights; returns the CSV of scores image by image."""
    if not (run / BEST).is_file():
        raise MissingError(f"{run} holds no {BEST}: train it first, `segzoo fit --trainer.default_root_dir {run} ...`")
    recipe = read_recipe(run)
    return run_test({"model": recipe["model"], "data": recipe["data"]}, "--ckpt_path", run / BEST, *options)


def read_recipe(run: Path) -> dict[str, Any]:
    """Return the train.yaml that a training leaves."""
    return yaml.safe_load((run / RECIPE).read_text(encoding="utf-8"))


def run_test(recipe: dict[str, Any], *options: Any) -> str:
    """Run `segzoo test` with all scores of the bench; returns the CSV image by image."""
    given = recipe["data"]["init_args"]
    metrics = VOLUME_METRICS if "patch_size" in given else IMAGE_METRICS
    if Path(given["root"]).name in UNSCALED:
        metrics = tuple(name for name in metrics if name != "hd95")
    paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch)
        config = draft / "test.yaml"
        config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "segzoo.cli", "test", "--config", config, *options]
        command += ["--metrics", f"[{','.join(metrics)}]"]
        command += ["--trainer.default_root_dir", draft, "--trainer.enable_progress_bar", "false"]
        subprocess.run([str(part) for part in command], env=os.environ | {"PYTHONPATH": paths}, check=True)
        return (draft / "test_per_image.csv").read_text(encoding="utf-8")


# ---- which images belong together


def store_groups(results: Path = RESULTS, recipes: Path = RECIPES) -> Path:
    """Write ``groups.json``: dataset -> image -> group, of the tested images that share theirs with another one."""
    tested = {image for path in results.glob("*.csv") for image in read_scores(path)[0]}
    groups: dict[str, dict[str, str]] = {}
    for path in sorted(recipes.glob("*.yaml")):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
        if (name := dataset_of(data)) not in groups:
            groups[name] = shared_groups(data, tested)
    file = results / GROUPS
    file.write_text(json.dumps(groups, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return file


def dataset_of(data: dict[str, Any]) -> str:
    """Return the name of a recipe's dataset as results have it."""
    kind = data["class_path"].rpartition(".")[2]
    return Path(data["init_args"]["root"]).name if kind == "Decathlon" else kind


def shared_groups(data: dict[str, Any], tested: set[str]) -> dict[str, str]:
    """Image -> group, of the tested images of a recipe's data whose group has two of them or more."""
    module, _, kind = data["class_path"].rpartition(".")
    given = {key: data["init_args"][key] for key in ("root", "groups") if key in data["init_args"]}
    samples = getattr(importlib.import_module(module), kind)(**given).samples()
    # a set of lookalikes holds whole groups
    found = {sample.id: sample.lookalikes or sample.group for sample in samples if sample.id in tested}
    counts = Counter(found.values())
    return {image: group for image, group in found.items() if counts[group] > 1}
