"""int8 forms of LV-UNet and CMUNeXt, and bfloat16, beside float32 in ONNX Runtime and OpenVINO: size, speed, Dice.

    python benchmarks/int8.py --data shared/data [--forms FOLDER] [--checkpoints NAME ...] [--turns 30]
    python benchmarks/int8.py --time-only    # what was made and scored before, timed again

Makes the forms of each checkpoint, scores them on the validation part of its data, times them, and writes int8.json and
int8.md, which keep what other processors measured. Needs `medsegzoo[onnx,openvino,nncf]`, and for each checkpoint its
dataset, in a folder of the dataset's name.

Every file takes images of the network's own size. Calibration takes training images alone; forms are chosen and judged
on the validation part, never on the test part. All forms of a checkpoint and runtime take turns in one process, and
speeds are ratios to float32 in the same turns.
"""

import argparse
import json
import statistics
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine
from speed_runs import CPUINFO, features_of, version_of
from torch.nn import functional as F

import segzoo
from segzoo.export.check import check_inputs
from segzoo.export.int8 import without_advice
from segzoo.export.measure import calibration_images, part, training_data
from segzoo.export.openvino import quantize as quantize_by_nncf
from segzoo.metrics.metric import Dice
from segzoo.prediction.runtimes import BACKENDS, import_openvino
from segzoo.prediction.torch_backend import has_bfloat16

BENCHMARKS = Path(__file__).parent
PAGE, STORED = BENCHMARKS / "int8.md", BENCHMARKS / "int8.json"
CHECKPOINTS = ("cmunext-s-busi", "lv-unet-busi")
RUNTIMES = ("ONNX Runtime", "OpenVINO")
BFLOAT16 = "OpenVINO, float32 computed in bfloat16"  # where the processor has instructions for it
THREADS = (1, 2)
WARM_SECONDS = 0.05  # of passes before the one that counts: the threads of the form before wait a while for more work
FASTER, LOST = 1.2, 0.002  # from what speed, and up to what loss of Dice, a form is worth its trouble
# what integers are multiplied by, of /proc/cpuinfo
INSTRUCTIONS = ("avx2", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")

Array = np.ndarray[Any, Any]
Facts = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the datasets")
    parser.add_argument("--forms", type=Path, default=Path(tempfile.gettempdir()) / "segzoo-int8", help="for the files")
    parser.add_argument("--checkpoints", nargs="+", help="default: two for BUSI, or what is stored")
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--loaded", action="store_true", help="say that the machine had other work")
    parser.add_argument("--time-only", action="store_true", help="take files and Dice as an earlier run left them")
    options = parser.parse_args()
    runs = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}
    stored = runs.setdefault(machine()["processor"], {"checkpoints": {}})
    for name in options.checkpoints or (stored["checkpoints"] if options.time_only else CHECKPOINTS):
        folder = options.forms / name
        if not options.time_only:
            stored["checkpoints"][name] = make(name, options.data, folder)
        facts = stored["checkpoints"][name]
        for entry in facts["forms"].values():
            entry["bytes"] = bytes_of(folder / entry["file"])
        for threads in THREADS:
            for form, times in timed(folder, facts, threads, options.turns).items():
                facts["forms"][form].setdefault("seconds", {})[str(threads)] = times
        stored["machine"] = on_what() | {"turns": options.turns, "loaded": options.loaded}
        STORED.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(runs), encoding="utf-8")


# ---- the forms


def make(name: str, root: Path, folder: Path) -> Facts:
    """Write all forms of a checkpoint, and score them on the validation part of its data."""
    folder.mkdir(parents=True, exist_ok=True)
    model = segzoo.from_pretrained(name)
    data = training_data(model, root / model.data["dataset"])
    network, calibration = model.deploy(), calibration_images(data)
    size = network.preprocessing.image_size
    files = write(model, calibration, size, folder)
    samples = part(data, "val")
    scores = {form: Dice(model.num_classes, multilabel=model.multilabel) for form in files}
    runs = {form: opened(file, form, torch.get_num_threads()) for form, file in files.items()}
    for sample in samples:
        x = check_inputs(network, sample.image, size)[0].numpy()
        truth = torch.from_numpy(data.label_of(sample))[None, None].float()
        target = F.interpolate(truth, size, mode="nearest-exact")[0].long()
        for form, run in runs.items():
            scores[form].update(network.mask(torch.from_numpy(run(x))), target)
    np.save(folder / "image.npy", x)
    forms = {form: {"file": file.name, "dice": scores[form].compute().item()} for form, file in files.items()}
    return {"dataset": model.data["dataset"], "images": len(samples), "calibration": len(calibration), "forms": forms}


def write(model: Any, calibration: list[Any], size: tuple[int, int], folder: Path) -> dict[str, Path]:
    """Write the forms; returns their files, float32 first of each runtime."""
    network = model.deploy()
    whole = model.export(folder / "float32.onnx", size=size).path

    def input_of(image: Any) -> Array:
        return check_inputs(network, image, size)[0].numpy()

    return {
        "ONNX Runtime, float32": whole,
        "ONNX Runtime, wide convolutions": model.export(
            folder / "wide.onnx", size=size, precision="int8", calibration=calibration
        ).path,
        **{
            f"ONNX Runtime, all, {form}": by_onnxruntime(
                whole, folder / f"{number}.onnx", map(input_of, calibration), form
            )
            for number, form in enumerate(QUANTISERS)
        },
        "OpenVINO, float32": model.export(folder / "float32.xml", size=size).path,
        **({BFLOAT16: folder / "float32.xml"} if has_bfloat16(torch.device("cpu")) else {}),
        "OpenVINO, all, NNCF": by_nncf(whole, folder / "nncf.xml", calibration, input_of),
    }


QUANTISERS: dict[str, Facts] = {  # format, activations and weights: of 8 bits these may overflow without VNNI
    "QDQ, u8 and 7 bits": {"quant_format": "QDQ", "activation_type": "QUInt8", "reduce_range": True},
    "QOperator, u8 and 7 bits": {"quant_format": "QOperator", "activation_type": "QUInt8", "reduce_range": True},
    "QDQ, u8 and 8 bits": {"quant_format": "QDQ", "activation_type": "QUInt8", "reduce_range": False},
    "QDQ, s8 and s8": {"quant_format": "QDQ", "activation_type": "QInt8", "reduce_range": False},
}


def by_onnxruntime(source: Path, target: Path, inputs: Iterator[Array], form: str) -> Path:
    """Write every operation in integers that ONNX Runtime's quantiser knows, with weights by channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, Array] | None:
            return next(({"image": x} for x in inputs), None)

    options = QUANTISERS[form]
    prepared = target.with_suffix(".prepared.onnx")
    with without_advice():
        quant_pre_process(source, prepared, skip_symbolic_shape=True)  # which gives up where the batch varies
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat[options["quant_format"]],
            per_channel=True,
            reduce_range=options["reduce_range"],
            activation_type=QuantType[options["activation_type"]],
            weight_type=QuantType.QInt8,
        )
    return target


def by_nncf(source: Path, target: Path, calibration: list[Any], input_of: Callable[[Any], Array]) -> Path:
    """Write what `segzoo export FILE.xml --precision int8` does, of any network."""
    openvino = import_openvino()
    model = quantize_by_nncf(openvino.Core().read_model(source), calibration, input_of)
    openvino.save_model(model, target, compress_to_fp16=False)
    return target


def opened(file: Path, form: str, threads: int) -> Callable[[Array], Array]:
    """Return what a file computes, by the runtime of its suffix."""
    weights = file.with_suffix(".bin").read_bytes() if file.suffix == ".xml" else b""
    precision = "bfloat16" if form == BFLOAT16 else "auto"
    return BACKENDS["openvino" if weights else "onnxruntime"](file.read_bytes(), threads, weights, precision).run


def bytes_of(file: Path) -> int:
    """Return the size of a form, with the weights beside an .xml file."""
    return sum(path.stat().st_size for path in {file, file.with_suffix(".bin") if file.suffix == ".xml" else file})


# ---- times


def timed(folder: Path, facts: Facts, threads: int, turns: int) -> dict[str, Facts]:
    """Median seconds of each form, on the processor and by the clock; those of a runtime take turns."""
    x = np.load(folder / "image.npy")
    medians = {}
    for runtime in RUNTIMES:
        files = {form: entry["file"] for form, entry in facts["forms"].items() if form.startswith(runtime)}
        runs = {form: opened(folder / file, form, threads) for form, file in files.items()}
        times: dict[str, list[tuple[float, float]]] = {form: [] for form in runs}
        for _ in range(turns):
            for form, run in runs.items():
                warm = time.perf_counter() + WARM_SECONDS
                while time.perf_counter() < warm:
                    run(x)
                processor, wall = time.process_time(), time.perf_counter()
                run(x)
                times[form].append((time.process_time() - processor, time.perf_counter() - wall))
        for form, taken in times.items():
            found = map(statistics.median, zip(*taken, strict=True))
            medians[form] = dict(zip(("processor", "wall"), found, strict=True))
    return medians


def on_what() -> Facts:
    """Return the processor, what it multiplies integers by, and the runtimes."""
    features = features_of(CPUINFO)
    return {
        "processor": machine()["processor"],
        "instructions": [name for name in INSTRUCTIONS if name in features],
        "versions": {name: version_of(name) for name in ("onnxruntime", "openvino", "nncf", "torch")},
    }


# ---- the page

HEADING = """# int8 and bfloat16 beside float32

Written by `python benchmarks/int8.py`: change nothing here by hand. Speeds are how many times as fast as float32 in the
same runtime and the same turns (medians): processor time, and by the clock in brackets; images have the network's own
size. Dice is the mean over the validation images of the checkpoint's dataset, at that size.

"Wide convolutions" is what `segzoo export FILE.onnx --precision int8` writes, for its size; "all, NNCF" is what
`segzoo export FILE.xml --precision int8` writes of CMUNeXt. "Computed in bfloat16" is `segzoo predict FILE.xml
--precision bfloat16`. The others are tried here alone, with weights by channel.
A form is worth having for its speed where it is at least {faster} times as fast on the processor, with one thread and
with two, and loses no more than {lost} Dice.
"""
RUN = """## {processor}

Measured{load} in {turns} turns, with {calibration} images to calibrate. Of instructions for integers it has
{instructions}. {versions}.

| checkpoint | runtime and form | MB | 1 thread | 2 threads | Dice | lost |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
"""


def page(runs: dict[str, Facts]) -> str:
    """Return what was measured on each processor, as a page."""
    return wrapped(HEADING.format(faster=FASTER, lost=LOST)) + "".join("\n\n" + section(run) for run in runs.values())


def section(run: Facts) -> str:
    """Return what was measured on one processor."""
    on = run["machine"]
    heading = RUN.format(
        turns=on["turns"],
        calibration=max(facts["calibration"] for facts in run["checkpoints"].values()),
        processor=on["processor"],
        load=" beside other work" if on["loaded"] else "",
        instructions=" and ".join(on["instructions"]) or "none",
        versions=", ".join(f"{name} {number.partition('-')[0]}" for name, number in on["versions"].items()),
    )
    rows, found = [], []
    for name, facts in run["checkpoints"].items():
        for form, entry in facts["forms"].items():
            whole = facts["forms"][f"{form.partition(',')[0]}, float32"]
            first = f"`{name}`, {facts['images']} of {facts['dataset']}" if form in next(iter(facts["forms"])) else ""
            cells = [first, form, f"{entry['bytes'] / 1e6:.2f}"]
            lost = whole["dice"] - entry["dice"]
            if entry is whole:
                cells += ["", "", f"{entry['dice']:.4f}", ""]
            else:
                ratios = [ratio(whole, entry, threads) for threads in THREADS]
                cells += [f"{processor:.2f} ({wall:.2f})" for processor, wall in ratios]
                cells += [f"{entry['dice']:.4f}", f"{lost:z.4f}"]
            rows.append("| " + " | ".join(cells) + " |")
        found += [verdict(name, facts, runtime) for runtime in RUNTIMES]
    return wrapped(heading) + "\n".join([*rows, "", *found]) + "\n"


def wrapped(heading: str) -> str:
    """Return a heading whose paragraphs, not its table, are broken anew."""
    paragraphs = heading.split("\n\n")
    return "\n\n".join(part if part.startswith("|") else textwrap.fill(part, 120) for part in paragraphs)


def ratio(whole: Facts, entry: Facts, threads: int) -> tuple[float, float]:
    """Return how many times as fast as float32 a form is, on the processor and by the clock."""
    of_whole, own = (facts["seconds"][str(threads)] for facts in (whole, entry))
    return of_whole["processor"] / own["processor"], of_whole["wall"] / own["wall"]


def verdict(name: str, facts: Facts, runtime: str) -> str:
    """Say which forms of a checkpoint are fast enough in a runtime and lose little enough; or that none was found."""
    whole = facts["forms"][f"{runtime}, float32"]
    good = [
        form.partition(", ")[2]
        for form, entry in facts["forms"].items()
        if form.startswith(runtime)
        and min(ratio(whole, entry, threads)[0] for threads in THREADS) >= FASTER
        and whole["dice"] - entry["dice"] <= LOST
    ]
    return f"- `{name}` in {runtime}: {' and '.join(good) or 'none was found'}."


if __name__ == "__main__":
    main()
