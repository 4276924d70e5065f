"""CMUNeXt: a convolutional U-Net of large kernels and inverted bottlenecks.

Paper: "CMUNeXt: An Efficient Medical Image Segmentation Network based on Large Kernel and Skip Fusion",
ISBI 2024, https://arxiv.org/abs/2308.01239. The original code is FengheTan9/CMUNeXt (MIT); this is an
independent implementation that computes the same function.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from segzoo.module import SegmentationModule
from segzoo.network import Feature
from segzoo.nn.conv import ConvNormReLU
from segzoo.nn.fuse import ActivatedConv2d, fold_norm_forwards
from segzoo.registry import register
from segzoo.training.losses import DiceCELoss
from segzoo.training.schedules import polynomial_decay

if TYPE_CHECKING:  # jsonargparse reads this, too; predictions do without what the module imports
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable


class ConvGELUNorm(nn.Sequential):
    """Convolution, GELU, batch norm: the activation comes before the norm, all over CMUNeXt."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups),
            nn.GELU(),
            nn.BatchNorm2d(out_channels),
        )

    def fuse(self, following: nn.Module | None = None) -> None:
        """Join the first two layers, in place; fold the norm into the 1x1 convolution that follows, if one does."""
        conv, activation, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        if following is not None:
            assert isinstance(following, nn.Conv2d)
            fold_norm_forwards(norm, following)
        self[0], self[1] = ActivatedConv2d(conv, activation), norm
        del self[2 if following is None else 1 :]


class CMUNeXtBlock(nn.Module):
    """Residual large-kernel depthwise convolution, then an inverted bottleneck of ratio 4 (section 2.1)."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = ConvGELUNorm(channels, channels, kernel_size, groups=channels)
        self.expand = ConvGELUNorm(channels, 4 * channels)
        self.project = ConvGELUNorm(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.depthwise(x)
        return self.project(self.expand(x))  # no residual round the pointwise pair

    def fuse(self) -> None:
        """Fold the widest norm, in place; the others come before a sum and before zeros, which see their shift."""
        self.depthwise.fuse()
        self.expand.fuse(self.project[0])
        self.project.fuse()


class EncoderStage(nn.Module):
    """CMUNeXt blocks at the incoming width, then a convolution to the outgoing one."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, kernel_size: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(CMUNeXtBlock(in_channels, kernel_size) for _ in range(depth)))
        self.widen = ConvNormReLU(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.widen(self.blocks(x))


class DecoderStage(nn.Module):
    """Upsample to the skip's grid and width, then fuse the two (the paper's skip fusion, section 2.2)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear")
        self.reduce = ConvNormReLU(in_channels, out_channels)
        # two groups: one sees the skip alone, the other the upsampled features alone
        self.separate = ConvGELUNorm(2 * out_channels, 2 * out_channels, kernel_size=3, groups=2)
        self.expand = ConvGELUNorm(2 * out_channels, 4 * out_channels)
        self.project = ConvGELUNorm(4 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([skip, self.reduce(self.upsample(x))], dim=1)
        return self.project(self.expand(self.separate(x)))

    def fuse(self, head: nn.Conv2d | None = None) -> None:
        """Fold all norms but the last, in place, and that one too where the head follows."""
        self.separate.fuse(self.expand[0])
        self.expand.fuse(self.project[0])
        self.project.fuse(head)


class CMUNeXt(SegmentationModule):
    """CMUNeXt of any width (the builders below give the published ones).

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        widths: channels at the five levels (full size to 1/16).
        depths: CMUNeXt blocks at each level.
        kernel_sizes: their depthwise kernels.
        deployed: build the form that :meth:`deploy` gives, for loading its state.
        loss: called with logits and labels; None is the paper's 0.5 cross-entropy + Dice.
        optimizer: called with the parameters; None is the paper's SGD (0.01, momentum 0.9, weight decay 1e-4).
        lr_scheduler: called with the optimizer, stepped once an epoch; None is the paper's polynomial decay
            of power 0.9, stepped every batch.
        frozen_epochs: epochs for which stem and encoder stay as they are, or "forever".

    Example:
        >>> import torch, segzoo
        >>> model = segzoo.CMUNeXt(num_classes=2, widths=(8, 8, 8, 8, 8), depths=(1, 1, 1, 1, 1)).eval()
        >>> model(torch.zeros(1, 3, 50, 70)).shape
        torch.Size([1, 2, 50, 70])
    """

    stride = 16
    int8_files = (".onnx", ".xml")
    encoder_parts: ClassVar[tuple[str, ...]] = ("stem", "encoder")

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        multilabel: bool = False,
        widths: Sequence[int] = (16, 32, 128, 160, 256),
        depths: Sequence[int] = (1, 1, 1, 3, 1),
        kernel_sizes: Sequence[int] = (3, 3, 7, 7, 7),
        deployed: bool = False,
        loss: nn.Module | None = None,
        optimizer: "OptimizerCallable | None" = None,
        lr_scheduler: "LRSchedulerCallable | None" = None,
        frozen_epochs: int | Literal["forever"] = 0,
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler, frozen_epochs)
        self.widths = tuple(widths)
        self.stem = ConvNormReLU(in_channels, widths[0])
        incoming = [widths[0], *widths[:-1]]
        self.encoder = nn.ModuleList(
            EncoderStage(*numbers) for numbers in zip(incoming, widths, depths, kernel_sizes, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.decoder = nn.ModuleList(
            DecoderStage(widths[level + 1], widths[level]) for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], num_classes, kernel_size=1)
        self.deployed = False
        if deployed:
            self.fuse()

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        return tuple(Feature(width, 2**level) for level, width in enumerate(self.widths))

    def compute_features(self, x: Tensor) -> list[Tensor]:
        maps = [self.encoder[0](self.stem(x))]
        for stage in self.encoder[1:]:
            maps.append(stage(self.pool(maps[-1])))
        return maps

    def compute_logits(self, x: Tensor) -> Tensor:
        *skips, x = self.compute_features(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        return self.head(x)

    @torch.no_grad()
    def fuse(self) -> None:
        if self.deployed:
            return
        for module in list(self.modules()):
            if isinstance(module, CMUNeXtBlock | ConvNormReLU):
                module.fuse()
            elif isinstance(module, DecoderStage):
                module.fuse(self.head if module is self.decoder[-1] else None)
        self.deployed = True
        self.arguments = {**self.arguments, "deployed": True}

    def default_loss(self) -> nn.Module:
        return DiceCELoss(ce_weight=0.5)

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        return polynomial_decay(optimizer, self.total_steps(), power=0.9), "step"


@register(parameters=417_505, paper="https://arxiv.org/abs/2308.01239")
def cmunext_s(**arguments: Any) -> CMUNeXt:
    """CMUNeXt-S: widths 8 to 128, one block a level."""
    return CMUNeXt(widths=(8, 16, 32, 64, 128), depths=(1, 1, 1, 1, 1), kernel_sizes=(3, 3, 7, 7, 9), **arguments)


@register(parameters=3_149_185, paper="https://arxiv.org/abs/2308.01239")
def cmunext(**arguments: Any) -> CMUNeXt:
    """CMUNeXt: widths 16 to 256."""
    return CMUNeXt(widths=(16, 32, 128, 160, 256), depths=(1, 1, 1, 3, 1), kernel_sizes=(3, 3, 7, 7, 7), **arguments)


@register(parameters=8_286_721, paper="https://arxiv.org/abs/2308.01239")
def cmunext_l(**arguments: Any) -> CMUNeXt:
    """CMUNeXt-L: widths 32 to 512."""
    return CMUNeXt(widths=(32, 64, 128, 256, 512), depths=(1, 1, 1, 6, 3), kernel_sizes=(3, 3, 7, 7, 7), **arguments)
