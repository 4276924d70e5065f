"""Shares of classes, and weights by which rare ones count as much in a loss as common ones."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError


def class_counts(labels: Iterable[npt.NDArray[np.integer]], classes: int, multilabel: bool) -> npt.NDArray[np.int64]:
    """Count the pixels of each class.

    Args:
        labels: ``[*S]`` class numbers or, if ``multilabel``, ``[K, *S]`` 0 and 1; negative is not counted.
        classes: Number of class names.
        multilabel: Each class has a mask of its own.

    Returns:
        ``[classes]``, or ``[classes, 2]``: pixels without and with each class.

    Example:
        >>> import numpy as np
        >>> class_counts([np.array([[0, 0, 1], [2, 0, -1]])], classes=3, multilabel=False)
        array([3, 1, 1])
    """
    total = np.zeros((classes, 2) if multilabel else classes, np.int64)
    for label in labels:
        if multilabel:
            total += [[int((mask == value).sum()) for value in (0, 1)] for mask in label]
        else:
            total += np.bincount(label[label >= 0].ravel(), minlength=classes)
    return total


def balanced_weights(counts: npt.NDArray[np.int64], class_names: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return weights that make all classes count the same, and the average pixel 1.

    Args:
        counts: Of `class_counts`.
        class_names: For the sentence.

    Raises:
        SegzooError: No pixel is of a class.

    Example:
        >>> import numpy as np
        >>> balanced_weights(np.array([90, 10]), ["background", "lesion"]).round(3).tolist()
        [0.556, 5.0]
    """
    missing = [name for name, count in zip(class_names, counts, strict=True) if np.min(count) == 0]
    if missing:
        raise SegzooError(
            f"class_weights: the masks of the training part do not hold both {missing[0]} and something else, so it "
            "has no weight; leave class_weights out, or split the images otherwise."
        )
    weights: npt.NDArray[np.float32] = (counts.sum(-1, keepdims=True) / (counts.shape[-1] * counts)).astype(np.float32)
    return weights


def share_words(counts: npt.NDArray[np.int64], class_names: Sequence[str]) -> str:
    """Return the share of each class in words.

    Args:
        counts: Of `class_counts`.
        class_names: As many.

    Example:
        >>> import numpy as np
        >>> share_words(np.array([9996, 4]), ["background", "lesion"])
        'background 100 %, lesion 0.04 %'
    """
    present = counts[:, 1] if counts.ndim == 2 else counts
    shares = 100 * present / max(1, int(counts[0].sum() if counts.ndim == 2 else counts.sum()))
    return ", ".join(
        f"{name} {share:.{3 if share >= 99.95 else 2}g} %" for name, share in zip(class_names, shares, strict=True)
    )
