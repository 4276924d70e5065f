"""Steps of training on a CPU in less time, with the same result but for rounding."""

import os
from typing import TypeGuard

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from segzoo.training.allocator import give_memory_back, keep_freed_memory

OFF = "SEGZOO_FAST_STEPS"  # set to 0, all is as PyTorch does it
SPREAD = (2, 2)


class FastSteps(Callback):
    """Callback that chooses how a training on a CPU computes: what it says, and nothing else, is other than usual.

    - Memory that a step frees is kept for the next one (see `segzoo.training.allocator`).
    - On one thread 1x1 convolutions go to oneDNN. PyTorch has a slow way of its own for batches below 16, unless the
      kernel is spread, which one of a single pixel can be without a difference. Those to a single channel, the heads of
      binary masks, are matrix products, which take less time still.

    ``SEGZOO_FAST_STEPS=0`` switches it off.

    Args:
        product: a Conv2d of 1x1 that is a matrix product.

    Example:
        >>> from segzoo.training.fast_steps import FastSteps
        >>> FastSteps(product=torch.nn.Conv2d).chosen
        []
    """

    def __init__(self, product: type[nn.Conv2d]) -> None:
        self.product = product
        self.keeps_memory = False
        self.spread: list[nn.Conv2d] = []
        self.products: list[nn.Conv2d] = []

    @property
    def chosen(self) -> list[str]:
        """Words for what is in use."""
        others = bool(self.spread or self.products)
        words = {"freed memory is kept": self.keeps_memory, "1x1 convolutions take another way": others}
        return [word for word, used in words.items() if used]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Choose, and say so."""
        if stage != "fit" or trainer.strategy.root_device.type != "cpu" or os.environ.get(OFF) == "0":
            return
        self.keeps_memory = keep_freed_memory()
        if torch.get_num_threads() == 1 and torch.backends.mkldnn.is_available():
            pointwise = [layer for layer in pl_module.modules() if is_pointwise(layer)]
            self.products = [layer for layer in pointwise if type(layer) is nn.Conv2d and layer.out_channels == 1]
            self.spread = [layer for layer in pointwise if layer not in self.products]
        for layer in self.spread:
            layer.dilation = SPREAD
        for layer in self.products:
            layer.__class__ = self.product
        if self.chosen:
            rank_zero_info(f"segzoo: for shorter steps {' and '.join(self.chosen)} ({OFF}=0: not)")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put everything back."""
        self.put_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put everything back where the training ends by an error, after which nothing is torn down."""
        self.put_back()

    def put_back(self) -> None:
        """Let everything be as it was."""
        for layer in self.spread:
            layer.dilation = (1, 1)
        for layer in self.products:
            layer.__class__ = nn.Conv2d
        self.spread = self.products = []
        if self.keeps_memory:
            self.keeps_memory = False
            give_memory_back()


def is_pointwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a layer is PyTorch's own 1x1 convolution of all channels."""
    return (
        isinstance(layer, nn.Conv2d)
        and type(layer).forward is nn.Conv2d.forward
        and (layer.kernel_size, layer.stride, layer.dilation) == ((1, 1),) * 3
        and layer.groups == 1
    )
