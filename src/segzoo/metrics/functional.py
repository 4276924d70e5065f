"""Confusion counts, overlap scores and surface distances of masks, as plain functions."""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from segzoo.errors import SegzooError

Empty = Literal["one", "zero", "skip"]
Aggregation = Literal["image", "dataset"]


# ---------------------------------------------------------------------------------------------- functional core


def confusion(
    prediction: Tensor, target: Tensor, num_classes: int = 1, multilabel: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Count true positives, false positives and false negatives per image and foreground class.

    Args:
        prediction: Integer or bool masks, ``[B, *S]`` or, for multi-label, ``[B, K, *S]``.
        target: Masks of the same shape; negative values are ignored.
        num_classes: The model's output channels: 1 binary, else with the background counted.
        multilabel: Every channel is a mask of its own.

    Returns:
        Three int64 tensors ``[B, K']``.

    Raises:
        SegzooError: Shapes differ, predictions are not masks yet, or a target value is not a class.

    Example:
        >>> import torch
        >>> from segzoo.metrics import confusion
        >>> prediction, target = torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 0]])
        >>> confusion(prediction, target)
        (tensor([[1]]), tensor([[1]]), tensor([[1]]))
    """
    counts = [
        torch.stack([(p & t).flatten(1).sum(1), (p & ~t).flatten(1).sum(1), (~p & t).flatten(1).sum(1)])
        for p, t in class_masks(prediction, target, num_classes, multilabel)
    ]
    tp, fp, fn = torch.stack(counts, dim=-1).unbind(0)
    return tp, fp, fn


def dice_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Dice (= F1) ``2 tp / (2 tp + fp + fn)``, elementwise.

    Args:
        tp: True positives, any shape.
        fp: False positives, same shape.
        fn: False negatives, same shape.
        empty: The score where neither mask holds the class (tp = fp = fn = 0): 1, 0, or NaN ("skip").

    Example:
        >>> import torch
        >>> from segzoo.metrics import dice_score
        >>> dice_score(tp=torch.tensor([3, 0]), fp=torch.tensor([1, 0]), fn=torch.tensor([2, 0]))
        tensor([0.6667, 1.0000], dtype=torch.float64)
    """
    return ratio(2 * tp, 2 * tp + fp + fn, tp + fp + fn == 0, empty)


def iou_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Intersection over union (Jaccard index) ``tp / (tp + fp + fn)``; arguments as in :func:`dice_score`.

    Example:
        >>> import torch
        >>> from segzoo.metrics import iou_score
        >>> iou_score(tp=torch.tensor([3, 0]), fp=torch.tensor([1, 0]), fn=torch.tensor([2, 0]))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    return ratio(tp, tp + fp + fn, tp + fp + fn == 0, empty)


def precision_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Precision ``tp / (tp + fp)``; arguments as in :func:`dice_score`.

    Nothing predicted although the target holds the class (0 / 0 too) scores 0.

    Example:
        >>> import torch
        >>> from segzoo.metrics import precision_score
        >>> precision_score(tp=torch.tensor([3, 0]), fp=torch.tensor([1, 0]), fn=torch.tensor([2, 0]))
        tensor([0.7500, 1.0000], dtype=torch.float64)
    """
    return ratio(tp, tp + fp, tp + fp + fn == 0, empty)


def recall_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Recall (sensitivity) ``tp / (tp + fn)``; arguments as in :func:`dice_score`.

    Something predicted although the target is empty (0 / 0 too) scores 0.

    Example:
        >>> import torch
        >>> from segzoo.metrics import recall_score
        >>> recall_score(tp=torch.tensor([3, 0]), fp=torch.tensor([1, 0]), fn=torch.tensor([2, 0]))
        tensor([0.6000, 1.0000], dtype=torch.float64)
    """
    return ratio(tp, tp + fn, tp + fp + fn == 0, empty)


def hausdorff_distance95(
    prediction: Tensor,
    target: Tensor,
    num_classes: int = 1,
    multilabel: bool = False,
    empty: Empty = "one",
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """95 % Hausdorff distance per image and class: the larger of the two directed 95th percentiles (MONAI's form).

    Args:
        prediction: As in :func:`confusion`.
        target: As in :func:`confusion`; ignored pixels are taken out of both masks before their borders are drawn.
        num_classes: As in :func:`confusion`.
        multilabel: As in :func:`confusion`.
        empty: Where neither mask holds the class: distance 0 ("one": a perfect match) or NaN ("skip").
        spacing: Size of a pixel along each axis, in mm; None measures in pixels.

    Returns:
        Distances ``[B, K']``. Where exactly one of the masks is empty no distance exists: such an image counts its
        diagonal, which is longer than any true distance in it.

    Raises:
        SegzooError: As in :func:`confusion`, or the spacing has not one positive number per axis.

    Example:
        >>> import torch
        >>> from segzoo.metrics import hausdorff_distance95
        >>> prediction, target = torch.zeros(2, 1, 8, 8, dtype=torch.long)
        >>> prediction[:, 2, 2], target[:, 2, 5] = 1, 1
        >>> hausdorff_distance95(prediction, target, spacing=(0.5, 0.5))
        tensor([[1.5000]], dtype=torch.float64)
    """
    check_choice("empty policy of hd95", empty, ("one", "skip"))
    shape = tuple(target.shape[2:] if multilabel else target.shape[1:])
    if spacing is not None and (len(spacing) != len(shape) or min(spacing) <= 0):
        raise SegzooError(f"spacing {tuple(spacing)} needs one positive number for each of the {len(shape)} axes")
    steps = [1.0] * len(shape) if spacing is None else list(spacing)
    diagonal = math.hypot(*(n * step for n, step in zip(shape, steps, strict=True)))
    both_empty = {"one": 0.0, "skip": math.nan}[empty]
    columns = []
    for prediction_masks, target_masks in class_masks(prediction, target, num_classes, multilabel):
        column = []
        for p, t in zip(prediction_masks.cpu(), target_masks.cpu(), strict=True):
            if p.any() and t.any():
                column.append(distance95(p, t, steps))
            else:
                column.append(diagonal if p.any() or t.any() else both_empty)
        columns.append(column)
    return torch.tensor(columns, dtype=real_dtype(target.device), device=target.device).T


# ------------------------------------------------------------------------------------------------------ helpers


def ratio(above: Tensor, below: Tensor, is_empty: Tensor, empty: Empty) -> Tensor:
    """Divide counts, ``above / below``; 0 / 0 is the ``empty`` policy's score where the class is nowhere, else 0."""
    check_choice("empty", empty, ("one", "zero", "skip"))
    real = real_dtype(above.device)
    score = above.to(real) / below.clamp(min=1).to(real)
    return score.masked_fill(is_empty, {"one": 1.0, "zero": 0.0, "skip": math.nan}[empty])


def real_dtype(device: torch.device) -> torch.dtype:
    """Return the widest float type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def foreground(num_classes: int, multilabel: bool) -> int:
    """Count the classes that are scored, K'."""
    return num_classes if multilabel else max(num_classes - 1, 1)


def class_masks(
    prediction: Tensor, target: Tensor, num_classes: int, multilabel: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the prediction's and the target's mask of each foreground class, bool ``[B, *S]``, without ignored pixels.

    One class at a time: volumes with many classes would not fit as one-hot.
    """
    check_masks(prediction, target, num_classes, multilabel)
    for k in range(foreground(num_classes, multilabel)):
        p, t, value = (prediction[:, k], target[:, k], 1) if multilabel else (prediction, target, k + 1)
        yield (p == value) & (t >= 0), t == value


def check_masks(prediction: Tensor, target: Tensor, num_classes: int, multilabel: bool) -> None:
    """Refuse what would be scored wrongly in silence."""
    if prediction.is_floating_point():
        raise SegzooError(f"metrics compare masks, not {prediction.dtype} scores: threshold or argmax the logits first")
    if prediction.shape != target.shape:
        raise SegzooError(f"prediction {list(prediction.shape)} and target {list(target.shape)} differ in shape")
    if multilabel and (target.ndim < 2 or target.shape[1] != num_classes):
        raise SegzooError(f"multi-label masks need {num_classes} channels, got the shape {list(target.shape)}")
    highest = 1 if multilabel else max(num_classes - 1, 1)
    for what, mask in (("prediction", prediction), ("target", target)):
        if mask.numel() and mask.max() > highest:
            raise SegzooError(f"the {what} holds the value {mask.max().item():g}, but the highest is {highest}")
    if target.is_floating_point() and bool((target != target.round()).any()):
        raise SegzooError("a target mask must hold whole numbers: 0, 1 or negative for ignored")


def check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise SegzooError(f"unknown {what} {value!r}: choose {', '.join(choices)}")


def distance95(prediction: Tensor, target: Tensor, spacing: list[float]) -> float:
    """Measure the distance between two non-empty bool masks ``[*S]`` on the CPU."""
    from monai.metrics import compute_hausdorff_distance  # takes seconds to import

    with warnings.catch_warnings():  # MONAI's own call of an argument it has deprecated
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")
        distance = compute_hausdorff_distance(
            prediction[None, None],
            target[None, None],
            include_background=True,
            percentile=95,
            spacing=spacing,
        )
    return distance.item()
