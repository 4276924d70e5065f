"""Metrics that add up over batches and processes, of torchmetrics' kind, each with its protocol in words."""

import difflib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from segzoo.errors import SegzooError
from segzoo.extensions import Table
from segzoo.metrics.functional import (
    Aggregation,
    Empty,
    check_choice,
    confusion,
    dice_score,
    foreground,
    hausdorff_distance95,
    iou_score,
    precision_score,
    real_dtype,
    recall_score,
)

# ------------------------------------------------------------------------------------------------------ classes


class SegmentationMetric(Metric):
    """Base of all metrics here: sums over images per foreground class.

    Every state is an int64 sum, scores in units of 2^-32. So the result is the same to the last bit in whatever order
    images, processes (DDP) or merged metrics come, and the states live on devices without float64. The ``empty`` policy
    is applied at the end, so metrics that differ only in it may share states (torchmetrics' compute groups).

    Attributes:
        images: Number of images so far.
        empty_images: ``[K']``, number of them that had the class in neither mask, so are scored by ``empty``. Under
            DDP each process counts its own; read these inside ``with metric.sync_context():`` for all.

    Example:
        >>> import torch
        >>> from segzoo.metrics import Dice
        >>> dice = Dice(num_classes=3, empty="skip")
        >>> dice.update(torch.tensor([[1, 1, 2, 0]]), torch.tensor([[0, 1, 2, 0]]))
        >>> dice.per_class(), dice.images
        (tensor([0.6667, 1.0000]), tensor(1))
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
        check_choice("aggregation", aggregation, ("image", "dataset"))
        check_choice("empty", empty, ("one", "zero", "skip"))
        if num_classes < 1:
            raise SegzooError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.aggregation = aggregation
        self.empty = empty
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        sums = (f"{self.name}_sum",) if aggregation == "image" else ("tp", "fp", "fn")
        for state in ("empty_images", *sums):
            zeros = torch.zeros(foreground(num_classes, multilabel), dtype=torch.long)
            self.add_state(state, zeros, dist_reduce_fx="sum")

    @staticmethod
    def score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty) -> Tensor:
        """Return the score of counted pixels; a metric of one's own defines this.

        Args:
            tp: pixels that are rightly found, ``[..., K']``.
            fp: pixels that are wrongly found.
            fn: pixels that are missed.
            empty: what counts where all three are 0, as :func:`segzoo.metrics.functional.ratio` has it.
        """
        raise NotImplementedError

    @classmethod
    def of_images(
        cls,
        prediction: Tensor,
        target: Tensor,
        num_classes: int,
        multilabel: bool,
        empty: Empty,
        spacing: Sequence[float] | None,
    ) -> Tensor:
        """Return the scores ``[B, K']`` of images, each on its own; for arguments see `image_scores`."""
        return cls.score(*confusion(prediction, target, num_classes, multilabel), empty)

    @property
    def protocol(self) -> str:
        """Account of how the number comes about, in the words that model cards use."""
        counts = {"one": "counts 1", "zero": "counts 0", "skip": "is left out"}[self.empty]
        if self.aggregation == "dataset":
            return (
                f"pixels pooled over the dataset, {self._classes}, a class in neither targets nor predictions {counts}"
            )
        return f"per-image mean, {self._classes}, an empty mask predicted empty {counts}"

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Take in some images: masks as in :func:`confusion`."""
        counts = confusion(prediction, target, self.num_classes, self.multilabel)
        self._take_in(counts, self.score(*counts, "zero"))

    def compute(self) -> Tensor:
        """Average over the classes that have a score, a float32 scalar; NaN before any image."""
        return self._per_class().nanmean().float()

    def per_class(self) -> Tensor:
        """Return the metric of each foreground class, ``[K']`` float32; under DDP call it in every process."""
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
            scores = self.score(self.tp, self.fp, self.fn, self.empty)
            return scores.masked_fill(self.images == 0, math.nan)
        total = getattr(self, f"{self.name}_sum").to(real_dtype(self.images.device)) / _UNIT
        if self.empty == "one":
            total = total + self.best * self.empty_images
        return total / (self.images - self.empty_images if self.empty == "skip" else self.images)


class Dice(SegmentationMetric):
    """Dice coefficient (= F1) of masks.

    Args:
        num_classes: The model's output channels: 1 binary, else with the background counted.
        multilabel: Every channel is a mask of its own.
        aggregation: "image": score each image and class, mean over images, then over classes. "dataset": count the
            pixels of all images first, one score per class, then the mean over classes.
        empty: Score of an image for a class that neither its target nor the prediction holds: 1 ("one"), 0
            ("zero"), or it is left out of the mean ("skip"). With "dataset": the same for the pooled pixels.
        **kwargs: For torchmetrics.Metric.

    Example:
        >>> import torch
        >>> from segzoo.metrics import Dice
        >>> dice = Dice()
        >>> dice.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 0]]))
        >>> dice.compute()
        tensor(0.5000)
        >>> dice.protocol
        'per-image mean, foreground classes, an empty mask predicted empty counts 1'
    """

    name = "dice"
    score = staticmethod(dice_score)


class IoU(SegmentationMetric):
    """Intersection over union (Jaccard index) of masks; arguments as for :class:`Dice`.

    Example:
        >>> import torch
        >>> from segzoo.metrics import IoU
        >>> metric = IoU(aggregation="dataset")
        >>> metric.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 1]]))
        >>> metric.compute()
        tensor(0.2500)
    """

    name = "iou"
    score = staticmethod(iou_score)


class Precision(SegmentationMetric):
    """Precision of masks; 0 where nothing is predicted of a class that is there. Arguments as for :class:`Dice`.

    Example:
        >>> import torch
        >>> from segzoo.metrics import Precision
        >>> metric = Precision(aggregation="dataset")
        >>> metric.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    name = "precision"
    score = staticmethod(precision_score)


class Recall(SegmentationMetric):
    """Recall of masks; 0 where something is predicted of a class that is not. Arguments as for :class:`Dice`.

    Example:
        >>> import torch
        >>> from segzoo.metrics import Recall
        >>> metric = Recall(aggregation="dataset")
        >>> metric.update(torch.tensor([[1, 1, 0, 0]]), torch.tensor([[0, 1, 1, 1]]))
        >>> metric.compute()
        tensor(0.3333)
    """

    name = "recall"
    score = staticmethod(recall_score)


class HausdorffDistance95(SegmentationMetric):
    """95 % Hausdorff distance, mean over images and then classes; see :func:`hausdorff_distance95`.

    Args:
        num_classes: As for :class:`Dice`.
        multilabel: As for :class:`Dice`.
        aggregation: Only "image": distances cannot be pooled.
        empty: As in :func:`hausdorff_distance95`: 0 ("one") or left out ("skip").
        spacing: Size of a pixel along each axis, in mm, of images that come without their own; None counts pixels.
        **kwargs: For torchmetrics.Metric.

    Example:
        >>> import torch
        >>> from segzoo.metrics import HausdorffDistance95
        >>> distance = HausdorffDistance95(spacing=(0.5, 0.5))
        >>> prediction, target = torch.zeros(2, 1, 8, 8, dtype=torch.long)
        >>> prediction[:, 2, 2], target[:, 2, 5] = 1, 1
        >>> distance(prediction, target)
        tensor(1.5000)
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
        """Account of how the number comes about, in the words that model cards use."""
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
        own = self.spacing if spacing is None else spacing
        scores = self.of_images(prediction, target, self.num_classes, self.multilabel, "one", own)
        self._take_in(confusion(prediction, target, self.num_classes, self.multilabel), scores)

    @classmethod
    def of_images(
        cls,
        prediction: Tensor,
        target: Tensor,
        num_classes: int,
        multilabel: bool,
        empty: Empty,
        spacing: Sequence[float] | None,
    ) -> Tensor:
        """Return the distances ``[B, K']`` of images."""
        return hausdorff_distance95(prediction, target, num_classes, multilabel, empty, spacing)


METRICS: Table[type[SegmentationMetric]] = Table(
    "metrics",
    {"dice": Dice, "iou": IoU, "precision": Precision, "recall": Recall, "hd95": HausdorffDistance95},
)


def metric_class(name: str) -> type[SegmentationMetric]:
    """Return the class of a metric's short name; an unknown name is a SegzooError with the nearest ones.

    Example:
        >>> from segzoo.metrics import metric_class
        >>> metric_class("iou")(num_classes=3).protocol
        'per-image mean, foreground classes, an empty mask predicted empty counts 1'
    """
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, cutoff=0.5) or list(METRICS)
        raise SegzooError(f"unknown metric {name!r}: did you mean {' or '.join(near)}?")
    return METRICS[name]


# ------------------------------------------------------------------------------------------------------ helpers


_UNIT = 2**32


"""Scores are summed in units of 2^-32: finer than the float32 result, with room for sums up to 2^31."""
