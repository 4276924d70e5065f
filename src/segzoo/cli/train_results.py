"""Results of a test, as config.json keeps them."""

import math
from typing import Any

from lightning import Trainer

from segzoo.steps import SegmentationSteps


def test_results(model: SegmentationSteps, trainer: Trainer) -> dict[str, Any]:
    """Return what a test measured, as config.json keeps it."""
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    values = {name: value for name, value in values.items() if math.isfinite(value)}  # a class in no image has no score
    parts = {
        part: {name.removeprefix(prefix): round(value, 6) for name, value in values.items() if name.startswith(prefix)}
        for part, prefix in (("original", "test/"), ("resized", "test_resized/"))
    }
    return {
        "protocols": {name: metric.protocol for name, metric in model.test_metrics.items(keep_base=True)},
        "images": model.tested_images,
        **parts,
    }
