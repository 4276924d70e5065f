"""Make a published checkpoint of a finished training: float16 weights, test scores, probe, picture and card.

    python benchmarks/publish.py NAME [--run runs/NAME]

writes ``model_cards/NAME`` from ``runs/NAME/checkpoint``; without ``--run`` it scores and illustrates the checkpoint
that is there. Scores are what `segzoo test` prints. The picture shows the held-out image whose Dice is the median, so
that it is neither the best nor the worst; where the data's licence does not let its images be passed on, the probe is a
sample image of BUSI, or a sample hippocampus, and there is no picture. Run from the repository's root, with ``data``
there as the recipe says.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import MODEL_CARDS, REPOSITORY, RESULTS, read_recipe, run_test, store_validation

import segzoo
from segzoo.checkpoints.names import RECIPE
from segzoo.data.samples import Sample, read_label
from segzoo.data.volume_dataset import read_image_volume, read_label_volume
from segzoo.hub.example import FREE_LICENCES, add_example
from segzoo.imaging.images import read_image
from segzoo.metrics.score_file import read_image_scores
from segzoo.preprocessing.volume import reorient

SAMPLES = REPOSITORY / "tests" / "samples"  # of free licences


def publish(name: str, run: Path | None = None, licence: str | None = None) -> Path:
    """Write ``model_cards/name``, and what was measured image by image to ``benchmarks/results/name.csv``."""
    folder = MODEL_CARDS / name
    if run is not None:
        model = segzoo.from_pretrained(run / "checkpoint")
        model.save_pretrained(folder, name=name, dtype="float16", train_config=run / RECIPE, licence=licence)
        store_validation(run, name)
    recipe = read_recipe(folder)
    rows = run_test({"data": recipe["data"]}, "--model", folder, "--record", "true")  # also into the card
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.csv").write_text(rows, encoding="utf-8", newline="")
    illustrate(folder, recipe, read_image_scores(RESULTS / f"{name}.csv"))
    return folder


def illustrate(folder: Path, recipe: dict[str, Any], rows: list[dict[str, str]]) -> None:
    """Add the probe and the picture."""
    module, _, kind = recipe["data"]["class_path"].rpartition(".")
    data = getattr(importlib.import_module(module), kind)(**{**recipe["data"]["init_args"], "augmentation": None})
    if data.licence not in FREE_LICENCES:
        add_stand_in(folder, of_volumes=hasattr(data, "label_values"))
        return
    ranked = sorted(rows, key=lambda row: float(row["dice"]))
    median = ranked[len(ranked) // 2]["id"]
    (sample,) = [sample for sample in data.samples() if sample.id == median]
    image, truth = volume_arrays(folder, data, sample) if hasattr(data, "label_values") else image_arrays(data, sample)
    dataset = data.describe()["dataset"]
    add_example(folder, image, truth, source=f"{dataset}, {sample.id}", licence=data.licence)


def add_stand_in(folder: Path, of_volumes: bool) -> None:
    """Add a probe of other data."""
    task = "Task04_Hippocampus"
    data = segzoo.data.Decathlon(SAMPLES / task) if of_volumes else segzoo.data.BUSI(SAMPLES)
    sample = data.samples()[0]
    image, _ = volume_arrays(folder, data, sample) if of_volumes else image_arrays(data, sample)
    add_example(folder, image, source=f"{task if of_volumes else 'BUSI'}, {sample.id}", licence=data.licence)


def image_arrays(data: Any, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return an image and its label."""
    image = read_image(sample.image, data.preprocessing.channels)
    return image, read_label(sample, len(data.class_names), data.multilabel)


def volume_arrays(folder: Path, data: Any, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume and its label, turned as the model wants them."""
    contract = segzoo.from_pretrained(folder).preprocessing
    volume = read_image_volume(sample, contract.channels)
    label = read_label_volume(sample, data.label_values)
    return tuple(
        reorient(torch.from_numpy(array), volume.geometry.orientation, contract.orientation).numpy()
        for array in (volume.array, label)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--licence", help="of the weights, where they started from others' (timm's are Apache-2.0)")
    options = parser.parse_args()
    print(f"published in {publish(options.name, options.run, options.licence)}; now run python .github/release.py pin")


if __name__ == "__main__":
    main()
