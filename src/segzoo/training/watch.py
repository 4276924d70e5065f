"""Losses of a training, watched for NaN at little cost."""

from typing import Any

import torch
from torch import Tensor

LOOK = 10  # steps between two looks where each has to wait, for a GPU or for other processes


class LossWatch:
    """Losses since the last look.

    A look waits until all that a GPU was asked for is done, so it is taken at several losses together.

    Example:
        >>> import torch
        >>> from segzoo.training.watch import LossWatch
        >>> watch = LossWatch()
        >>> for step, loss in enumerate([0.5, float("nan"), 0.4]):
        ...     watch.add(step, {"loss": torch.tensor(loss)})
        >>> watch.first_not_finite(), watch.first_not_finite()
        (1, None)
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[Tensor] = []

    def add(self, step: int, outputs: Any) -> None:
        """Keep what Lightning hands on of a step: a dict with its loss, unless that step had none."""
        if isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor):
            self.steps.append(step)
            self.losses.append(outputs["loss"].detach())

    def first_not_finite(self) -> int | None:
        """Return the step of the first loss that is NaN or infinite, if there is one; forget all of them."""
        finite = torch.stack(self.losses).isfinite().tolist() if self.losses else []
        found = next((step for step, one in zip(self.steps, finite, strict=True) if not one), None)
        self.steps, self.losses = [], []
        return found
