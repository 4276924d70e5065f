"""Networks of a few layers, for tests of what is done with any network; the fixture `small_models` registers them."""

from typing import Any

import torch
from torch import Tensor, nn

import segzoo


class SmallVolumes(segzoo.SegmentationModule):
    """Two convolutions at half the volume's resolution, with a deconvolution that comes back.

    Their biases are none, which would give one class to all voxels as long as nothing is trained.
    """

    stride = 2
    spatial_dims = 3

    def __init__(self, in_channels: int = 1, num_classes: int = 1, multilabel: bool = False, **recipe: Any) -> None:
        super().__init__(in_channels, num_classes, multilabel, **recipe)
        self.down = nn.Conv3d(in_channels, 8, 3, stride=2, padding=1)
        self.mix = nn.Conv3d(8, 8, 3, padding=1)
        self.up = nn.ConvTranspose3d(8, num_classes, 2, stride=2, bias=False)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.mix.bias)
        self.preprocessing = segzoo.VolumePreprocessing(in_channels)

    def compute_logits(self, x: Tensor) -> Tensor:
        return self.up(self.mix(self.down(x).relu()).relu())

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)


def small_volumes(**arguments: Any) -> SmallVolumes:
    """Return a network for volumes."""
    return SmallVolumes(**arguments)


def small_images(**arguments: Any) -> segzoo.CMUNeXt:
    """Return a CMUNeXt of three narrow levels."""
    return segzoo.CMUNeXt(widths=(4, 4, 8), depths=(1, 1, 1), kernel_sizes=(3, 3, 3), **arguments)


def wide_images(**arguments: Any) -> segzoo.CMUNeXt:
    """Return a CMUNeXt of three levels, the deepest two wide enough to be quantised."""
    return segzoo.CMUNeXt(widths=(4, 64, 64), depths=(1, 1, 1), kernel_sizes=(3, 3, 3), **arguments)


BUILDERS = (small_images, wide_images, small_volumes)
