"""A metric: a name and a score from counted pixels; the base adds up, averages and says the protocol."""

from torch import Tensor

from segzoo.metrics import SegmentationMetric
from segzoo.metrics.functional import Empty, ratio


class F2(SegmentationMetric):
    """F2 score: recall counts four times as much as precision. Arguments as for :class:`segzoo.metrics.Dice`."""

    name = "f2"

    @staticmethod
    def score(tp: Tensor, fp: Tensor, fn: Tensor, empty: Empty) -> Tensor:
        """Return the score of counts of true positive, false positive and false negative pixels."""
        return ratio(5 * tp, 5 * tp + fp + 4 * fn, tp + fp + fn == 0, empty)
