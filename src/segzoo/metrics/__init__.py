"""Segmentation metrics, each with a named protocol: Dice, IoU, precision, recall and the 95 % Hausdorff distance.

The same predictions can score 0.56 or 0.88 in "Dice": by what is averaged (images or pixels), over which classes, and
by what an image counts whose mask is empty and predicted empty. Here these choices are arguments, and
:attr:`SegmentationMetric.protocol` says them in words.

Masks are integers (class numbers ``[B, *S]``, or 0/1 per channel ``[B, K, *S]`` for multi-label). K' below is the
number of foreground classes: 1 for a binary task, ``num_classes - 1`` for multi-class (the background is never scored),
``num_classes`` for multi-label. A negative target is ignored: that pixel is in neither mask.
"""

from typing import TYPE_CHECKING

from segzoo.lazy import lazily

if TYPE_CHECKING:
    from segzoo.metrics.functional import confusion as confusion
    from segzoo.metrics.functional import dice_score as dice_score
    from segzoo.metrics.functional import hausdorff_distance95 as hausdorff_distance95
    from segzoo.metrics.functional import iou_score as iou_score
    from segzoo.metrics.functional import precision_score as precision_score
    from segzoo.metrics.functional import recall_score as recall_score
    from segzoo.metrics.metric import METRICS as METRICS
    from segzoo.metrics.metric import Dice as Dice
    from segzoo.metrics.metric import HausdorffDistance95 as HausdorffDistance95
    from segzoo.metrics.metric import IoU as IoU
    from segzoo.metrics.metric import Precision as Precision
    from segzoo.metrics.metric import Recall as Recall
    from segzoo.metrics.metric import SegmentationMetric as SegmentationMetric
    from segzoo.metrics.metric import metric_class as metric_class
    from segzoo.metrics.per_image import image_scores as image_scores
    from segzoo.metrics.score_file import write_image_scores as write_image_scores

_FUNCTIONAL, _METRIC, _PER_IMAGE = (f"segzoo.metrics.{file}" for file in ("functional", "metric", "per_image"))
_HOMES = {
    **dict.fromkeys(("confusion", "dice_score", "iou_score", "precision_score", "recall_score"), _FUNCTIONAL),
    "hausdorff_distance95": _FUNCTIONAL,
    **dict.fromkeys(("SegmentationMetric", "Dice", "IoU", "Precision", "Recall", "HausdorffDistance95"), _METRIC),
    **dict.fromkeys(("METRICS", "metric_class"), _METRIC),
    "image_scores": _PER_IMAGE,
    "write_image_scores": "segzoo.metrics.score_file",
}
__all__ = list(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
