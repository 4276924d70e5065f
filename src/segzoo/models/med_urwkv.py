"""Med-URWKV: a U-Net of RWKV blocks on a pretrained Vision-RWKV encoder.

Paper: "Med-URWKV: Pure RWKV With ImageNet Pre-training For Medical Image Segmentation",
https://arxiv.org/abs/2506.10858 (version 1). No code of it was published; this is a reconstruction from public
descriptions, and its docstring says which part of it rests on what.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LRScheduler

from segzoo.errors import SegzooError
from segzoo.models._vrwkv_weights import load_vrwkv_encoder, read_encoder_file
from segzoo.module import SegmentationModule
from segzoo.network import Feature
from segzoo.nn.expand import NormedProjection
from segzoo.nn.kept import has_hooks
from segzoo.nn.tiles import eager_on_cpu
from segzoo.nn.vrwkv import Grid, VRWKVBlock, init_linears, to_map
from segzoo.nn.vrwkv_adapter import VRWKVAdapter
from segzoo.nn.vrwkv_sizes import ENCODERS
from segzoo.registry import nearest, register
from segzoo.training.schedules import polynomial_decay

if TYPE_CHECKING:  # jsonargparse reads this, too; predictions do without what the module imports
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

LEARNING_RATE, WEIGHT_DECAY, POWER = 3e-4, 0.01, 0.9


class PatchExpand(nn.Module):
    """Linear layer and depth-to-space: a map [B, a, h, w] grows to [B, b, scale·h, scale·w]."""

    def __init__(self, in_channels: int, out_channels: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(in_channels, scale * scale * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x.permute(0, 2, 3, 1))  # (B, h, w, s·s·b)
        x = x.unflatten(3, (self.scale, self.scale, -1)).permute(0, 1, 3, 2, 4, 5)  # (B, h, s, w, s, b)
        return self.norm(x.flatten(3, 4).flatten(1, 2)).permute(0, 3, 1, 2)

    def forward_to(self, head: nn.Conv2d, x: Tensor) -> Tensor:
        """Return ``head(self(x))``, of a 1x1 convolution; on CPUs without the map that it reads."""
        is_precise = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
        if not eager_on_cpu(x) or not is_precise or has_hooks(self) or has_hooks(head):
            return cast(Tensor, head(self(x)))
        kernel = head.weight.flatten(1)
        scaled, shift = kernel * self.norm.weight, F.linear(self.norm.bias, kernel, head.bias)
        tokens = x.permute(0, 2, 3, 1)
        logits = NormedProjection.apply(tokens.flatten(0, 2), self.expand.weight, scaled, self.norm.eps) + shift
        logits = logits.view(*tokens.shape[:3], self.scale, self.scale, -1).permute(0, 5, 1, 3, 2, 4)
        return logits.flatten(4, 5).flatten(2, 3)  # (B, K, s·h, s·w)


class PatchMerge(nn.Module):
    """Space-to-depth, norm and a linear layer: a map [B, C, h, w] shrinks to [B, C, h/2, w/2]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduce = nn.Linear(4 * channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1)  # (B, h/2, w/2, 2, 2, C)
        return self.reduce(self.norm(x.flatten(3))).permute(0, 3, 1, 2)


class MapNorm(nn.LayerNorm):
    """Layer norm over the channels of a map [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Pyramid(nn.ModuleList):
    """Four maps at 1/4, 1/8, 1/16 and 1/32 from the four taps of a plain encoder, all of them at 1/16."""

    def __init__(self, channels: int) -> None:
        half = channels // 2
        super().__init__(
            [
                nn.Sequential(PatchExpand(channels, half), PatchExpand(half, channels)),
                PatchExpand(channels, channels),
                MapNorm(channels),
                PatchMerge(channels),
            ]
        )

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return [level(tap) for level, tap in zip(self, taps, strict=True)]


class Blocks(nn.ModuleList):
    """Consecutive VRWKV blocks on a map; ``first`` of ``total`` counts through bottleneck and decoder."""

    def __init__(self, channels: int, depth: int, first: int, total: int) -> None:
        super().__init__(VRWKVBlock(channels, first + index, total) for index in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        grid: Grid = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2)
        for block in self:
            x = block(x, grid)
        return to_map(x, grid)


class Bottleneck(nn.Module):
    """VRWKV blocks at the encoder's width, then the reduction to the decoder's."""

    def __init__(self, channels: int, width: int, depth: int, total: int) -> None:
        super().__init__()
        self.blocks = Blocks(channels, depth, 0, total)
        self.norm = MapNorm(channels)
        self.reduce = nn.Linear(channels, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(x))
        return self.reduce(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DecoderStage(nn.Module):
    """Patch expanding, fusion with the skip, VRWKV blocks."""

    def __init__(self, width: int, skip_channels: int, depth: int, first: int, total: int) -> None:
        super().__init__()
        self.expand = PatchExpand(width, width)
        self.fuse = nn.Linear(width + skip_channels, width)
        self.blocks = Blocks(width, depth, first, total)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat([self.expand(x), skip], dim=1)
        return self.blocks(self.fuse(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class MedURWKV(SegmentationModule):
    """Med-URWKV: pretrained Vision-RWKV encoder, RWKV bottleneck, RWKV decoder with patch expanding and skips.

    **From the paper** (version 1; its abstract and public summaries, for the full text could not be had): the
    three parts, all of VRWKV blocks; the Tiny encoder, started from Vision-RWKV's weights trained on ImageNet and
    ADE20K; maps of one width at 1/4 to 1/32; skips; patch expanding; a 1x1 convolution as head; Dice +
    cross-entropy, AdamW, polynomial decay, the encoder frozen for the first five epochs; 14.33 M parameters.
    Version 2's Med-URWKV† is not implemented.

    **From Vision-RWKV's code** (Apache-2.0): the encoder in both forms, tensor by tensor. That the paper's
    encoder is the adapter form follows from the checkpoint that it names and the maps it describes. "Pure RWKV" holds
    for trunk, bottleneck and decoder: the adapter has convolutions and deformable attention.

    **Ours**: what is inside bottleneck and decoder (two blocks; stages of 3, 3 and 2 blocks after concatenation
    with the skip; widths), chosen so that the total, 14.31 M, comes close to the published one; the pyramid of the
    plain form; learning rate, weight decay and power of the decay. The published scores have not been reproduced.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        encoder: "adapter" (the paper's) or "plain", strictly RWKV.
        encoder_weights: None starts at random; a path reads a local file of an encoder of this size: any of
            Vision-RWKV's checkpoints, or a Med-URWKV checkpoint's model.safetensors; a name is that of one of
            `segzoo.list_encoders`; "ade20k" (for the adapter) and "imagenet" fetch Vision-RWKV's from the Hub. The
            adapter takes either: of plain weights its trunk.
            ``load_report`` then says what was used.
        encoder_size: "tiny", "small", "base" or "large".
        width: channels of the decoder.
        depths: blocks of the bottleneck and at 1/16, 1/8 and 1/4.
        head_width: channels at full size, before the head.
        drop_path: largest probability to skip a part of an encoder block for an image, while training; None is
            Vision-RWKV's for that size (0.1 for tiny).
        frozen_epochs: epochs for which the encoder stays as it is, or "forever"; use 0 for an encoder that starts at
            random. A whole checkpoint that is trained further trains at once unless told otherwise.
        layer_decay: factor of the learning rate from each encoder block to the one before it; 1 is none. Only
            for the default optimizer.
        deployed: build the form that :meth:`deploy` gives, for loading its state.
        loss: called with logits and labels; None is Dice + cross-entropy.
        optimizer: called with the parameters; None is AdamW (3e-4, weight decay 0.01 but on norms, biases, mixes and
            positions).
        lr_scheduler: called with the optimizer, stepped once an epoch; None is polynomial decay of power 0.9,
            stepped every batch.

    Example:
        >>> import torch, segzoo
        >>> model = segzoo.create_model("med_urwkv").eval()
        >>> isinstance(model, segzoo.MedURWKV), model(torch.zeros(1, 3, 50, 70)).shape
        (True, torch.Size([1, 1, 50, 70]))
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        multilabel: bool = False,
        encoder: Literal["adapter", "plain"] = "adapter",
        encoder_weights: str | None = None,
        encoder_size: str = "tiny",
        width: int = 192,
        depths: Sequence[int] = (2, 3, 3, 2),
        head_width: int = 128,
        drop_path: float | None = None,
        frozen_epochs: int | Literal["forever"] = 5,
        layer_decay: float = 1.0,
        deployed: bool = False,
        loss: nn.Module | None = None,
        optimizer: "OptimizerCallable | None" = None,
        lr_scheduler: "LRSchedulerCallable | None" = None,
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler, frozen_epochs)
        if encoder not in ("adapter", "plain"):
            raise SegzooError(
                f"encoder is 'adapter' or 'plain', not {encoder!r}{nearest(encoder, ['adapter', 'plain'])}"
            )
        if encoder_size not in ENCODERS:
            raise SegzooError(f"encoder_size is one of {', '.join(ENCODERS)}, not {encoder_size!r}")
        if len(depths) != 4:
            raise SegzooError(f"depths are four numbers (bottleneck, 1/16, 1/8 and 1/4), not {[*depths]}")
        self.encoder_form = encoder
        self.layer_decay = layer_decay
        size = ENCODERS[encoder_size]
        channels, total = size.embed_dims, sum(depths)
        self.channels = channels
        self.encoder = size.build(encoder, in_channels, drop_path)
        self.pyramid = Pyramid(channels) if encoder == "plain" else None
        self.bottleneck = Bottleneck(channels, width, depths[0], total)
        self.decoder = nn.ModuleList(
            DecoderStage(width, channels, depths[stage], sum(depths[:stage]), total) for stage in range(1, 4)
        )
        self.expand = PatchExpand(width, head_width, scale=4)
        self.head = nn.Conv2d(head_width, num_classes, kernel_size=1)
        for part in (self.pyramid, self.bottleneck, self.decoder, self.expand):
            if part is not None:
                init_linears(part)
        if encoder_weights is not None:
            file, content, config = read_encoder_file(encoder_weights, encoder_size)
            self.load_report = load_vrwkv_encoder(self, file, content)
            if config is not None:  # its data stay with it as what it was pretrained on
                self.data, self.licence = config.data, config.licence
        self.deployed = False
        if deployed:
            self.fuse()

    def recorded_arguments(self) -> dict[str, Any]:
        return {**super().recorded_arguments(), "encoder": self.encoder_form}

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        return tuple(Feature(self.channels, reduction) for reduction in (4, 8, 16, 32))

    def compute_features(self, x: Tensor) -> list[Tensor]:
        maps = self.encoder(x)
        return maps if self.pyramid is None else self.pyramid(maps)

    def compute_logits(self, x: Tensor) -> Tensor:
        *skips, x = self.compute_features(x)
        x = self.bottleneck(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        return self.expand.forward_to(self.head, x)

    @torch.no_grad()
    def fuse(self) -> None:
        if self.deployed:
            return
        if isinstance(self.encoder, VRWKVAdapter):
            self.encoder.spm.fuse()
        self.deployed = True
        self.arguments = {**self.arguments, "deployed": True}

    def default_optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        groups: dict[tuple[float, bool], list[Tensor]] = {}
        wanted = {id(parameter) for parameter in parameters}
        for name, parameter in self.named_parameters():
            if id(parameter) in wanted:
                groups.setdefault((self.rate_factor(name), decays(name, parameter)), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": group, "lr": LEARNING_RATE * factor, "weight_decay": WEIGHT_DECAY if decayed else 0.0}
                for (factor, decayed), group in groups.items()
            ]
        )

    def rate_factor(self, name: str) -> float:
        """Layer-wise decay: the factor of the learning rate of the parameter called ``name``."""
        depth = len(self.encoder.layers)
        if name.startswith("encoder.layers."):
            layer = 1 + int(name.split(".")[2])
        elif name.startswith(("encoder.patch_embed.", "encoder.pos_embed")):
            layer = 0
        else:
            layer = depth + 1
        return self.layer_decay ** (depth + 1 - layer)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        return polynomial_decay(optimizer, self.total_steps(), POWER), "step"


def decays(name: str, parameter: Tensor) -> bool:
    """Tell whether weight decay applies: to matrices and kernels, not to norms, biases, mixes and positions."""
    return parameter.ndim > 1 and "spatial_mix" not in name and not name.endswith("_embed")


@register(
    parameters=14_314_353,
    paper="https://arxiv.org/abs/2506.10858",
    alias="med_urwkv_t",
    pretrained="med-urwkv-busi",
)
def med_urwkv(**arguments: Any) -> MedURWKV:
    """Med-URWKV-T: the paper's size, on Vision-RWKV-Tiny with its adapter; bottleneck and decoder reconstructed."""
    return MedURWKV(encoder_size="tiny", width=192, **arguments)


@register(parameters=38_201_745, paper="https://arxiv.org/abs/2506.10858")
def med_urwkv_s(**arguments: Any) -> MedURWKV:
    """Med-URWKV-S: on Vision-RWKV-Small with its adapter."""
    return MedURWKV(encoder_size="small", width=192, **arguments)


@register(parameters=141_460_833, paper="https://arxiv.org/abs/2506.10858")
def med_urwkv_b(**arguments: Any) -> MedURWKV:
    """Med-URWKV-B: on Vision-RWKV-Base with its adapter."""
    return MedURWKV(encoder_size="base", width=384, **arguments)
