"""Claims about the zoo's models, tested in small: ablations over seeds, and published figures beside ours.

    python benchmarks/claims.py                          the report, of what benchmarks/results/ holds -> claims.md
    python benchmarks/claims.py run [NAME...] --hours 2  train and score what is missing

``claims.yaml`` says what is trained. ``run`` trains in ``runs/claims/NAME/ARM-SEED`` and writes the test scores to
``results/claims/NAME/ARM-SEED.csv``, seed by seed so that a run cut short has whole comparisons; run it from the
repository's root, with ``data`` and ``weights`` there. The report needs none of these.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from quality import BENCHMARKS, markdown, paragraph, read_groups, read_result, size_words

from segzoo.errors import SegzooError
from segzoo.metrics.score_file import read_image_scores
from segzoo.metrics.statistics import RESAMPLES, generator, holm

PAGE = "claims.md"
SURE = 0.05  # p of a claim that counts as confirmed
CLAIMS: dict[str, Any] = yaml.safe_load((BENCHMARKS / "claims.yaml").read_text(encoding="utf-8"))

Scores = dict[int, dict[str, float]]  # seed -> image -> Dice


# ---- what was stored


def place(ablation: dict[str, Any], arm: str, folder: Path) -> Path:
    """Return what an arm's files of scores begin with: in the ablation's folder, or another's of the same arm."""
    return folder.parent / ablation["arms"][arm].get("stored", f"{folder.name}/{arm}")


def read_arm(beginning: Path) -> Scores:
    """Return an arm's Dice by seed and image, of the seeds that were trained."""
    found = {}
    for path in sorted(beginning.parent.glob(f"{beginning.name}-*.csv")):
        found[int(path.stem.rpartition("-")[2])] = {row["id"]: float(row["dice"]) for row in read_image_scores(path)}
    return found


def as_array(arm: Scores, seeds: Sequence[int]) -> np.ndarray:
    """Return an arm's Dice as [seeds, images], the images by name.

    Raises:
        SegzooError: if seeds were scored on other images than others, as before and after a split changed.
    """
    if len({frozenset(arm[seed]) for seed in seeds}) > 1:
        raise SegzooError(f"the seeds {', '.join(map(str, seeds))} were scored on different images; score them again")
    return np.array([[arm[seed][image] for image in sorted(arm[seed])] for seed in seeds])


def resampled_differences(first: np.ndarray, second: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Bootstrap means of first - second, each [seeds, images].

    Each arm's seeds are drawn for themselves, since equal seeds make no pairs of different networks, and images in
    whole groups, the same for both.
    """
    random, numbers = generator(), np.unique(groups)
    sums = [np.stack([np.bincount(groups, row) for row in arm]) for arm in (first, second)]
    sizes, drawn = np.bincount(groups), []
    for _ in range(RESAMPLES):
        places = random.choice(numbers, size=len(numbers))
        drawn.append((places, *(random.randint(len(arm), size=len(arm)) for arm in sums)))
    places, *rows = (np.array(one) for one in zip(*drawn, strict=True))
    one, other = (
        arm[row[:, :, None], places[:, None]].mean(axis=1).sum(axis=1) for arm, row in zip(sums, rows, strict=True)
    )
    return (one - other) / sizes[places].sum(axis=1)


def p_below(means: np.ndarray, bound: float) -> float:
    """Twice the share of the resamples in which the difference is no more than a bound."""
    return min(1.0, 2 * (1 + int((means <= bound).sum())) / (1 + len(means)))


# ---- words


@dataclass(frozen=True)
class Outcome:
    """Return what came of an ablation.

    Attributes:
        seeds: that both arms were trained with.
        scores: arm -> Dice [seeds, images].
        difference: the first arm's mean minus the second one's.
        low, high: its 95 % interval.
        p: of the claim, not corrected.
    """

    seeds: list[int]
    scores: dict[str, np.ndarray]
    difference: float
    low: float
    high: float
    p: float


def outcome(ablation: dict[str, Any], folder: Path) -> Outcome | None:
    """Compare the two arms of an ablation; None where no seed was trained with both.

    Raises:
        SegzooError: they were scored on different images.
    """
    first, second = ablation["arms"]
    arms = {arm: read_arm(place(ablation, arm, folder)) for arm in (first, second)}
    seeds = sorted(arms[first].keys() & arms[second].keys())
    if not seeds:
        return None
    if arms[first][seeds[0]].keys() != arms[second][seeds[0]].keys():
        raise SegzooError(f"{folder.name}: {first} and {second} were scored on different images; score them again")
    scores = {arm: as_array(found, seeds) for arm, found in arms.items()}
    groups = read_groups(folder.parent.parent, ablation.get("dataset", ""), sorted(arms[first][seeds[0]]))
    means = resampled_differences(scores[first], scores[second], groups)
    low, high = np.percentile(means, (2.5, 97.5))
    difference = float((scores[first] - scores[second]).mean())
    return Outcome(seeds, scores, difference, float(low), float(high), p_below(means, -ablation["margin"]))


def report(benchmarks: Path = BENCHMARKS) -> None:
    """Write the page."""
    ablations = CLAIMS["ablations"]
    outcomes = {name: outcome(one, benchmarks / "results" / "claims" / name) for name, one in ablations.items()}
    tested = {name: found for name, found in outcomes.items() if found is not None}
    corrected = dict(zip(tested, holm([found.p for found in tested.values()]), strict=True))
    parts = [
        "# Claims, tested in small",
        "Written by `python benchmarks/claims.py` from `claims.yaml` and `results/`: change nothing here by hand.",
        paragraph(
            "Each claim, in our words, is tested by two kinds of training that are scored on the same test images. "
            "They follow the recipes named (of `recipes/`) but for the options shown, and differ in what the claim "
            "says. They are short, and most of their images small, so they say what such trainings give and nothing of "
            "the published checkpoints. The difference is the first one's Dice minus the second one's, with a 95 % "
            f"bootstrap interval ({RESAMPLES:,} resamples, of the seeds of each and of the images in their groups). To "
            "beat is a difference above 0; as good is one that is no more than 0.02 below, which is what this project "
            "allows LV-UNet. p is twice the share of the resamples in which the claim would not hold, corrected by "
            f"Holm's method for all claims; a claim counts as confirmed where it is below {SURE}."
        ),
    ]
    for name, ablation in ablations.items():
        parts += ablation_words(name, ablation, outcomes[name], corrected.get(name, 1.0))
    parts += ["## Published figures", published_table(benchmarks / "results")]
    (benchmarks / PAGE).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def ablation_words(name: str, ablation: dict[str, Any], found: Outcome | None, p: float) -> list[str]:
    """Return a claim, how it was tested and what came of it."""
    (first, second), options = ablation["arms"], ablation["options"]
    said = [f"## {first} against {second}", paragraph(f"Claim: {ablation['claim'].strip()}")]
    if found is None:
        return [*said, f"Not tested yet: `python benchmarks/claims.py run {name}`."]
    how = ", ".join(f"{key.rpartition('.')[2]} {short(value)}" for key, value in options.items())
    rows = [
        [f"{arm} (`{recipe(ablation, arm)}`)", *(f"{dice:.3f}" for dice in values.mean(axis=1)), f"{values.mean():.3f}"]
        for arm, values in found.scores.items()
    ]
    difference = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p = {p:.3f}"
    alone = " One seed alone says nothing of the chance in training." if len(found.seeds) == 1 else ""
    return [
        *said,
        markdown([f"test Dice, {how}", *(f"seed {seed}" for seed in found.seeds), "mean"], rows),
        paragraph(f"{first} - {second}: {difference}. {verdict(found, p, ablation['margin'])}{alone}"),
        *([paragraph(ablation["but"].strip())] if "but" in ablation else []),
    ]


def verdict(found: Outcome, p: float, margin: float) -> str:
    """Return what that says of the claim."""
    wanted, contrary = (f"no more than {margin} below", f"more than {margin} below") if margin else ("above", "below")
    if p < SURE:
        return f"Confirmed: {wanted}."
    if found.high < -margin:
        return f"Refuted: {contrary}."
    return f"Not confirmed: neither that it is {wanted} is shown, nor the contrary."


def recipe(ablation: dict[str, Any], arm: str) -> str:
    """Return an arm's recipe and what it changes in it."""
    changes = ablation["arms"][arm].get("options", {})
    words = [f"{key.rpartition('.')[2]}={short(value)}" for key, value in changes.items()]
    return " ".join([f"{ablation['arms'][arm]['recipe']}.yaml", *words])


def short(value: Any) -> str:
    """Return a value as `segzoo fit` takes it, of a class its name."""
    return value["class_path"].rpartition(".")[2] if isinstance(value, dict) else json.dumps(value)


def published_table(results: Path) -> str:
    """Return the papers' figures beside ours."""
    rows = []
    for row in CLAIMS["published"]:
        path = results / f"{row['ours']}.csv"
        ours = f"`{row['ours']}`: not trained yet"
        if path.is_file():
            result = read_result(path)
            dice, iou = (100 * result.scores[metric].mean() for metric in ("dice", "iou"))
            ours = f"`{row['ours']}`: Dice {dice:.1f}, IoU {iou:.1f}, {len(result.ids)} images {size_words([result])}"
        rows.append([row["model"], row["dataset"], row["figure"], ours, row["protocol"].strip()])
    return markdown(["model", "data", "published, %", "ours, %", "why the two are not the same measurement"], rows)


# ---- trainings


def run(names: list[str], hours: float) -> None:
    """Train and score what is missing, all arms of a seed before the next seed."""
    end = time.monotonic() + 3600 * hours
    for name in names or CLAIMS["ablations"]:
        ablation = CLAIMS["ablations"][name]
        for seed in ablation["seeds"]:
            for arm in ablation["arms"]:
                beginning = place(ablation, arm, BENCHMARKS / "results" / "claims" / name)
                scores = beginning.with_name(f"{beginning.name}-{seed}.csv")
                if not scores.is_file() and time.monotonic() < end:
                    outcome = run_arm(
                        ablation, arm, seed, Path("runs") / "claims" / name / f"{arm}-{seed}", scores, end
                    )
                    print(f"{name}, {arm}, seed {seed}: {outcome}", flush=True)


def run_arm(ablation: dict[str, Any], arm: str, seed: int, folder: Path, scores: Path, end: float) -> str:
    """Train one arm with one seed and, where it is finished in time, keep its test scores."""
    from measuring import score_run
    from train_queue import train

    chosen = ablation["arms"][arm]
    options = [f"--seed_everything={seed}"]
    for key, value in {**ablation["options"], **chosen.get("options", {})}.items():
        options.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    outcome = train(chosen["recipe"], end - time.monotonic(), folder, options)
    if outcome.endswith("finished"):
        scores.parent.mkdir(parents=True, exist_ok=True)
        scores.write_text(score_run(folder), encoding="utf-8", newline="")
    return outcome


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=lambda options: report())
    training = parser.add_subparsers().add_parser("run", help="train and score what is missing")
    training.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CLAIMS['ablations'])}")
    training.add_argument("--hours", type=float, default=2.0)
    training.set_defaults(run=lambda options: run(options.names, options.hours))
    return parser


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    if unknown := set(getattr(options, "names", ())) - set(CLAIMS["ablations"]):
        parser.error(f"there is no ablation {sorted(unknown)[0]}")
    try:
        options.run(options)
    except SegzooError as error:
        sys.exit(f"claims.py: {error}")


if __name__ == "__main__":
    main()
