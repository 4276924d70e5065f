"""``segzoo compare``: scores of the same images by several models, their intervals and paired tests."""

import argparse
import csv
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segzoo.errors import MissingFileError, SegzooError, first_few, first_line
from segzoo.imaging.images import IMAGE_SUFFIXES
from segzoo.imaging.tables import read_groups
from segzoo.limits import TABLE_BYTES, require_memory
from segzoo.metrics.scatter import Point, draw, require_matplotlib, write
from segzoo.metrics.score_file import read_image_scores
from segzoo.metrics.statistics import RESAMPLES, Difference, interval, paired_differences
from segzoo.paths import require_file

SCORES = "test_per_image.csv"  # that `segzoo test` writes
NAMES = ("id", "image")  # of the column that names the images; else it is the first one
DRAWN_BYTES = 24  # of an image in a resample: its place, its score and its weight
OF_A_CLASS = re.compile(r".+_\d+")  # such as dice_2


@dataclass(frozen=True)
class Scored:
    """Scores of one model.

    Args:
        name: of it, among the others.
        file: that they are from.
        ids: of the images, sorted.
        scores: metric -> one value an image, NaN where it has none.
    """

    name: str
    file: Path
    ids: tuple[str, ...]
    scores: dict[str, np.ndarray]


def run_compare(options: argparse.Namespace) -> None:
    """Run ``segzoo compare RUN RUN ...``."""
    if options.picture is not None:
        if options.picture.suffix.lower() != ".png":
            raise SegzooError(f"{options.picture} would be no PNG file; give a name that ends in .png")
        require_matplotlib()
    files = [score_file(run) for run in options.runs]
    compared = [read_scored(file, name) for file, name in zip(files, names_of(options.runs, files), strict=True)]
    require_same_images(compared)
    metrics, images = shared_metrics(compared, options.metric), len(compared[0].ids)
    require_memory(DRAWN_BYTES * RESAMPLES * images, f"resampling {images:,} images")
    groups = None if options.groups is None else groups_of(options.groups, compared[0].ids)
    whole = {metric: complete(compared, metric) for metric in metrics}
    for metric in metrics:
        if not whole[metric].any():
            raise SegzooError(f"no image has a {metric} in all of {', '.join(str(one.file) for one in compared)}")
    for line in [*score_lines(compared, metrics, groups, whole), *pair_lines(compared, metrics[0], groups, whole)]:
        print(line)
    if options.picture is not None:
        panels = {metric: points(compared, metric, groups, whole[metric]) for metric in metrics}
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        write(draw(panels, None, "mean, 95 % interval"), options.picture, {})
        print(f"segzoo: drawn in {options.picture}")


# ---- read


def score_file(run: Path) -> Path:
    """Return the file of scores that a folder holds, or that is given itself.

    Raises:
        MissingFileError: there is none.
    """
    if not run.is_dir():
        require_file(run)
        return run
    tests = sorted(run.glob(f"test-*/{SCORES}"))  # of a training's checkpoint, in the training's folder
    if len(tests) > 1:
        raise SegzooError(f"{run} holds the scores of several tests; say which: {first_few(tests)}")
    found = [*tests, run / SCORES][0]
    if not found.is_file():
        raise MissingFileError(
            f"{run} holds no {SCORES}, which segzoo test writes into the folder that it names; test the model first "
            f"(--model {run / 'checkpoint'}), or give the CSV file of its scores"
        )
    return found


def names_of(runs: Sequence[Path], files: Sequence[Path]) -> list[str]:
    """Return the names of folders, or of files, where these tell all of them apart; else as they were given."""
    names = [file.stem if file == run else run.resolve().name for run, file in zip(runs, files, strict=True)]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]


def read_scored(file: Path, name: str) -> Scored:
    """Read a table of scores: a column of names, and one of numbers for each metric.

    Raises:
        SegzooError: it is no such table.
    """
    TABLE_BYTES.check(file.stat().st_size, f"{file} has")
    try:
        rows = read_image_scores(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise SegzooError(f"{file} is no table in UTF-8 ({first_line(error)}); save it as 'CSV UTF-8'") from error
    if not rows:
        raise SegzooError(f"{file} lists no images; it needs a column of names and one of numbers, such as dice")
    column = next((known for known in NAMES if known in rows[0]), next(iter(rows[0])))
    twice = [image for image, count in Counter(row[column] for row in rows).items() if count > 1]
    if twice:
        raise SegzooError(f"{file} has several rows for {first_few(twice)}; keep one of each")
    rows.sort(key=lambda row: row[column])
    found = {metric: numbers([row[metric] for row in rows]) for metric in rows[0] if metric != column}
    scores = {metric: values for metric, values in found.items() if values is not None}
    if not scores:
        raise SegzooError(f"{file} has no column of numbers; it has {', '.join(rows[0])}")
    return Scored(name, file, tuple(row[column] for row in rows), scores)


def numbers(texts: Sequence[str]) -> np.ndarray | None:
    """Return a column as numbers, NaN where it is empty; None where it holds something else."""
    try:
        return np.array([float(text or "nan") for text in texts])
    except ValueError:
        return None


def require_same_images(compared: Sequence[Scored]) -> None:
    """Refuse scores of different images, which no paired test compares.

    Raises:
        SegzooError: naming some that one has alone.
    """
    first = compared[0]
    for other in compared[1:]:
        for one, two in ((first, other), (other, first)):
            if alone := sorted(set(one.ids) - set(two.ids)):
                raise SegzooError(
                    f"{one.file} has scores of {first_few(alone)}, and {two.file} has none of these; test both on the "
                    "same images"
                )


def shared_metrics(compared: Sequence[Scored], chosen: str) -> list[str]:
    """Return the chosen metric, and the others that all have, but for those of single classes.

    Raises:
        SegzooError: one lacks the chosen one.
    """
    for one in compared:
        if chosen not in one.scores:
            raise SegzooError(f"{one.file} has no {chosen}; it has {', '.join(one.scores)} (choose one by --metric)")
    others = [metric for metric in compared[0].scores if metric != chosen and not OF_A_CLASS.fullmatch(metric)]
    return [chosen, *(metric for metric in others if all(metric in one.scores for one in compared))]


def complete(compared: Sequence[Scored], metric: str) -> np.ndarray:
    """Return which images have a score in all."""
    found: np.ndarray = np.all([np.isfinite(one.scores[metric]) for one in compared], axis=0)
    return found


def groups_of(file: Path, ids: Sequence[str]) -> np.ndarray:
    """Return a number for each image, the same for images that belong together.

    Raises:
        SegzooError: the file names none of them.
    """
    known = read_groups(file, without_suffix)
    found = [known.get(image) for image in ids]
    if not any(found):
        raise SegzooError(f"{file} has a group for none of the images, such as {ids[0]}; name them as the scores do")
    named = [f"group {group}" if group else f"image {image}" for group, image in zip(found, ids, strict=True)]
    numbered: np.ndarray = np.unique(named, return_inverse=True)[1]
    return numbered


def without_suffix(name: str) -> str:
    """Return an image's file as scores name it, folders included."""
    path = Path(name.removesuffix(".gz"))
    return str(path.with_suffix("")) if path.suffix.lower() in (*IMAGE_SUFFIXES, ".nii") else name


# ---- words


def score_lines(
    compared: Sequence[Scored], metrics: Sequence[str], groups: np.ndarray | None, whole: dict[str, np.ndarray]
) -> list[str]:
    """Return a table of means with their intervals, and how they come about."""
    images = len(compared[0].ids)
    together = "" if groups is None else f", in {len(np.unique(groups))} groups that are drawn together"
    said = f"segzoo: {images} images{together}; means with their 95 % bootstrap intervals ({RESAMPLES:,} resamples)"
    cells = [["", *metrics]]
    for one in compared:
        cells.append(
            [one.name, *(with_interval(one.scores[m], groups, whole[m], digits_of(compared, m)) for m in metrics)]
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    left_out = [f"{images - int(whole[m].sum())} images without a {m} in all of them" for m in metrics]
    left_out = [words for words in left_out if not words.startswith("0 ")]
    return [said, *rows, *([f"segzoo: left out: {', '.join(left_out)}"] if left_out else [])]


def with_interval(values: np.ndarray, groups: np.ndarray | None, kept: np.ndarray, digits: int) -> str:
    """Return a mean and its interval."""
    values, groups = taken(values, groups, kept)
    low, high = interval(values, groups)
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def taken(values: np.ndarray, groups: np.ndarray | None, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values that are kept, and their groups, numbered anew."""
    return values[kept], None if groups is None else np.unique(groups[kept], return_inverse=True)[1]


def digits_of(compared: Sequence[Scored], metric: str) -> int:
    """Return how many decimals a metric is told with: a share of 1, or pixels and mm."""
    return 3 if all(np.nanmax(np.abs(one.scores[metric])) <= 1 for one in compared) else 1


def pair_lines(
    compared: Sequence[Scored], metric: str, groups: np.ndarray | None, whole: dict[str, np.ndarray]
) -> list[str]:
    """Return a line for each two models; none where there is one model."""
    pairs = list(itertools.combinations(compared, 2))
    if not pairs:
        return []
    kept = whole[metric]
    values = [(first.scores[metric][kept], second.scores[metric][kept]) for first, second in pairs]
    _, together = taken(kept, groups, kept)
    found = paired_differences(values, [together] * len(pairs))
    digits = digits_of(compared, metric)
    corrected = f", corrected by Holm's method for {len(pairs)} pairs" if len(pairs) > 1 else ""
    return [
        f"segzoo: {metric}, image by image; p of a paired permutation test{corrected}",
        *(difference_words(*pair, one, digits) for pair, one in zip(pairs, found, strict=True)),
        "segzoo: that is about these weights on such images; another training of either is no part of it",
    ]


def difference_words(first: Scored, second: Scored, found: Difference, digits: int) -> str:
    """Return the difference of two models."""
    mean, low, high = (f"{number:+.{digits}f}" for number in (found.mean, found.low, found.high))
    return f"{first.name} - {second.name}: {mean} [{low}, {high}], p = {found.p:.4f}"


# ---- picture


def points(compared: Sequence[Scored], metric: str, groups: np.ndarray | None, kept: np.ndarray) -> list[Point]:
    """Return a marker for each model, side by side."""
    found = []
    for place, one in enumerate(compared, start=1):
        values, together = taken(one.scores[metric], groups, kept)
        found.append(Point(one.name, place, float(values.mean()), *interval(values, together)))
    return found
