"""Learning rates over the steps of a training.

They end with the run that they are in. PyTorch's own would restore the end of the run that they were saved in, also
where that run is continued for longer; its cosine would rise again after it.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def polynomial_decay(optimizer: Optimizer, total: int, power: float) -> LRScheduler:
    """Let the rate fall to 0 after ``total`` steps of the schedule as (1 - progress) ** ``power``."""
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - step / total) ** power)


def cosine_decay(optimizer: Optimizer, total: int, lowest: float) -> LRScheduler:
    """Let the rate fall to ``lowest`` after ``total`` steps of the schedule along half a cosine."""
    highest = optimizer.defaults["lr"]
    lowest = min(lowest, highest)  # a rate that starts below it does not rise

    def factor(step: int) -> float:
        rate = lowest + (highest - lowest) * (1 + math.cos(math.pi * min(step, total) / total)) / 2
        return rate / highest if highest else 1.0

    return LambdaLR(optimizer, factor)
