"""Vision-RWKV, the encoder: a ViT whose attention is Bi-WKV, linear in the number of patches.

Paper: "Vision-RWKV: Efficient and Scalable Visual Perception with RWKV-Like Architectures", ICLR 2025,
https://arxiv.org/abs/2403.02308. The original code is OpenGVLab/Vision-RWKV (Apache-2.0); this is an independent
implementation that computes the same function from the same state dict. The argument names of
:class:`VisionRWKV` are those of the original's configurations.

Tokens are [B, T, C] with T = h·w, row by row; a grid is (h, w).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.nn.blend import Blend, Grid, gated, q_shift, squared_relu
from segzoo.nn.tiles import eager_on_cpu
from segzoo.nn.wkv import bi_wkv

InitMode = Literal["fancy", "local", "global"]


class Mix(nn.Module):
    """Beginning of both mixes: token and shifted token, blended channel by channel, once for each use.

    Args:
        channels: C.
        uses: letters of the parameters ``spatial_mix_k``, ``_v`` and ``_r`` that this mix has.
        shift_pixel: distance of :func:`q_shift`; 0 leaves the tokens alone, and there are no parameters.
        channel_gamma: its group size.
    """

    def __init__(self, channels: int, uses: str, shift_pixel: int, channel_gamma: float) -> None:
        super().__init__()
        self.uses = uses
        self.shift_pixel = shift_pixel
        self.channel_gamma = channel_gamma
        for use in uses:
            mix = nn.Parameter(torch.full((1, 1, channels), 0.5)) if shift_pixel else None
            self.register_parameter(f"spatial_mix_{use}", mix)

    def blend(self, x: Tensor, grid: Grid) -> list[Tensor]:
        """Return the blended tokens [B, T, C] of every use."""
        if not self.shift_pixel:
            return [x] * len(self.uses)
        mixes = [getattr(self, f"spatial_mix_{use}").to(x.dtype) for use in self.uses]
        if eager_on_cpu(x):
            return list(Blend.apply(x, grid, self.shift_pixel, self.channel_gamma, *mixes))
        shifted = q_shift(x, grid, self.shift_pixel, self.channel_gamma)
        return [torch.lerp(shifted, x, mix) for mix in mixes]

    @torch.no_grad()
    def fill_mixes(self, mode: InitMode, **fancy: Tensor) -> None:
        """Set the mixes: as given ("fancy"), all from the token itself ("local"), or half and half ("global")."""
        for use in self.uses if self.shift_pixel else "":
            mix = getattr(self, f"spatial_mix_{use}")
            mix.copy_({"fancy": fancy[use], "local": torch.tensor(1.0), "global": torch.tensor(0.5)}[mode])


class SpatialMix(Mix):
    """Token mixing: Bi-WKV over all tokens, gated."""

    def __init__(self, channels: int, shift_pixel: int, channel_gamma: float, key_norm: bool) -> None:
        super().__init__(channels, "kvr", shift_pixel, channel_gamma)
        self.spatial_decay = nn.Parameter(torch.zeros(channels))
        self.spatial_first = nn.Parameter(torch.zeros(channels))
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.key_norm = nn.LayerNorm(channels) if key_norm else None
        self.output = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens [B, T, C]."""
        k, v, r = self.blend(x, grid)
        tokens = x.shape[1]  # of this image, whatever the pretraining size was
        mixed = bi_wkv(self.spatial_decay / tokens, self.spatial_first / tokens, self.key(k), self.value(v))
        if self.key_norm is not None:  # its name notwithstanding, it norms what Bi-WKV returns
            mixed = self.key_norm(mixed)
        return self.output(gated(self.receptance(r), mixed))

    @torch.no_grad()
    def reset(self, mode: InitMode, index: int, depth: int) -> None:
        """Set the initial decay, bonus and mixes of block ``index`` of ``depth``."""
        channels = len(self.spatial_decay)
        late, early = index / max(depth - 1, 1), 1 - index / depth
        channel = torch.arange(channels)
        if mode == "fancy":
            self.spatial_decay.copy_(-5 + 8 * (channel / max(channels - 1, 1)) ** (0.7 + 1.3 * late))
            self.spatial_first.copy_(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        elif mode == "local":
            self.spatial_decay.fill_(1)
            self.spatial_first.fill_(1)
        base = channel / channels
        self.fill_mixes(mode, k=base**early, v=base**early + 0.3 * late, r=base ** (0.5 * early))


class ChannelMix(Mix):
    """Gated MLP, with a squared ReLU."""

    def __init__(self, channels: int, hidden: int, shift_pixel: int, channel_gamma: float, key_norm: bool) -> None:
        super().__init__(channels, "kr", shift_pixel, channel_gamma)
        self.key = nn.Linear(channels, hidden, bias=False)
        self.key_norm = nn.LayerNorm(hidden) if key_norm else None
        self.receptance = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(hidden, channels, bias=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Mix tokens [B, T, C]."""
        k, r = self.blend(x, grid)
        hidden = squared_relu(self.key(k))
        if self.key_norm is not None:
            hidden = self.key_norm(hidden)
        return gated(self.receptance(r), self.value(hidden))

    def reset(self, mode: InitMode, index: int, depth: int) -> None:
        """Set the initial mixes of block ``index`` of ``depth``."""
        channels = self.receptance.in_features
        mix = (torch.arange(channels) / channels) ** (1 - index / depth)
        self.fill_mixes(mode, k=mix, r=mix)


class DropPath(nn.Module):
    """Stochastic depth: while training, a branch counts for some of the images only, and for those the more.

    It draws what timm's layer draws, whose import takes longer than a prediction.

    Args:
        drop_prob: probability that an image goes without the branch, below 1.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop, while training, the branch of some images."""
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x * x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)


class VRWKVBlock(nn.Module):
    """Spatial mix and channel mix, both residual: [B, T, C] -> [B, T, C].

    Args:
        channels: C.
        index: which block this is, for the initial values.
        depth: of how many.
        hidden_rate: width of the channel mix over C.
        post_norm: norm what the mixes return instead of what they take.
        key_norm: norm also inside of both mixes.
        init_values: where the layer scales ``gamma1`` and ``gamma2`` start; None: there are none.
        drop_path: probability to skip a mix, for each image, while training.
        first_norm: norm the input, also on the residual path (``ln0``, of an encoder's first block).
        shift_pixel: see :func:`q_shift`; 0 is no shift.
        channel_gamma: likewise.
        init_mode: initial values of decay, bonus and mixes.
    """

    gamma1: nn.Parameter | None
    gamma2: nn.Parameter | None

    def __init__(
        self,
        channels: int,
        index: int,
        depth: int,
        hidden_rate: float = 4,
        post_norm: bool = False,
        key_norm: bool = False,
        init_values: float | None = None,
        drop_path: float = 0.0,
        first_norm: bool = False,
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        init_mode: InitMode = "fancy",
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.ln0 = nn.LayerNorm(channels) if first_norm else None
        self.ln1 = nn.LayerNorm(channels)
        self.ln2 = nn.LayerNorm(channels)
        self.att = SpatialMix(channels, shift_pixel, channel_gamma, key_norm)
        self.ffn = ChannelMix(channels, int(hidden_rate * channels), shift_pixel, channel_gamma, key_norm)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        for name in ("gamma1", "gamma2"):
            scale = None if init_values is None else nn.Parameter(torch.full((channels,), float(init_values)))
            self.register_parameter(name, scale)
        self.att.reset(init_mode, index, depth)
        self.ffn.reset(init_mode, index, depth)
        init_linears(self)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Put tokens [B, T, C] through both mixes."""
        if self.ln0 is not None:
            x = self.ln0(x)
        x = x + self.residual(x, grid, self.att, self.ln1, self.gamma1)
        return x + self.residual(x, grid, self.ffn, self.ln2, self.gamma2)

    def residual(self, x: Tensor, grid: Grid, mix: Mix, norm: nn.Module, scale: Tensor | None) -> Tensor:
        """Compute what one mix adds."""
        change = norm(mix(x, grid)) if self.post_norm else mix(norm(x), grid)
        return self.drop_path(change if scale is None else scale * change)


class PatchEmbed(nn.Module):
    """Tokens, one from every patch."""

    def __init__(self, in_channels: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, channels, kernel_size=patch_size, stride=patch_size)
        self.patch_size = patch_size

    def forward(self, image: Tensor) -> Tensor:
        """Turn an image [B, in_channels, H, W], filled with zeros to whole patches, into a map [B, C, h, w]."""
        down, right = (-side % self.patch_size for side in image.shape[2:])
        return self.projection(F.pad(image, (0, right, 0, down)) if down or right else image)


class VisionRWKV(nn.Module):
    """Vision-RWKV, plain: one resolution from the patches on.

    The published sizes are in :data:`segzoo.nn.vrwkv_sizes.ENCODERS`.

    Args:
        in_channels: channels of the image.
        img_size: side of the images it was pretrained on; ``pos_embed`` belongs to that grid and is
            interpolated (bicubic) to any other.
        patch_size: side of a patch.
        embed_dims: channels C of the tokens.
        depth: number of blocks.
        hidden_rate: see :class:`VRWKVBlock`, as for the arguments not named here.
        drop_path_rate: of the last block; it rises linearly from 0.
        final_norm: norm the last block's output.
        out_indices: the blocks whose outputs :meth:`forward` returns; negative ones count from the end.
    """

    def __init__(
        self,
        in_channels: int = 3,
        img_size: int = 224,
        patch_size: int = 16,
        embed_dims: int = 192,
        depth: int = 12,
        hidden_rate: float = 4,
        post_norm: bool = False,
        key_norm: bool = False,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        final_norm: bool = True,
        out_indices: Sequence[int] = (-1,),
        shift_pixel: int = 1,
        channel_gamma: float = 0.25,
        init_mode: InitMode = "fancy",
    ) -> None:
        super().__init__()
        side = img_size // patch_size
        self.pretrained_grid = (side, side)
        self.taps = [index % depth for index in out_indices]
        self.patch_embed = PatchEmbed(in_channels, embed_dims, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, embed_dims))
        self.layers = nn.ModuleList(
            VRWKVBlock(
                embed_dims,
                index,
                depth,
                hidden_rate,
                post_norm,
                key_norm,
                init_values,
                drop_path=drop_path_rate * index / max(depth - 1, 1),
                first_norm=index == 0,
                shift_pixel=shift_pixel,
                channel_gamma=channel_gamma,
                init_mode=init_mode,
            )
            for index in range(depth)
        )
        self.ln1 = nn.LayerNorm(embed_dims) if final_norm else None

    def embed(self, image: Tensor) -> tuple[Tensor, Grid]:
        """Return tokens [B, T, C] with their positions, and their grid."""
        x = self.patch_embed(image)
        grid = (x.shape[2], x.shape[3])
        return x.flatten(2).transpose(1, 2) + resize_positions(self.pos_embed, self.pretrained_grid, grid), grid

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the outputs [B, C, h, w] of the tapped blocks, for an image [B, in_channels, H, W] of any size."""
        x, grid = self.embed(image)
        taps = []
        for index, layer in enumerate(self.layers):
            x = layer(x, grid)
            if index == len(self.layers) - 1 and self.ln1 is not None:
                x = self.ln1(x)
            if index in self.taps:
                taps.append(to_map(x, grid))
        return taps


def to_map(x: Tensor, grid: Grid) -> Tensor:
    """Lay out tokens [B, T, C] as a map [B, C, h, w]."""
    return x.transpose(1, 2).unflatten(2, grid)


def resize_positions(positions: Tensor, old: Grid, new: Grid) -> Tensor:
    """Interpolate position embeddings [1, h·w, C] (bicubic) from one grid to another."""
    if old == new:
        return positions
    # Two small matrices instead of interpolating the map itself: the same numbers, but with a gradient that
    # `Trainer(deterministic=True)` accepts on GPUs.
    rows, columns = (bicubic_matrix(positions, *sides) for sides in zip(old, new, strict=True))
    with torch.autocast(positions.device.type, enabled=False):
        return torch.einsum("hi,wj,bijc->bhwc", rows, columns, positions.unflatten(1, old)).flatten(1, 2)


def bicubic_matrix(like: Tensor, old: int, new: int) -> Tensor:
    """Return the matrix [new, old] that interpolates one axis."""
    identity = torch.eye(old, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None, None], size=(new, old), mode="bicubic", align_corners=False)[0, 0]


def init_linears(module: nn.Module) -> None:
    """Draw truncated normal weights (0.02) and zero the biases, as the original's training on ImageNet starts."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
