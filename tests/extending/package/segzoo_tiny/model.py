"""A model: a class with a forward pass and a recipe, and a builder that registers it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler

import segzoo


class TinyNet(segzoo.SegmentationModule):
    """Two convolutions at half the image's resolution.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits.
        multilabel: every class is a mask of its own.
        width: channels between the convolutions.
        **recipe: loss, optimizer and lr_scheduler; None takes those below.
    """

    stride = 2  # the base pads images to multiples of it, and crops the logits

    def __init__(
        self, in_channels: int = 3, num_classes: int = 1, multilabel: bool = False, width: int = 8, **recipe: Any
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, **recipe)
        self.down = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
        self.head = nn.Conv2d(width, 4 * num_classes, 3, padding=1)

    def compute_logits(self, x: Tensor) -> Tensor:
        return nn.functional.pixel_shuffle(self.head(self.down(x).relu()), 2)

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-2)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        return ConstantLR(optimizer, 1.0), "epoch"


@segzoo.register(parameters=516, paper="an example in segzoo's CONTRIBUTING.md")
def tiny_net(**arguments: Any) -> TinyNet:
    """TinyNet: two convolutions."""
    return TinyNet(**arguments)
