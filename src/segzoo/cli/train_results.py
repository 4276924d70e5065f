"""Results of a test, as config.json keeps them and in words."""

import math
from pathlib import Path
from typing import Any

from lightning import Trainer

from segzoo.metrics.names import METRIC_NAMES, scores_by_class
from segzoo.prediction.judging import TABLE
from segzoo.steps import SegmentationSteps


def test_results(model: SegmentationSteps, trainer: Trainer) -> dict[str, Any]:
    """Return what a test measured, as config.json keeps it."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}  # a class in no image has no score
    parts = {
        part: {name.removeprefix(prefix): round(value, 6) for name, value in values.items() if name.startswith(prefix)}
        for part, prefix in (("original", "test/"), ("resized", "test_resized/"))
    }
    parts["original"] |= model.verdict.scores
    protocols = {name: metric.protocol for name, metric in model.test_metrics.items(keep_base=True)}
    return {
        "protocols": protocols | model.verdict.protocols,
        "images": model.tested_images,
        **parts,
    }


def result_lines(model: SegmentationSteps, results: dict[str, Any], folder: Path) -> list[str]:
    """Say what a test measured besides the table, and how.

    Args:
        model: that was tested.
        results: of `test_results`.
        folder: of the test's files.
    """
    counted = results["protocols"][model.metric_names[0]]
    how = "averaged over mirrored copies; " if model.test_tta else ""
    how += f"{model.postprocessing}; " if model.postprocessing else ""
    lines = [f"{results['images']} images; {how}{counted}; image by image in {folder / 'test_per_image.csv'}"]
    for number, scores in scores_by_class(results["original"]).items():
        listed = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        lines.append(f"{model.class_names[number]}: {listed}")
    measured = model.verdict
    lines += [
        f"{METRIC_NAMES[name]}: {value:.4f} ({measured.protocols[name]})" for name, value in measured.scores.items()
    ]
    return lines + ([f"reliability curves in {folder / TABLE}"] if measured.scores else [])
