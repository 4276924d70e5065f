"""Training loss: cross-entropy and soft Dice for binary, multi-class and multi-label masks of any rank."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DiceCELoss(nn.Module):
    """Weighted sum of cross-entropy and soft Dice loss: ``ce_weight * CE + dice_weight * (1 - Dice)``.

    The task is read from the shapes, with logits ``[B, K, *S]``:

    ============ ============================ =========================================
    task         label                        activation and cross-entropy
    ============ ============================ =========================================
    binary       integers ``[B, *S]``, K = 1  sigmoid, binary cross-entropy
    multi-class  integers ``[B, *S]``, K > 1  softmax, cross-entropy (class 0 = background)
    multi-label  floats ``[B, K, *S]``        sigmoid, binary cross-entropy per channel
    ============ ============================ =========================================

    Cross-entropy is the mean over the pixels that count. With p the probabilities and t the target, Dice is
    ``(2 Σpt + smooth) / (Σp + Σt + smooth)`` per sample and class, then the mean over both. A negative label is
    ignored: such a pixel counts in no sum and no mean, and a sample without any other pixel counts in no mean. Where
    nothing counts at all, the loss is 0 and its gradients are 0.

    ``DiceCELoss(ce_weight=0.5)`` is the loss of the CMUNeXt and LV-UNet papers.

    Args:
        ce_weight: Factor of the cross-entropy term; 0 leaves it out.
        dice_weight: Factor of the Dice term; 0 leaves it out.
        smooth: Added above and below in Dice, so that an empty mask predicted empty costs nothing; must be > 0.
        batch_dice: Sum over the whole batch (of this process) before the ratio, as if it were one large image.
        include_background: Count class 0 in the Dice term of a multi-class task.

    Attributes:
        class_weights: Factors of the pixels of each class in the cross-entropy, see :meth:`weigh`; None is 1 for all.

    Raises:
        ValueError: A weight is negative, or ``smooth`` is not positive.

    Example:
        >>> loss = DiceCELoss(ce_weight=0.5)
        >>> logits = torch.full((1, 1, 4, 4), 20.0)
        >>> round(loss(logits, torch.ones(1, 4, 4, dtype=torch.long)).item(), 6)
        0.0
    """

    def __init__(
        self,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        smooth: float = 1e-5,
        batch_dice: bool = False,
        include_background: bool = False,
    ) -> None:
        super().__init__()
        if ce_weight < 0 or dice_weight < 0 or ce_weight + dice_weight == 0:
            raise ValueError(f"loss weights must be >= 0 and not both 0, got ce {ce_weight} and dice {dice_weight}")
        if smooth <= 0:
            raise ValueError(f"smooth must be > 0, or empty masks divide by zero, got {smooth}")
        self.ce_weight = ce_weight
        self.dice_weight = dice_weight
        self.smooth = smooth
        self.batch_dice = batch_dice
        self.include_background = include_background
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None)

    def weigh(self, weights: Tensor) -> None:
        """Let rare classes count more in the cross-entropy; the Dice term weighs all classes the same anyway.

        Args:
            weights: ``[K]``, of each class; of a sigmoid a channel ``[K, 2]``, of pixels without and with the class.
        """
        self.class_weights = weights

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of one batch.

        Args:
            logits: ``[B, K, *S]``, any float type (half precision is raised to float32 first).
            label: ``[B, *S]`` integers, or ``[B, K, *S]`` floats for multi-label; negative = ignored.

        Returns:
            A scalar in at least float32.

        Raises:
            ValueError: The shapes do not fit, or (checked on CPU only) a label is beyond the classes.
        """
        check_label(logits, label)
        # Sums over a million probabilities need float32; autocast keeps it, no operation below is one it lowers.
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if not label.is_floating_point() and logits.shape[1] > 1:
            return self._multiclass(logits, label.long())
        return self._binary(logits, label if label.is_floating_point() else label.unsqueeze(1))

    def _binary(self, logits: Tensor, label: Tensor) -> Tensor:
        """Add up sigmoid losses: every channel of ``[B, K, *S]`` is a mask of its own."""
        valid = label >= 0
        target = label.clamp(min=0).to(logits.dtype)
        loss = logits.new_zeros(())
        if self.ce_weight:
            pixels = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            if self.class_weights is not None:
                pixels = pixels * weight_of(self.class_weights, target)
            loss = loss + self.ce_weight * mean_where(pixels, valid)
        if self.dice_weight:
            loss = loss + self.dice_weight * self._dice_loss(logits.sigmoid(), target, valid)
        return loss

    def _multiclass(self, logits: Tensor, label: Tensor) -> Tensor:
        """Add up softmax losses for ``[B, *S]`` class numbers."""
        valid = label >= 0
        loss = logits.new_zeros(())
        if self.ce_weight:
            weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
            pixels = F.cross_entropy(logits, label.clamp(min=-1), weights, ignore_index=-1, reduction="none")
            loss = loss + self.ce_weight * mean_where(pixels, valid)
        if self.dice_weight:
            target = torch.zeros_like(logits).scatter_(1, label.clamp(min=0).unsqueeze(1), 1.0)
            first = 0 if self.include_background else 1
            dice = self._dice_loss(logits.softmax(1)[:, first:], target[:, first:], valid.unsqueeze(1))
            loss = loss + self.dice_weight * dice
        return loss

    def _dice_loss(self, probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """Average 1 - soft Dice over samples and classes that have a pixel to count.

        ``probability`` and ``target`` are ``[B, K, *S]``, ``valid`` is the same or ``[B, 1, *S]``.
        """
        valid, probability, target = (x.flatten(2) for x in (valid, probability, target))
        probability, target = probability * valid, target * valid
        over = (0, 2) if self.batch_dice else (2,)
        overlap = (probability * target).sum(over)
        size = probability.sum(over) + target.sum(over)
        dice = (2 * overlap + self.smooth) / (size + self.smooth)
        return mean_where(1 - dice, valid.any(2).any(0) if self.batch_dice else valid.any(2))


def deep_supervision_loss(loss: nn.Module, outputs: Sequence[Tensor], label: Tensor) -> Tensor:
    """Average the losses of all outputs of deep supervision, each half as heavy as the next finer one.

    Args:
        loss: called with logits and labels.
        outputs: logits ``[B, K, *S]``, finest first.
        label: ``[B, *S]`` integers or ``[B, K, *S]`` floats. Where it is smaller than the finest output, which may be
            padded, the rest is ignored; coarser outputs see it by nearest neighbour.

    Returns:
        A scalar.
    """
    weights = [0.5**level for level in range(len(outputs))]
    label = _pad_label(label, outputs[0].shape[2:])
    losses = [
        weight * loss(logits, _coarser_label(label, logits.shape[2:]))
        for weight, logits in zip(weights, outputs, strict=True)
    ]
    return torch.stack(losses).sum() / sum(weights)


def _pad_label(label: Tensor, size: Sequence[int]) -> Tensor:
    """Pad labels ``[..., *S]`` to a larger grid; what the image does not cover is ignored (-1)."""
    padding: list[int] = []
    for old, new in zip(reversed(label.shape[-len(size) :]), reversed(size), strict=True):
        padding += [0, new - old]
    return F.pad(label, padding, value=-1)


def _coarser_label(label: Tensor, size: Sequence[int]) -> Tensor:
    """Bring labels of a batch to a coarser grid, by nearest neighbour."""
    if tuple(label.shape[-len(size) :]) == tuple(size):
        return label
    channelled = label if label.is_floating_point() else label[:, None].float()
    resized = F.interpolate(channelled, size=tuple(size), mode="nearest-exact")
    return resized if label.is_floating_point() else resized[:, 0].to(label.dtype)


def weight_of(weights: Tensor, target: Tensor) -> Tensor:
    """Return the weight of every element of ``[B, K, *S]`` 0 and 1, from ``[K, 2]`` weights of these."""
    absent, present = weights.to(target.dtype).reshape(-1, 2, *[1] * (target.ndim - 2)).unbind(1)
    return absent + (present - absent) * target


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Average the values that count; 0, still joined to the graph, where none does."""
    valid = valid.expand_as(values)
    return (values * valid).sum() / valid.sum().clamp(min=1)


def check_label(logits: Tensor, label: Tensor) -> None:
    """Refuse a label that fits no task, or (checked on CPU only) holds more than the classes.

    Args:
        logits: ``[B, K, *S]``.
        label: ``[B, *S]`` integers or ``[B, K, *S]`` floats.

    Raises:
        ValueError: Saying what it is and what it should be.
    """
    _check_shapes(logits, label)
    _check_range(logits, label)


def _check_shapes(logits: Tensor, label: Tensor) -> None:
    """Refuse a label whose shape or type fits no task."""
    batch, *spatial = logits.shape[0], *logits.shape[2:]
    wanted = tuple(logits.shape) if label.is_floating_point() else (batch, *spatial)
    if tuple(label.shape) != wanted:
        raise ValueError(
            f"logits of shape {list(logits.shape)} need an integer label of shape {[batch, *spatial]} or, for "
            f"multi-label masks, a float label of shape {list(logits.shape)}, got {label.dtype} {list(label.shape)}"
        )


def _check_range(logits: Tensor, label: Tensor) -> None:
    """Refuse labels beyond the classes; on CPU only, since on a GPU the look at a value would stall the queue."""
    if label.device.type != "cpu" or label.numel() == 0:
        return
    highest = 1 if label.is_floating_point() else max(logits.shape[1] - 1, 1)
    if label.max() > highest:
        raise ValueError(
            f"the label holds the value {label.max().item():g}, but with {logits.shape[1]} output channel(s) "
            f"the highest is {highest} (map mask values such as 255 to class numbers first)"
        )
