"""Names of metrics, for people."""

METRIC_NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "hd95": "95% Hausdorff distance",
    "ece": "ECE",
    "ece_boundary": "ECE near boundaries",
    "doubt_spearman": "Spearman of doubt with Dice",
    "doubt_auroc": "AUROC of doubt",
}


# ---- the body, which people read


def scores_by_class(scores: dict[str, float]) -> dict[int, dict[str, float]]:
    """Turn ``{"dice_1": 0.9, ...}`` into ``{1: {"dice": 0.9}, ...}``: by mask value, or by channel for multi-label."""
    found: dict[int, dict[str, float]] = {}
    for name, value in scores.items():
        metric, number = class_metric(name)
        if number is not None:
            found.setdefault(number, {})[metric] = value
    return found


def class_metric(name: str) -> tuple[str, int | None]:
    """Split off the class that a metric is of: ("dice", 1) of "dice_1", ("dice", None) of "dice"."""
    metric, _, number = name.rpartition("_")
    return (metric, int(number)) if number.isdigit() else (name, None)
