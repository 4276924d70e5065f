"""Volumes whose header is wrong about where their axes lead: what the hippocampus checkpoints make of them.

    python benchmarks/orientation.py --data data/Task04_Hippocampus

writes orientation.csv, a line for each checkpoint, change and volume, and orientation.md from it. What is in
orientation.csv already is not measured again. The volumes are those that each checkpoint was validated on; its test
part is not read.

A model turns each volume to its own orientation by the header. Where the header is right it does not matter how the
voxels are stored, which is checked here; where it is wrong the network sees anatomy the wrong way round. MONAI's
model-zoo #766 reports such images in the Decathlon, left-right together with front-back.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.data import Decathlon
from segzoo.data.volume_dataset import read_image_volume, read_label_volume
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.volumes import Volume
from segzoo.metrics.per_image import image_scores
from segzoo.metrics.statistics import interval

BENCHMARKS = Path(__file__).parent
MODEL_CARDS = BENCHMARKS.parent / "model_cards"
RESULTS, PAGE = BENCHMARKS / "orientation.csv", BENCHMARKS / "orientation.md"
CHECKPOINTS = ("mednext-s-k3-hippocampus", "mednext-s-k5-hippocampus")
CHANGES = {  # of the body's axes that are reversed in the file
    "as stored": (),
    "left-right": ("LR",),
    "front-back": ("PA",),
    "head-foot": ("IS",),
    "left-right and front-back": ("LR", "PA"),
}
SCORES = ("dice", "dice_1", "dice_2")
COLUMNS = ("checkpoint", "change", "id", "group", *SCORES, "right_header")
HEADING = """# Volumes whose header is wrong

Written by `python benchmarks/orientation.py`: change nothing here by hand. Dice on the volumes of the Decathlon's
hippocampus task that the checkpoints were validated on (fold 0), with 95 % bootstrap intervals over subjects; the test
part was not read. In each row voxels and truth are reversed along axes of the body, and the header stays as it was, so
that it is wrong. In the last column the header is changed with the voxels, so that it is right: of how many volumes the
network's input is then the same, bit by bit, as of the volume as it is stored.
"""

Row = dict[str, str]


# ---- measure


def measure(name: str, root: Path, known: Sequence[Row]) -> Iterator[Row]:
    """Score a checkpoint on each of its validation volumes, changed in each way, but for what is known."""
    model = segzoo.from_pretrained(MODEL_CARDS / name)
    facts = read_config(MODEL_CARDS / name).data
    data = Decathlon(root, split=facts["split"], fold=facts["fold"], seed=facts["seed"])
    if data.split_sha256 != facts["split_sha256"]:
        raise SystemExit(f"{root} is not split as {name} was trained on it: it holds other volumes")
    done = {(row["change"], row["id"]) for row in known if row["checkpoint"] == name}
    for sample in data.part_samples("val"):
        volume = read_image_volume(sample, model.preprocessing.channels)
        label = read_label_volume(sample, data.label_values)
        for change, axes in CHANGES.items():
            if (change, sample.id) not in done:
                scores = score(model, volume, label, axes)
                yield {"checkpoint": name, "change": change, "id": sample.id, "group": sample.group, **scores}


def score(model: Any, volume: Volume, label: np.ndarray, axes: Sequence[str]) -> Row:
    """Return the Dice of a volume that is reversed under its header, and whether a right header mends it."""
    wrong = Volume(reverse(volume.array, volume.geometry, axes), volume.geometry)
    truth = reverse(label[None], volume.geometry, axes)
    mask = torch.from_numpy(model.predict(wrong).mask.astype(np.int64))
    (scores,) = image_scores(mask[None], torch.from_numpy(truth), model.num_classes, model.multilabel, ["dice"])
    right = Volume(wrong.array, reversed_grid(volume.geometry, axes))
    same = torch.equal(model.preprocessing(right), model.preprocessing(volume))
    return {**{column: f"{scores[column]:.6f}" for column in SCORES}, "right_header": "same" if same else "other"}


def reverse(array: np.ndarray, geometry: Geometry, axes: Sequence[str]) -> np.ndarray:
    """Return a copy of an array [C, D, H, W], reversed along axes of the body, such as "LR"."""
    return np.ascontiguousarray(np.flip(array, [1 + axis for axis in array_axes(geometry, axes)]))


def reversed_grid(geometry: Geometry, axes: Sequence[str]) -> Geometry:
    """Return the grid that keeps every voxel of a reversed array in its place."""
    affine = geometry.affine.copy()
    for axis in array_axes(geometry, axes):
        affine[:3, 3] += (geometry.shape[axis] - 1) * affine[:3, axis]
        affine[:3, axis] *= -1
    return Geometry(geometry.shape, affine)


def array_axes(geometry: Geometry, axes: Sequence[str]) -> list[int]:
    """Return which axes of an array lead along these of the body."""
    return [axis for axis, letter in enumerate(geometry.orientation) if any(letter in pair for pair in axes)]


# ---- the page


def page(rows: Sequence[Row]) -> str:
    """Return what was measured, as a page."""
    parts = [HEADING]
    for name in dict.fromkeys(row["checkpoint"] for row in rows):
        own = [row for row in rows if row["checkpoint"] == name]
        classes = read_config(MODEL_CARDS / name).class_names[1:]
        head = ["reversed", "Dice", *classes, "with the header changed"]
        table = [head, ["---", *(len(head) - 2) * ["---:"], "---"]]
        table += [line(change, [row for row in own if row["change"] == change]) for change in CHANGES]
        volumes = len({row["id"] for row in own})
        parts.append(f"## {name}\n\n{volumes} volumes of {len({row['group'] for row in own})} subjects.\n")
        parts.append("".join(f"| {' | '.join(cells)} |\n" for cells in table))
    return "\n".join(parts)


def line(change: str, rows: Sequence[Row]) -> list[str]:
    """Return the cells of one change."""
    _, groups = np.unique([row["group"] for row in rows], return_inverse=True)
    dice, *classes = (np.array([float(row[column]) for row in rows]) for column in SCORES)
    low, high = interval(dice, groups)
    same = sum(row["right_header"] == "same" for row in rows)
    means = [f"{values.mean():.3f}" for values in classes]
    return [change, f"{dice.mean():.3f} [{low:.3f}, {high:.3f}]", *means, f"the same in {same} of {len(rows)}"]


def read(path: Path) -> list[Row]:
    """Return the rows that there are."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the task's folder")
    options = parser.parse_args()
    known = read(RESULTS)
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not known:
            writer.writeheader()
        for name in CHECKPOINTS:
            for row in measure(name, options.data, known):
                writer.writerow(row)
                file.flush()
    PAGE.write_text(page(read(RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
