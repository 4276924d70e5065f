"""Quality and costs of the zoo's checkpoints and the baselines: tables and one picture.

    python benchmarks/quality.py                                      the report, of what benchmarks/results/ holds
    python benchmarks/quality.py measure [NAME...] [--repeats 20]     parameters, MACs, latency -> results/NAME.json
    python benchmarks/quality.py score RUN NAME                       a run's test scores -> results/NAME.csv, NAME.json
    python benchmarks/quality.py across FOLDER NAME DATASET ROOT      on another dataset -> results/NAME@DATASET.csv
    python benchmarks/quality.py mirrored FOLDER NAME                 with --tta -> results/NAME+tta.csv
    python benchmarks/quality.py reader NAME DATASET ROOT             of a second reader -> results/NAME.csv, NAME.json
    python benchmarks/quality.py groups                               which test images belong together -> groups.json

The report needs no data, weights or torch, but matplotlib, of ``medsegzoo[dev]``. It reads ``NAME.csv`` (the test
scores image by image, which publish.py and ``score`` write), ``NAME@DATASET.csv`` (those of the same model on another
dataset), ``NAME+tta.csv`` (averaged over mirrored copies), ``NAME.json`` and ``groups.json``, and writes
``quality.md``, ``quality.png`` and, of the published checkpoints, the table of the README between its two comments. Run
the others from the repository's root, where ``data`` is; ``measure`` on a machine that does nothing else.
"""

import argparse
import hashlib
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.catalogue import DATASETS, kind_of_images
from segzoo.checkpoints.pins import published
from segzoo.errors import MissingError, SegzooError
from segzoo.metrics.scatter import Point, draw, write
from segzoo.metrics.score_file import read_image_scores
from segzoo.metrics.statistics import RESAMPLES, Difference, interval, paired_differences

REPOSITORY = Path(__file__).parents[1]
BENCHMARKS = REPOSITORY / "benchmarks"
MODEL_CARDS = REPOSITORY / "model_cards"
TABLE, PICTURE = "quality.md", "quality.png"
METRICS = ("dice", "iou", "hd95")
COSTS = ("input", "parameters", "MACs", "latency")
GROUPS = "groups.json"
MIRRORED = "+tta"  # ends the names of files of scores that are averaged over mirrored copies
BUSY = 1.1  # how many times its processor time a pass may take by the clock


# ---- what was stored


@dataclass(frozen=True)
class Result:
    """Model's scores on the test images of one dataset.

    Attributes:
        name: of the checkpoint or the scored run.
        facts: of its JSON file.
        dataset: that the images are from.
        ids: of the images, sorted.
        groups: a number for each image, the same for images that belong together.
        scores: metric -> one value an image.
        mirrored: the Dice of each image averaged over mirrored copies; None where that was not tested.
    """

    name: str
    facts: dict[str, Any]
    dataset: str
    ids: tuple[str, ...]
    groups: np.ndarray
    scores: dict[str, np.ndarray]
    mirrored: np.ndarray | None

    @property
    def trained_elsewhere(self) -> bool:
        """True where it was trained on other data than these."""
        return self.dataset != self.facts["data"]["dataset"]

    @property
    def is_reader(self) -> bool:
        """True where a person has drawn what was scored, who has no costs."""
        return "reader" in self.facts

    @property
    def dice(self) -> float:
        """Mean over the images."""
        return float(self.scores["dice"].mean())


def read_results(folder: Path) -> dict[str, list[Result]]:
    """Return the results of each dataset, the models trained on it first and the best first.

    Raises:
        MissingError: something was scored and never measured.
    """
    results = [read_result(path) for path in folder.glob("*.csv") if not path.stem.endswith(MIRRORED)]
    results.sort(key=lambda result: (result.dataset, result.trained_elsewhere, -result.dice, result.name))
    return {key: list(group) for key, group in itertools.groupby(results, lambda result: result.dataset)}


def read_result(path: Path) -> Result:
    """One CSV file and the JSON file that says what its model is."""
    name, _, tested_on = path.stem.partition("@")
    described = path.with_name(f"{name}.json")
    facts = json.loads(described.read_text(encoding="utf-8")) if described.is_file() else {}
    if not facts.keys() & {"latency_ms", "reader"}:
        raise MissingError(f"{path.name} is there and what {name} costs is not: python benchmarks/quality.py measure")
    ids, scores = read_scores(path)
    dataset = dataset_name(tested_on) if tested_on else facts["data"]["dataset"]
    groups = read_groups(path.parent, dataset, ids)
    return Result(name, facts, dataset, ids, groups, scores, read_mirrored(path, ids))


def read_groups(folder: Path, dataset: str, ids: Sequence[str]) -> np.ndarray:
    """Return a number for each image of a dataset, the same for images that belong together."""
    file = folder / GROUPS
    known = json.loads(file.read_text(encoding="utf-8")).get(dataset, {}) if file.is_file() else {}
    return np.unique([known.get(image, image) for image in ids], return_inverse=True)[1]


def read_mirrored(path: Path, ids: tuple[str, ...]) -> np.ndarray | None:
    """Return the Dice averaged over mirrored copies of the images of a CSV file, where that was tested."""
    averaged = path.with_name(f"{path.stem}{MIRRORED}.csv")
    if not averaged.is_file():
        return None
    found, scores = read_scores(averaged)
    if found != ids:
        raise SegzooError(f"{averaged.name} and {path.name} are of different images; score both again")
    return scores["dice"]


def read_scores(path: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Return the images of a CSV file, sorted, and metric -> one value an image."""
    rows = sorted(read_image_scores(path), key=lambda row: row["id"])
    measured = [metric for metric in METRICS if metric in rows[0]]  # no distance where the size of a voxel is unknown
    return tuple(row["id"] for row in rows), {
        metric: np.array([float(row[metric]) for row in rows]) for metric in measured
    }


def dataset_name(written: str) -> str:
    """Return a dataset's own name, however a file name has it: cvc-clinicdb is CVCClinicDB."""
    known = {name.lower(): name for name in DATASETS}
    return known.get(re.sub(r"[^a-z0-9]", "", written.lower()), written)


# ---- statistics


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; the difference is the first one's Dice minus the second one's."""

    first: Result
    second: Result
    difference: Difference


def compare(results: list[Result]) -> list[Comparison]:
    """Return every two results on the same images, p corrected for all of them."""
    pairs = [pair for pair in itertools.combinations(results, 2) if same_images(*pair)]
    found = paired_differences(
        [(first.scores["dice"], second.scores["dice"]) for first, second in pairs], [first.groups for first, _ in pairs]
    )
    return [Comparison(*pair, difference) for pair, difference in zip(pairs, found, strict=True)]


def same_images(first: Result, second: Result) -> bool:
    """Return whether they were tested alike and, trained on this data both, split alike."""
    splits = {one.facts["data"]["split_sha256"] for one in (first, second) if not one.trained_elsewhere}
    return first.ids == second.ids and len(splits) < 2


# ---- words


def report(benchmarks: Path = BENCHMARKS, readme: Path = REPOSITORY / "README.md") -> None:
    """Write the tables, the picture and the README's section."""
    datasets = read_results(benchmarks / "results")
    write_section(readme, "quality", readme_section(datasets))
    (benchmarks / TABLE).write_text(full_page(datasets), encoding="utf-8")
    write_picture(datasets, benchmarks / PICTURE)


def write_section(readme: Path, name: str, words: str) -> None:
    """Put words between the two comments that mark a section of the README.

    Raises:
        SegzooError: the comments are not there.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    page = readme.read_text(encoding="utf-8")
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SegzooError(f"{readme} must hold {begin} and {end} once each, around what is written there")
    before, after = page.split(begin)[0], page.split(end)[1]
    readme.write_text(f"{before}{begin}\n{words}\n{end}{after}", encoding="utf-8")


def readme_section(datasets: dict[str, list[Result]]) -> str:
    """Table of the published checkpoints, and how its numbers come about."""
    own = [one for results in datasets.values() for one in results if one.name in published()]
    own = [one for one in own if not one.trained_elsewhere]
    said = [
        "Dice is the mean over the test images at their own resolution, with its 95 % bootstrap interval. Size is what "
        "is downloaded. CPU time is the latency of the network alone for one input of the size shown"
        + (", of a volume one patch." if any(is_of_volumes(one) for one in own) else "."),
        *latency_words(own),
    ]
    return f"{checkpoint_table(own)}\n\n{paragraph(' '.join(said))}"


def checkpoint_table(results: list[Result]) -> str:
    """Return a row for each published checkpoint."""
    rows = [
        [
            f"[`{one.name}`](model_cards/{one.name}/README.md)",
            task(one.name),
            score(one, "dice"),
            f"{published()[one.name]['bytes'] / 1e6:.1f} MB",
            f"{one.facts['latency_ms']:.1f} ms, {sides(one)}",
        ]
        for one in results
    ]
    return markdown(["name", "task", "Dice", "size", "CPU time"], rows, left=2)


def task(name: str) -> str:
    """Return what a checkpoint finds, in which images, and the data that it was trained on."""
    config = json.loads((MODEL_CARDS / name / "config.json").read_text(encoding="utf-8"))
    found = ", ".join(config["class_names"][1:]).lower()
    return f"{found} in {kind_of_images(config['data'])} ({config['data']['dataset']})"


def full_page(datasets: dict[str, list[Result]]) -> str:
    """Everything."""
    parts = [
        "# Quality",
        "Written by `python benchmarks/quality.py` from `benchmarks/results/`: change nothing here by hand.",
        explanation(datasets),
        paragraph(
            "p is that of a paired permutation test of the mean difference: how often it would be as far from 0 were "
            "the two models alike, the images of a group changing sides together. It is corrected by Holm's method for "
            "all pairs of a dataset; the intervals are not. Both are about these weights on images such as these: what "
            "another training by the same recipe would bring is no part of them (see claims.md, with three seeds)."
        ),
        f"![{caption(datasets)}]({PICTURE})",
    ]
    for name, results in datasets.items():
        parts += [heading(name, results), score_table(results)]
        if comparisons := compare(results):
            parts.append(pair_table(comparisons))
    return "\n\n".join(parts) + "\n"


def heading(name: str, results: list[Result]) -> str:
    """Return a dataset, and the splits that its models were trained with."""
    splits = {split_words(one.facts["data"]): None for one in results if not one.trained_elsewhere}
    said = f"Test part of {', of '.join(splits)}" if splits else "Test part"
    images, groups = len(results[0].groups), len(np.unique(results[0].groups))
    counted = " ".join(filter(None, [f"{images} images", size_words(results)]))
    return f"### {name}\n\n{said}: {counted}" + (f", in {groups} groups." if groups < images else ".")


def size_words(results: Sequence[Result]) -> str:
    """Say how large the images of a dataset are, where its models do."""
    side, unit = longest_side(results), "voxels" if any(map(is_of_volumes, results)) else "pixels"
    return f"of at most {side} {unit} a side" if side else ""


def longest_side(results: Sequence[Result]) -> int | None:
    """Return the longest side of a dataset's images, which the models trained on it have recorded."""
    return next((one.facts["data"].get("longest_side") for one in results if not one.trained_elsewhere), None)


def split_words(data: dict[str, Any]) -> str:
    """Return a split, and the start of the hash by which it is known again."""
    return f"the split `{data['split']}`, fold {data['fold']} (sha256 `{data['split_sha256'][:12]}`)"


def score_table(results: list[Result]) -> str:
    """Return a row for each model tested on one dataset, with all its scores."""
    unit = "mm" if is_of_volumes(results[0]) else "pixels"
    head = ["model", "images", *COSTS, "Dice", "IoU", f"HD95, {unit}", "Dice with `--tta`"]
    rows = [
        [model_words(one), str(len(one.ids)), *costs(one), *(score(one, m) for m in METRICS), mirrored_score(one)]
        for one in results
    ]
    return markdown(head, rows)


def model_words(result: Result) -> str:
    """Return a model's name, and what is unlike the other rows."""
    words = [result.facts["model"]] if "built_from" in result.facts else []
    words += [f"from `{result.facts['starts_from']}`"] if "starts_from" in result.facts else []
    words += [f"trained on {result.facts['data']['dataset']}, tested on {result.dataset}"] * result.trained_elsewhere
    return f"`{result.name}`" + (f" ({'; '.join(words)})" if words else "")


def costs(result: Result) -> list[str]:
    """Return the cells under `COSTS`."""
    if result.is_reader:
        return ["-"] * len(COSTS)
    facts = result.facts
    deployed = facts["deployed_parameters"]
    return [
        f"{facts['input'][0]} x {sides(result)}",
        f"{deployed:,}" + (f" ({facts['parameters']:,} in training)" if deployed != facts["parameters"] else ""),
        f"{facts['macs'] / 1e9:.3g} G",
        f"{facts['latency_ms']:.1f} ms",
    ]


def sides(result: Result) -> str:
    """Return the size of a model's input, such as 256 x 256."""
    return " x ".join(map(str, result.facts["input"][1:]))


def score(result: Result, metric: str) -> str:
    if metric not in result.scores:
        return "-"
    return with_interval(result.scores[metric], result.groups, digits_of(result)[metric])


def mirrored_score(result: Result) -> str:
    return "-" if result.mirrored is None else with_interval(result.mirrored, result.groups, digits_of(result)["dice"])


def with_interval(values: np.ndarray, groups: np.ndarray, digits: int) -> str:
    """Return a mean and its interval."""
    low, high = interval(values, groups)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def pair_table(comparisons: list[Comparison]) -> str:
    """Return a row for each two models."""
    rows = [
        [
            f"`{one.first.name}` - `{one.second.name}`",
            f"{one.difference.mean:+.3f} [{one.difference.low:+.3f}, {one.difference.high:+.3f}]",
            f"{one.difference.p:.4f}",
        ]
        for one in comparisons
    ]
    return markdown(["on the same images", "difference of Dice", "p"], rows)


def explanation(datasets: dict[str, list[Result]]) -> str:
    """Return how the numbers of the tables come about."""
    every = unique(one for results in datasets.values() for one in results)
    volumes = any(is_of_volumes(one) for one in every)
    sides = [f"{name} {side}" for name, results in datasets.items() if (side := longest_side(results))]
    said = [
        "Scores are means over the test images at their own resolution"
        + (f" (longest side: {', '.join(sides)} pixels or voxels)" if sides else "")
        + (", of volumes the mean of the classes" if volumes else "")
        + f", with 95 % bootstrap intervals ({RESAMPLES:,} resamples; frames of one sequence and images of one "
        "subject, picture or scene are drawn together, as far as they are known).",
        "Parameters, multiply-accumulates (of convolutions and matrix products) and latency are those of the deployed "
        "form for one input of the size shown" + (", of volumes one patch" if volumes else "") + ".",
        "`--tta` averages over mirrored copies and takes so many times as long.",
        *latency_words(every),
    ]
    return paragraph(" ".join(said))


def latency_words(results: list[Result]) -> list[str]:
    """Return where latencies were taken, and whether something else ran there."""
    places: dict[str, list[str]] = {}
    for one in results:
        machine = one.facts["machine"]
        place = f"{machine['processor']}, {machine['threads']} thread, torch {machine['torch']}"
        places.setdefault(f"{place}, median of {one.facts['repeats']} passes", []).append(f"`{one.name}`")
    said = [f"Latency is processor time in float32: {', '.join(places)}."]
    if len(places) > 1:
        listed = "; ".join(f"{', '.join(names)}: {place}" for place, names in places.items())
        said = [f"Latency is processor time in float32, and not comparable between machines: {listed}."]
    slowest = max(one.facts["wall_ms"] / one.facts["latency_ms"] for one in results)
    if slowest > BUSY:
        said.append(f"The machine was busy: by the clock a pass took up to {slowest:.1f} times as long.")
    return said


def caption(datasets: dict[str, list[Result]]) -> str:
    """Return what the picture shows, for those who cannot see it."""
    return f"Dice with its 95 % interval against CPU latency, a panel each for {', '.join(datasets)}"


def unique(results: Iterable[Result]) -> list[Result]:
    """One result of each model, by name; none of people."""
    return list({one.name: one for one in sorted(results, key=lambda one: one.name) if not one.is_reader}.values())


def is_of_volumes(result: Result) -> bool:
    return len(result.facts.get("input", ())) == 4


def digits_of(result: Result) -> dict[str, int]:
    """Return how many decimals each metric is told with: of shares of 1, of some mm, or of tens of pixels."""
    return {"dice": 3, "iou": 3, "hd95": 2 if is_of_volumes(result) else 1}


def paragraph(words: str) -> str:
    """Text in lines."""
    return textwrap.fill(words, 120, break_long_words=False, break_on_hyphens=False)


def markdown(head: list[str], rows: list[list[str]], left: int = 1) -> str:
    """Return a table, the first columns to the left."""
    marks = ["---"] * left + ["---:"] * (len(head) - left)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows))


# ---- picture


def write_picture(datasets: dict[str, list[Result]], path: Path) -> None:
    """Draw quality against latency; the file says by a hash what it shows, since processors round in their own way."""
    shown = panels(datasets)
    figure = draw(shown, "CPU latency, ms", "Dice", "hollow: trained on other data")
    write(figure, path, {"sha256": hashlib.sha256(json.dumps(shown).encode()).hexdigest()})


def panels(datasets: dict[str, list[Result]]) -> dict[str, list[Point]]:
    """Return the points of each dataset's panel."""
    models = {name: [one for one in results if not one.is_reader] for name, results in datasets.items()}
    return {name: [point(one) for one in results] for name, results in models.items() if results}


def point(result: Result) -> Point:
    """Return a model's marker."""
    low, high = (round(bound, 6) for bound in interval(result.scores["dice"], result.groups))
    facts = result.facts
    return Point(facts["model"], facts["latency_ms"], round(result.dice, 6), low, high, result.trained_elsewhere)


# ---- commands


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=lambda options: report())
    commands = parser.add_subparsers()
    measuring = commands.add_parser("measure", help="parameters, MACs and latency")
    measuring.add_argument("names", nargs="*", metavar="NAME", help="default: all, which is comparable")
    measuring.add_argument("--repeats", type=int, default=20)
    measuring.set_defaults(run=run_measure)
    scoring = commands.add_parser("score", help="test scores of a run that left no checkpoint folder")
    scoring.add_argument("folder", type=Path, metavar="RUN")
    scoring.add_argument("name", metavar="NAME")
    scoring.set_defaults(run=run_score)
    crossing = commands.add_parser("across", help="test scores of a checkpoint on another dataset")
    crossing.add_argument("folder", type=Path, metavar="FOLDER", help="the checkpoint's")
    crossing.add_argument("name", metavar="NAME", help="that it has in results/")
    crossing.add_argument("dataset", metavar="DATASET", help="such as KvasirSEG")
    crossing.add_argument("root", metavar="ROOT", help="of the dataset")
    crossing.set_defaults(run=run_across)
    mirroring = commands.add_parser("mirrored", help="test scores averaged over mirrored copies")
    mirroring.add_argument("folder", type=Path, metavar="FOLDER", help="the checkpoint's, or the run's without one")
    mirroring.add_argument("name", metavar="NAME", help="that it has in results/")
    mirroring.set_defaults(run=run_mirrored)
    reading = commands.add_parser("reader", help="scores of the vessels that a second reader has drawn")
    reading.add_argument("name", metavar="NAME", help="to store them by")
    reading.add_argument("dataset", metavar="DATASET", help="such as CHASEDB1")
    reading.add_argument("root", metavar="ROOT", help="of the dataset")
    reading.set_defaults(run=run_reader)
    grouping = commands.add_parser("groups", help="which test images belong together")
    grouping.set_defaults(run=run_groups)
    return parser


def run_measure(options: argparse.Namespace) -> None:
    from measuring import measure

    measure(options.names, options.repeats)


def run_score(options: argparse.Namespace) -> None:
    from measuring import score

    score(options.folder, options.name)
    print(f"{options.name} is scored; now run python benchmarks/quality.py measure")


def run_across(options: argparse.Namespace) -> None:
    from measuring import across

    print(f"scored in {across(options.folder, options.name, options.dataset, options.root)}")


def run_mirrored(options: argparse.Namespace) -> None:
    from measuring import mirrored

    print(f"scored in {mirrored(options.folder, options.name)}")


def run_reader(options: argparse.Namespace) -> None:
    from measuring import score_reader

    print(f"scored in {score_reader(options.name, options.dataset, options.root)}")


def run_groups(options: argparse.Namespace) -> None:
    from measuring import store_groups

    print(f"stored in {store_groups()}")


def main() -> None:
    options = build_parser().parse_args()
    try:
        options.run(options)
    except SegzooError as error:
        sys.exit(f"quality.py: {error}")


if __name__ == "__main__":
    main()
