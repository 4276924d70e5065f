"""Segmentation metrics, each with a named protocol: Dice, IoU, precision, recall and the 95 % Hausdorff distance.

The same predictions can score 0.56 or 0.88 in "Dice": by what is averaged (images or pixels), over which classes, and
by what an image counts whose mask is empty and predicted empty. Here these choices are arguments, and
:attr:`SegmentationMetric.protocol` says them in words.

Masks are integers (class numbers ``[B, *S]``, or 0/1 per channel ``[B, K, *S]`` for multi-label). K' below is the
number of foreground classes: 1 for a binary task, ``num_classes - 1`` for multi-class (the background is never scored),
``num_classes`` for multi-label. A negative target is ignored: that pixel is in neither mask.
"""

import csv
import difflib
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from segzoo.errors import SegzooError

Empty = Literal["one", "zero", "skip"]
Aggregation = Literal["image", "dataset"]


# ---------------------------------------------------------------------------------------------- functional core


def confusion(
    prediction: Tensor, target: Tensor, num_classes: int = 1, multilabel: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, false positives and false negatives per image and foreground class.

    Args:
        prediction: Integer or bool masks, ``[B, *S]`` or, for multi-label, ``[B, K, *S]``.
        target: Masks of the same shape; negative values are ignored.
        num_classes: The model's output channels: 1 binary, else with the background counted.
        multilabel: Whether every channel is a mask of its own.

    Returns:
        Three int64 tensors ``[B, K']``.

    Raises:
        SegzooError: Shapes differ, predictions are not masks yet, or a target value is no class.
    """
    counts = [
        torch.stack([(p & t).flatten(1).sum(1), (p & ~t).flatten(1).sum(1), (~p & t).flatten(1).sum(1)])
        for p, t in _class_masks(prediction, target, num_classes, multilabel)
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
    """
    return _ratio(2 * tp, 2 * tp + fp + fn, tp + fp + fn == 0, empty)


def iou_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Intersection over union (Jaccard index) ``tp / (tp + fp + fn)``; arguments as in :func:`dice_score`."""
    return _ratio(tp, tp + fp + fn, tp + fp + fn == 0, empty)


def precision_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Precision ``tp / (tp + fp)``; arguments as in :func:`dice_score`.

    Nothing predicted although the target holds the class (0 / 0 too) scores 0.
    """
    return _ratio(tp, tp + fp, tp + fp + fn == 0, empty)


def recall_score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty = "one") -> Tensor:
    """Recall (sensitivity) ``tp / (tp + fn)``; arguments as in :func:`dice_score`.

    Something predicted although the target is empty (0 / 0 too) scores 0.
    """
    return _ratio(tp, tp + fn, tp + fp + fn == 0, empty)


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
    """
    _check_choice("empty policy of hd95", empty, ("one", "skip"))
    shape = tuple(target.shape[2:] if multilabel else target.shape[1:])
    if spacing is not None and (len(spacing) != len(shape) or min(spacing) <= 0):
        raise SegzooError(f"spacing {tuple(spacing)} needs one positive number for each of the {len(shape)} axes")
    steps = [1.0] * len(shape) if spacing is None else list(spacing)
    diagonal = math.hypot(*(n * step for n, step in zip(shape, steps, strict=True)))
    both_empty = {"one": 0.0, "skip": math.nan}[empty]
    columns = []
    for prediction_masks, target_masks in _class_masks(prediction, target, num_classes, multilabel):
        column = []
        for p, t in zip(prediction_masks.cpu(), target_masks.cpu(), strict=True):
            if p.any() and t.any():
                column.append(_distance95(p, t, steps))
            else:
                column.append(diagonal if p.any() or t.any() else both_empty)
        columns.append(column)
    return torch.tensor(columns, dtype=_real(target.device), device=target.device).T


def image_scores(
    prediction: Tensor,
    target: Tensor,
    num_classes: int = 1,
    multilabel: bool = False,
    names: Sequence[str] = ("dice", "iou"),
    empty: Empty = "one",
    spacing: Sequence[float] | None = None,
) -> list[dict[str, float]]:
    """The scores of each image on its own, for a table with one row per image.

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
    """
    for name in names:
        metric_class(name)
    counts = confusion(prediction, target, num_classes, multilabel)
    rows: list[dict[str, float]] = [{} for _ in range(len(target))]
    first = 0 if multilabel else 1
    for name in names:
        if name == "hd95":
            scores = hausdorff_distance95(prediction, target, num_classes, multilabel, empty, spacing)
        else:
            scores = _SCORES[name](*counts, empty)
        for row, per_class in zip(rows, scores, strict=True):
            row[name] = per_class.nanmean().item()
            if len(per_class) > 1:
                row.update({f"{name}_{i}": score for i, score in enumerate(per_class.tolist(), start=first)})
    return rows


def write_image_scores(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the scores of images, dictionaries with the same keys, as a CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


# ------------------------------------------------------------------------------------------------------ classes


class SegmentationMetric(Metric):
    """What all metrics here share: sums over images per foreground class.

    Every state is an int64 sum, scores in units of 2^-32. So the result is the same to the last bit in whatever order
    images, processes (DDP) or merged metrics come, and the states live on devices without float64. The ``empty`` policy
    is applied at the end, so metrics that differ only in it may share states (torchmetrics' compute groups).

    Attributes:
        images: How many images so far.
        empty_images: ``[K']`` how many of them had the class in neither mask, i.e. are scored by ``empty``. Under DDP
            each process counts its own; read these inside ``with metric.sync_context():`` for all.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = True
    name: str  # the key in METRICS, and of the state: two metrics in one compute group would share their sums
    best = 1.0

    images: Tensor
    empty_images: Tensor
    tp: Tensor
    fp: Tensor
    fn: Tensor

    def __init__(
        self,
        num_classes: int = 1,
        *,
        multilabel: bool = False,
        aggregation: Aggregation = "image",
        empty: Empty = "one",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_choice("aggregation", aggregation, ("image", "dataset"))
        _check_choice("empty", empty, ("one", "zero", "skip"))
        if num_classes < 1:
            raise SegzooError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.aggregation = aggregation
        self.empty = empty
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        sums = (f"{self.name}_sum",) if aggregation == "image" else ("tp", "fp", "fn")
        for state in ("empty_images", *sums):
            zeros = torch.zeros(_foreground(num_classes, multilabel), dtype=torch.long)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    @property
    def protocol(self) -> str:
        """How the number comes about, in the words that model cards use."""
        counts = {"one": "counts 1", "zero": "counts 0", "skip": "is left out"}[self.empty]
        if self.aggregation == "dataset":
            return (
                f"pixels pooled over the dataset, {self._classes}, a class in neither targets nor predictions {counts}"
            )
        return f"per-image mean, {self._classes}, an empty mask predicted empty {counts}"

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in some images: masks as in :func:`confusion`."""
        counts = confusion(prediction, target, self.num_classes, self.multilabel)
        self._take_in(counts, _SCORES[self.name](*counts, "zero"))

    def compute(self) -> Tensor:
        """The mean over the classes that have a score, a float32 scalar; NaN before any image."""
        return self._per_class().nanmean().float()

    def per_class(self) -> Tensor:
        """The metric of each foreground class, ``[K']`` float32; under DDP call it in every process."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return self._per_class().float()

    def _take_in(self, counts: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> None:
        """Add the counts of some images, or their scores ``[B, K']``, which are 0 where both masks are empty."""
        tp, fp, fn = counts
        self._add(images=torch.tensor(len(tp)), empty_images=(tp + fp + fn == 0).sum(0))
        if self.aggregation == "image":
            units = (scores * _UNIT).round().long()
            self._add(**{f"{self.name}_sum": units.sum(0)})
        else:
            self._add(tp=tp.sum(0), fp=fp.sum(0), fn=fn.sum(0))

    def _add(self, **sums: Tensor) -> None:
        """Add to states; never in place, since a state may have been reset under inference mode."""
        for state, value in sums.items():
            setattr(self, state, getattr(self, state) + value.to(self.device))

    @property
    def _classes(self) -> str:
        return "all labels" if self.multilabel else "foreground classes"

    def _per_class(self) -> Tensor:
        if self.aggregation == "dataset":
            scores = _SCORES[self.name](self.tp, self.fp, self.fn, self.empty)
            return scores.masked_fill(self.images == 0, math.nan)
        total = getattr(self, f"{self.name}_sum").to(_real(self.images.device)) / _UNIT
        if self.empty == "one":
            total = total + self.best * self.empty_images
        return total / (self.images - self.empty_images if self.empty == "skip" else self.images)


class Dice(SegmentationMetric):
    """Dice coefficient (= F1) of masks.

    Args:
        num_classes: The model's output channels: 1 binary, else with the background counted.
        multilabel: Whether every channel is a mask of its own.
        aggregation: "image": score each image and class, mean over images, then over classes. "dataset": count the
            pixels of all images first, one score per class, then the mean over classes.
        empty: What an image scores for a class that neither its target nor the prediction holds: 1 ("one"), 0
            ("zero"), or it is left out of the mean ("skip"). With "dataset": the same for the pooled pixels.
        **kwargs: For torchmetrics.Metric.

    Example:
        >>> dice = Dice()
        >>> dice.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 0]]))
        >>> dice.compute()
        tensor(0.5000)
        >>> dice.protocol
        'per-image mean, foreground classes, an empty mask predicted empty counts 1'
    """

    name = "dice"


class IoU(SegmentationMetric):
    """Intersection over union (Jaccard index) of masks; arguments as for :class:`Dice`."""

    name = "iou"


class Precision(SegmentationMetric):
    """Precision of masks; 0 where nothing is predicted of a class that is there. Arguments as for :class:`Dice`."""

    name = "precision"


class Recall(SegmentationMetric):
    """Recall of masks; 0 where something is predicted of a class that is not. Arguments as for :class:`Dice`."""

    name = "recall"


class HausdorffDistance95(SegmentationMetric):
    """95 % Hausdorff distance, mean over images and then classes; see :func:`hausdorff_distance95`.

    Args:
        num_classes: As for :class:`Dice`.
        multilabel: As for :class:`Dice`.
        aggregation: Only "image": distances cannot be pooled.
        empty: As in :func:`hausdorff_distance95`: 0 ("one") or left out ("skip").
        spacing: Size of a pixel along each axis, in mm, of images that come without their own; None counts pixels.
        **kwargs: For torchmetrics.Metric.
    """

    name = "hd95"
    best = 0.0
    higher_is_better = False

    def __init__(
        self,
        num_classes: int = 1,
        *,
        multilabel: bool = False,
        aggregation: Aggregation = "image",
        empty: Empty = "one",
        spacing: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if aggregation == "dataset" or empty == "zero":
            raise SegzooError(
                "hd95 belongs to one image and is best at 0: use aggregation='image', empty='one' or 'skip'"
            )
        super().__init__(num_classes, multilabel=multilabel, aggregation=aggregation, empty=empty, **kwargs)
        self.spacing = None if spacing is None else tuple(spacing)
        self._in_mm = False  # by spacings that came with the images

    @property
    def protocol(self) -> str:
        """How the number comes about, in the words that model cards use."""
        counts = "counts 0" if self.empty == "one" else "is left out"
        unit = "mm" if self._in_mm else "pixels"
        if self.spacing is not None:
            unit = f"mm at spacing {' x '.join(f'{s:g}' for s in self.spacing)}"
        return (
            f"per-image mean in {unit}, {self._classes}, an empty mask predicted empty {counts}, "
            "one empty of the two counts the image's diagonal"
        )

    def update(self, prediction: Tensor, target: Tensor, spacing: Sequence[float] | None = None) -> None:
        """Take in some images.

        Args:
            prediction: As in :func:`confusion`.
            target: As in :func:`confusion`.
            spacing: Size of a pixel of these images along each axis, in mm; None is that of the metric.
        """
        self._in_mm |= spacing is not None
        scores = hausdorff_distance95(
            prediction, target, self.num_classes, self.multilabel, "one", self.spacing if spacing is None else spacing
        )
        self._take_in(confusion(prediction, target, self.num_classes, self.multilabel), scores)


METRICS: dict[str, type[Metric]] = {
    "dice": Dice,
    "iou": IoU,
    "precision": Precision,
    "recall": Recall,
    "hd95": HausdorffDistance95,
}


def metric_class(name: str) -> type[Metric]:
    """The class of a metric's short name; an unknown name is a SegzooError with the nearest ones."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, cutoff=0.5) or list(METRICS)
        raise SegzooError(f"unknown metric {name!r}: did you mean {' or '.join(near)}?")
    return METRICS[name]


# ------------------------------------------------------------------------------------------------------ helpers

_SCORES = {"dice": dice_score, "iou": iou_score, "precision": precision_score, "recall": recall_score}

_UNIT = 2**32
"""Scores are summed in units of 2^-32: finer than the float32 result, with room for sums up to 2^31."""


def _ratio(above: Tensor, below: Tensor, is_empty: Tensor, empty: Empty) -> Tensor:
    """``above / below`` of counts; 0 / 0 is the ``empty`` policy's score where the class is nowhere, else 0."""
    _check_choice("empty", empty, ("one", "zero", "skip"))
    real = _real(above.device)
    score = above.to(real) / below.clamp(min=1).to(real)
    return score.masked_fill(is_empty, {"one": 1.0, "zero": 0.0, "skip": math.nan}[empty])


def _real(device: torch.device) -> torch.dtype:
    """The widest float type of a device: Apple's has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _foreground(num_classes: int, multilabel: bool) -> int:
    """K', the number of classes that are scored."""
    return num_classes if multilabel else max(num_classes - 1, 1)


def _class_masks(
    prediction: Tensor, target: Tensor, num_classes: int, multilabel: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each foreground class the prediction's and the target's mask, bool ``[B, *S]``, without ignored pixels.

    One class at a time: volumes with many classes would not fit as one-hot.
    """
    _check_masks(prediction, target, num_classes, multilabel)
    for k in range(_foreground(num_classes, multilabel)):
        p, t, value = (prediction[:, k], target[:, k], 1) if multilabel else (prediction, target, k + 1)
        yield (p == value) & (t >= 0), t == value


def _check_masks(prediction: Tensor, target: Tensor, num_classes: int, multilabel: bool) -> None:
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


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SegzooError(f"unknown {what} {value!r}: choose {', '.join(choices)}")


def _distance95(prediction: Tensor, target: Tensor, spacing: list[float]) -> float:
    """The distance between two non-empty bool masks ``[*S]`` on the CPU."""
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
