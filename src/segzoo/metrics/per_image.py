"""Scores image by image."""

from collections.abc import Sequence

from torch import Tensor

from segzoo.metrics.functional import Empty
from segzoo.metrics.metric import metric_class


def image_scores(
    prediction: Tensor,
    target: Tensor,
    num_classes: int = 1,
    multilabel: bool = False,
    names: Sequence[str] = ("dice", "iou"),
    empty: Empty = "one",
    spacing: Sequence[float] | None = None,
) -> list[dict[str, float]]:
    """Score each image on its own, for a table with one row per image.

    Args:
        prediction: As in :func:`confusion`.
        target: As in :func:`confusion`.
        num_classes: As in :func:`confusion`.
        multilabel: As in :func:`confusion`.
        names: Among the keys of :data:`METRICS`.
        empty: As in :func:`dice_score`.
        spacing: As in :func:`hausdorff_distance95`.

    Returns:
        One dict per image: ``{name: mean over the classes}`` and, with more than one class, ``{name}_{i}`` for each,
        i the mask value (multi-label: the channel). NaN where ``empty="skip"`` leaves nothing to score.

    Raises:
        SegzooError: As in :func:`confusion`, or an unknown name.

    Example:
        >>> import torch
        >>> from segzoo.metrics import image_scores
        >>> prediction, target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]), torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
        >>> image_scores(prediction, target, names=["dice"])
        [{'dice': 0.5}, {'dice': 1.0}]
    """
    kinds = {name: metric_class(name) for name in names}  # an unknown one is told before anything is counted
    rows: list[dict[str, float]] = [{} for _ in range(len(target))]
    first = 0 if multilabel else 1
    for name, kind in kinds.items():
        scores = kind.of_images(prediction, target, num_classes, multilabel, empty, spacing)
        for row, per_class in zip(rows, scores, strict=True):
            row[name] = per_class.nanmean().item()
            if len(per_class) > 1:
                row.update({f"{name}_{i}": score for i, score in enumerate(per_class.tolist(), start=first)})
    return rows
