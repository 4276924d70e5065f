"""MedNeXt: a U-Net of ConvNeXt blocks, up- and downsampling included, for volumes and images.

Paper: "MedNeXt: Transformer-driven Scaling of ConvNets for Medical Image Segmentation", MICCAI 2023,
https://arxiv.org/abs/2303.09975. The original code is MIC-DKFZ/MedNeXt (Apache-2.0); this is an independent
implementation that computes the same function.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segzoo.errors import SegzooError
from segzoo.models._mednext_blocks import POINTWISE, DownBlock, MedNeXtBlock, UpBlock, pointwise_drawn_as_transposed
from segzoo.models._upkern import load_upkern
from segzoo.module import SegmentationModule
from segzoo.network import Feature
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.registry import register
from segzoo.training.losses import DiceCELoss
from segzoo.training.schedules import polynomial_decay

if TYPE_CHECKING:  # jsonargparse reads this, too; predictions do without what the module imports
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

LEARNING_RATE, WEIGHT_DECAY, EPSILON, POWER, CLIP_NORM = 1e-3, 3e-5, 1e-4, 0.9, 12.0
PATCH_SIZE = 128


class MedNeXt(SegmentationModule):
    """MedNeXt of any size (the builders below give the published ones).

    Five levels, from full size to 1/16, of ``width`` to 16 · ``width`` channels. Nine numbers of ``expansion`` and
    ``depths`` are, in the order of the data's way: four encoder stages, the bottleneck, four decoder stages.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        spatial_dims: 3 for volumes [B, C, D, H, W], 2 for images [B, C, H, W].
        width: channels at full size.
        expansion: ratios of the inner channels of a block to its outer ones; one number for all stages, or nine.
        depths: blocks of every stage; one number, or nine.
        kernel_size: of the depthwise convolutions, odd; two numbers are the encoder's and that of all the rest.
        down_expansion: ratios of the four down blocks; None: of the level that each leads to, ``expansion[1:5]``.
            MONAI's port takes that of the level each comes from, ``expansion[:4]``, which is another network unless
            the ratios are all the same (as in MedNeXt-S).
        strides: of the four down blocks, each one number or one an axis, 1 or 2; ``((1, 2, 2), 2, 2, 2)`` keeps
            thick slices (D) apart at first. None is 2 everywhere.
        norm: "group" (each channel of each sample by itself, the published one) or "layer" (over the channels of each
            voxel).
        grn: global response normalisation in every block but the first down block, as in the original.
        deep_supervision: heads at the four coarser levels, used while training alone. A checkpoint with them loads
            into a model without, which drops them, and one without into a model with, which starts them anew.
        checkpointing: for less memory while training, what the backward pass computes again: "expansion" (in every
            block the wide layers; most of the saving for little time), "block" (all of every block), or None.
        upkern_from: a MedNeXt checkpoint (a name or a folder) of smaller kernels to start from, by the paper's UpKern;
            see :func:`segzoo.upkern`. ``load_report`` then says what was copied, interpolated and newly initialised.
        loss: called with logits and labels at every level; None is the published cross-entropy + soft Dice without
            the background, per sample (for images: per batch; nnU-Net also takes ``DiceCELoss(batch_dice=True)``
            for data of large volumes).
        optimizer: called with the parameters; None is the published AdamW (1e-3, eps 1e-4, weight decay 3e-5). From
            ``upkern_from``, 1e-4 was published for MedNeXt-S.
        lr_scheduler: called with the optimizer, stepped once an epoch; None is the published polynomial decay of power
            0.9, stepped every epoch.
        frozen_epochs: epochs for which stem, encoder stages and down blocks stay as they are, or "forever".

    Example:
        >>> import torch, segzoo
        >>> model = segzoo.MedNeXt(width=4, num_classes=3).eval()
        >>> model(torch.zeros(1, 1, 20, 40, 30)).shape
        torch.Size([1, 3, 20, 40, 30])
    """

    training_only: ClassVar[tuple[str, ...]] = ("auxiliary_heads.",)
    encoder_parts: ClassVar[tuple[str, ...]] = ("stem", "encoder", "down")

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 1,
        multilabel: bool = False,
        spatial_dims: Literal[2, 3] = 3,
        width: int = 32,
        expansion: int | Sequence[int] = 2,
        depths: int | Sequence[int] = 2,
        kernel_size: int | Sequence[int] = 3,
        down_expansion: Sequence[int] | None = None,
        strides: Sequence[int | Sequence[int]] | None = None,
        norm: Literal["group", "layer"] = "group",
        grn: bool = False,
        deep_supervision: bool = True,
        checkpointing: Literal["block", "expansion"] | None = None,
        upkern_from: str | None = None,
        loss: nn.Module | None = None,
        optimizer: "OptimizerCallable | None" = None,
        lr_scheduler: "LRSchedulerCallable | None" = None,
        frozen_epochs: int | Literal["forever"] = 0,
    ) -> None:
        if loss is None:
            loss = DiceCELoss(batch_dice=spatial_dims == 2)
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler, frozen_epochs)
        one_of("spatial_dims", spatial_dims, (2, 3))
        one_of("norm", norm, ("group", "layer"))
        one_of("checkpointing", checkpointing, (None, "block", "expansion"))
        expansion, depths = several("expansion", expansion, 9), several("depths", depths, 9)
        down_expansion = several("down_expansion", down_expansion or expansion[1:5], 4)
        encoder_kernel, kernel = several("kernel_size", kernel_size, 2)
        if encoder_kernel % 2 == 0 or kernel % 2 == 0:
            raise SegzooError(f"kernel_size must be odd, not {kernel_size}")
        steps = down_strides(strides, spatial_dims)
        self.spatial_dims = spatial_dims
        self.strides = steps
        self.stride = tuple(math.prod(axis) for axis in zip(*steps, strict=True))
        self.norm = norm
        if spatial_dims == 3:
            self.preprocessing = VolumePreprocessing(channels=in_channels, patch_size=(PATCH_SIZE,) * 3)

        options: dict[str, Any] = {"spatial_dims": spatial_dims, "norm": norm, "checkpointing": checkpointing}

        def stage(channels: int, number: int, kernel_size: int) -> nn.Sequential:
            blocks = (
                MedNeXtBlock(channels, expansion[number], kernel_size, grn=grn, **options)
                for _ in range(depths[number])
            )
            return nn.Sequential(*blocks)

        widths = [width * 2**level for level in range(5)]
        self.stem = POINTWISE[spatial_dims](in_channels, width, kernel_size=1)
        self.encoder = nn.ModuleList(stage(widths[level], level, encoder_kernel) for level in range(4))
        self.down = nn.ModuleList(
            DownBlock(
                widths[level],
                down_expansion[level],
                encoder_kernel,
                stride=steps[level],
                grn=grn and level > 0,
                **options,
            )
            for level in range(4)
        )
        self.bottleneck = stage(widths[4], 4, kernel)
        # from here on the coarsest comes first
        self.up = nn.ModuleList(
            UpBlock(widths[level + 1], expansion[8 - level], kernel, stride=steps[level], grn=grn, **options)
            for level in (3, 2, 1, 0)
        )
        self.decoder = nn.ModuleList(stage(widths[level], 8 - level, kernel) for level in (3, 2, 1, 0))
        self.auxiliary_heads = nn.ModuleList(
            pointwise_drawn_as_transposed(widths[level], num_classes, spatial_dims)
            for level in ((4, 3, 2, 1) if deep_supervision else ())
        )
        self.head = pointwise_drawn_as_transposed(width, num_classes, spatial_dims)
        if upkern_from is not None:
            self.load_report = load_upkern(self, upkern_from)

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        found = [Feature(self.stem.out_channels, 1)]
        factors = (1,) * self.spatial_dims
        for down in self.strides:
            factors = tuple(factor * step for factor, step in zip(factors, down, strict=True))
            found.append(Feature(2 * found[-1].channels, factors[0] if len({*factors}) == 1 else factors))
        return tuple(found)

    def compute_features(self, x: Tensor) -> list[Tensor]:
        maps = []
        x = self.stem(x)
        for blocks, down in zip(self.encoder, self.down, strict=True):
            maps.append(blocks(x))
            x = down(maps[-1])
        return [*maps, self.bottleneck(x)]

    def compute_logits(self, x: Tensor) -> Tensor | list[Tensor]:
        supervised = self.training and len(self.auxiliary_heads) > 0
        *skips, x = self.compute_features(x)
        outputs = []
        for level, (up, blocks) in enumerate(zip(self.up, self.decoder, strict=True)):
            if supervised:
                outputs.append(self.auxiliary_heads[level](x))
            x = blocks(up(x, skips.pop()))
        logits = self.head(x)
        return [logits, *reversed(outputs)] if supervised else logits

    def is_too_small(self, cells: Sequence[int], batch_size: int) -> bool:
        # group norm takes the statistics of a channel of one sample; layer norm needs no second voxel
        return self.norm == "group" and math.prod(cells) == 1

    def fuse(self) -> None:
        """Drop what only training needs."""
        self.auxiliary_heads = nn.ModuleList()
        self.arguments = {**self.arguments, "deep_supervision": False}

    def default_optimizer(self, parameters: Any) -> Optimizer:
        return torch.optim.AdamW(parameters, lr=LEARNING_RATE, eps=EPSILON, weight_decay=WEIGHT_DECAY)

    def default_lr_scheduler(self, optimizer: Optimizer) -> tuple[LRScheduler, str]:
        return polynomial_decay(optimizer, self.total_epochs(), POWER), "epoch"

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's hook: clip the norm to 12, unless the Trainer was given another value (0: no clipping)."""
        value = CLIP_NORM if gradient_clip_val is None else gradient_clip_val
        self.clip_gradients(optimizer, gradient_clip_val=value, gradient_clip_algorithm=gradient_clip_algorithm)


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse an argument that is none of those allowed."""
    if value not in allowed:
        raise SegzooError(f"{name} is one of {', '.join(map(str, allowed))}, not {value!r}")


def several(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Spread one number over all places, or take a number for each."""
    numbers = (value,) * count if isinstance(value, int) else tuple(value)
    if len(numbers) != count or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise SegzooError(f"{name} is one positive number or {count}, not {value}")
    return numbers


def down_strides(strides: Sequence[int | Sequence[int]] | None, spatial_dims: int) -> list[tuple[int, ...]]:
    """Spread strides over every down block and axis."""
    given = [2] * 4 if strides is None else list(strides)
    steps = [several("each of the strides", stride, spatial_dims) for stride in given]
    if len(steps) != 4 or any(step > 2 for stage in steps for step in stage):
        raise SegzooError(f"strides are those of the four down blocks, 1 or 2 on every axis, not {strides}")
    return steps


# ---- the published sizes (table 1 of the paper)

BASE_EXPANSION = (2, 3, 4, 4, 4, 4, 4, 3, 2)
LARGE_EXPANSION = (3, 4, 8, 8, 8, 8, 8, 4, 3)
MEDIUM_DEPTHS = (3, 4, 4, 4, 4, 4, 4, 4, 3)
LARGE_DEPTHS = (3, 4, 8, 8, 8, 8, 8, 4, 3)


@register(
    parameters=5_551_845,
    paper="https://arxiv.org/abs/2303.09975",
    spatial_dims=(2, 3),
    alias="mednext",
    pretrained="mednext-s-k3-hippocampus",
)
def mednext_s_k3(**arguments: Any) -> MedNeXt:
    """MedNeXt-S, kernel 3: two blocks a stage, expansion 2."""
    return MedNeXt(expansion=2, depths=2, kernel_size=3, **arguments)


@register(parameters=5_981_477, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_s_k5(**arguments: Any) -> MedNeXt:
    """MedNeXt-S, kernel 5."""
    return MedNeXt(expansion=2, depths=2, kernel_size=5, **arguments)


@register(parameters=10_527_237, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_b_k3(**arguments: Any) -> MedNeXt:
    """MedNeXt-B, kernel 3: expansion 2 to 4."""
    return MedNeXt(expansion=BASE_EXPANSION, depths=2, kernel_size=3, **arguments)


@register(parameters=10_956_869, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_b_k5(**arguments: Any) -> MedNeXt:
    """MedNeXt-B, kernel 5."""
    return MedNeXt(expansion=BASE_EXPANSION, depths=2, kernel_size=5, **arguments)


@register(parameters=17_549_893, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_m_k3(**arguments: Any) -> MedNeXt:
    """MedNeXt-M, kernel 3: three or four blocks a stage."""
    return MedNeXt(expansion=BASE_EXPANSION, depths=MEDIUM_DEPTHS, kernel_size=3, **arguments)


@register(parameters=18_261_765, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_m_k5(**arguments: Any) -> MedNeXt:
    """MedNeXt-M, kernel 5."""
    return MedNeXt(expansion=BASE_EXPANSION, depths=MEDIUM_DEPTHS, kernel_size=5, **arguments)


@register(parameters=61_780_197, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_l_k3(**arguments: Any) -> MedNeXt:
    """MedNeXt-L, kernel 3: three to eight blocks a stage, expansion 3 to 8."""
    return MedNeXt(expansion=LARGE_EXPANSION, depths=LARGE_DEPTHS, kernel_size=3, **arguments)


@register(parameters=62_993_829, paper="https://arxiv.org/abs/2303.09975", spatial_dims=(2, 3))
def mednext_l_k5(**arguments: Any) -> MedNeXt:
    """MedNeXt-L, kernel 5."""
    return MedNeXt(expansion=LARGE_EXPANSION, depths=LARGE_DEPTHS, kernel_size=5, **arguments)
