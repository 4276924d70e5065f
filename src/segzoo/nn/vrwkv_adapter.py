"""VRWKV-Adapter: Vision-RWKV beside a small convolutional pyramid, the two exchanging features four times.

It is Vision-RWKV's backbone for dense prediction (the original's ``segmentation`` and ``detection`` folders) and
follows ViT-Adapter, https://arxiv.org/abs/2205.08534. Independent implementation; the argument names of
:class:`VRWKVAdapter` are those of the original's configurations.

Three kinds of tokens: x [B, h·w, C] at 1/16, the trunk's; c [B, Σ h·w, C] at 1/8, 1/16 and 1/32, one after the
other, the pyramid's; and c1, a map at 1/4 that only joins at the end.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.errors import SegzooError
from segzoo.nn.conv import ConvNormReLU, joined
from segzoo.nn.deformable import DeformableAttention, pixel_centres
from segzoo.nn.vrwkv import DropPath, Grid, VisionRWKV, init_linears, to_map

NORM_EPS = 1e-6  # of the adapter's own layer norms; the trunk's have 1e-5


class SpatialPrior(nn.Module):
    """Pyramid from a few convolutions."""

    def __init__(self, in_channels: int, width: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *ConvNormReLU(in_channels, width, stride=2, bias=False),
            *ConvNormReLU(width, width, bias=False),
            *ConvNormReLU(width, width, bias=False),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.conv2 = ConvNormReLU(width, 2 * width, stride=2, bias=False)
        self.conv3 = ConvNormReLU(2 * width, 4 * width, stride=2, bias=False)
        self.conv4 = ConvNormReLU(4 * width, 4 * width, stride=2, bias=False)
        self.fc1 = nn.Conv2d(width, channels, kernel_size=1)
        self.fc2 = nn.Conv2d(2 * width, channels, kernel_size=1)
        self.fc3 = nn.Conv2d(4 * width, channels, kernel_size=1)
        self.fc4 = nn.Conv2d(4 * width, channels, kernel_size=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps of C channels at 1/4, 1/8, 1/16 and 1/32 of the image."""
        c1 = self.stem(image)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        return [self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(self.conv4(c3))]

    def fuse(self) -> None:
        """Make one layer of each convolution, its norm and its activation, in place."""
        *layers, pool = self.stem
        self.stem = nn.Sequential(*map(joined, layers[::3], layers[1::3], layers[2::3]), pool)
        for part in (self.conv2, self.conv3, self.conv4):
            part.fuse()


class DepthwiseConv(nn.Module):
    """Depthwise 3x3 convolution on tokens that are several maps, one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)

    def forward(self, c: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Tokens [B, Σ h·w, C] of the maps ``grids``, convolved map by map."""
        parts = c.split([height * width for height, width in grids], dim=1)
        maps = [self.dwconv(to_map(part, grid)) for part, grid in zip(parts, grids, strict=True)]
        return torch.cat([convolved.flatten(2).transpose(1, 2) for convolved in maps], dim=1)


class ConvFFN(nn.Module):
    """Linear, depthwise convolution, GELU, linear."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, c: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Tokens [B, Σ h·w, C] of the maps ``grids``."""
        return self.fc2(F.gelu(self.dwconv(self.fc1(c), grids)))


class Geometry(NamedTuple):
    """Places of the tokens.

    Attributes:
        x_grid: (h, w) of x.
        c_grids: (h, w) of each of the maps in c.
        x_places: positions of x, [h·w, 2] as (x, y) in 0..1.
        c_places: positions of c, [Σ h·w, 2].
    """

    x_grid: Grid
    c_grids: list[Grid]
    x_places: Tensor
    c_places: Tensor


class Injector(nn.Module):
    """Reader of the trunk in the pyramid; it adds nothing at first, since ``gamma`` starts at 0."""

    def __init__(self, channels: int, heads: int, points: int, ratio: float) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.feat_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = DeformableAttention(channels, heads, 3, points, ratio)
        self.gamma = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, c: Tensor, where: Geometry) -> Tensor:
        """Tokens x after reading c."""
        return x + self.gamma * self.attn(self.query_norm(x), where.x_places, self.feat_norm(c), where.c_grids)


class Extractor(nn.Module):
    """Reader of the pyramid in the trunk."""

    def __init__(
        self, channels: int, heads: int, points: int, ratio: float, cffn_ratio: float, drop_path: float
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.feat_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attn = DeformableAttention(channels, heads, 1, points, ratio)
        self.ffn = ConvFFN(channels, int(channels * cffn_ratio))
        self.ffn_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, c: Tensor, x: Tensor, where: Geometry) -> Tensor:
        """Tokens c after reading x."""
        c = c + self.attn(self.query_norm(c), where.c_places, self.feat_norm(x), [where.x_grid])
        return c + self.drop_path(self.ffn(self.ffn_norm(c), where.c_grids))


class Interaction(nn.Module):
    """Exchange around one stage of the trunk: inject before it, extract after it."""

    def __init__(
        self,
        channels: int,
        heads: int,
        points: int,
        ratio: float,
        cffn_ratio: float,
        drop_path: float,
        extra_extractors: int,
    ) -> None:
        super().__init__()
        self.injector = Injector(channels, heads, points, ratio)
        self.extractor = Extractor(channels, heads, points, ratio, cffn_ratio, drop_path)
        self.extra_extractors = nn.ModuleList(
            Extractor(channels, heads, points, ratio, cffn_ratio, drop_path) for _ in range(extra_extractors)
        )

    def forward(self, x: Tensor, c: Tensor, blocks: Iterable[nn.Module], where: Geometry) -> tuple[Tensor, Tensor]:
        """Tokens x after this stage's ``blocks`` of the trunk, and c."""
        x = self.injector(x, c, where)
        for block in blocks:
            x = block(x, where.x_grid)
        for extractor in (self.extractor, *self.extra_extractors):
            c = extractor(c, x, where)
        return x, c


class VRWKVAdapter(VisionRWKV):
    """Vision-RWKV in its adapter form: four maps of C channels at 1/4, 1/8, 1/16 and 1/32.

    Args:
        in_channels: channels of the image.
        img_size: see :class:`VisionRWKV`, as for the arguments not named here.
        drop_path_rate: of the trunk's last block, and of every extractor.
        conv_inplane: channels of the convolutional stem.
        n_points: points that deformable attention reads, for each head and map.
        deform_num_heads: its heads.
        deform_ratio: width of its values over C.
        cffn_ratio: width of the extractors' feed-forward over C.
        interaction_indexes: first and last block of each of the four stages.
    """

    def __init__(
        self,
        in_channels: int = 3,
        img_size: int = 224,
        embed_dims: int = 192,
        depth: int = 12,
        post_norm: bool = False,
        key_norm: bool = False,
        init_values: float | None = 1.0,
        drop_path_rate: float = 0.0,
        conv_inplane: int = 64,
        n_points: int = 4,
        deform_num_heads: int = 6,
        deform_ratio: float = 1.0,
        cffn_ratio: float = 0.25,
        interaction_indexes: Sequence[Sequence[int]] = ((0, 2), (3, 5), (6, 8), (9, 11)),
    ) -> None:
        super().__init__(
            in_channels,
            img_size,
            embed_dims=embed_dims,
            depth=depth,
            post_norm=post_norm,
            key_norm=key_norm,
            init_values=init_values,
            drop_path_rate=drop_path_rate,
            final_norm=False,
        )
        if len(interaction_indexes) != 4 or interaction_indexes[-1][-1] != depth - 1:
            raise SegzooError(
                f"interaction_indexes must be the first and last blocks of four stages that end at block {depth - 1}, "
                f"not {[*interaction_indexes]}"
            )
        self.stages = [range(first, last + 1) for first, last in interaction_indexes]
        self.level_embed = nn.Parameter(torch.randn(3, embed_dims))
        self.spm = SpatialPrior(in_channels, conv_inplane, embed_dims)
        self.interactions = nn.ModuleList(
            Interaction(
                embed_dims,
                deform_num_heads,
                n_points,
                deform_ratio,
                cffn_ratio,
                drop_path_rate,
                extra_extractors=2 if number == 3 else 0,
            )
            for number in range(4)
        )
        self.up = nn.ConvTranspose2d(embed_dims, embed_dims, kernel_size=2, stride=2)
        self.norm1 = nn.BatchNorm2d(embed_dims)
        self.norm2 = nn.BatchNorm2d(embed_dims)
        self.norm3 = nn.BatchNorm2d(embed_dims)
        self.norm4 = nn.BatchNorm2d(embed_dims)
        for part in (self.spm, self.interactions, self.up):
            init_adapter(part)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return maps [B, C, H/4, W/4] to [B, C, H/32, W/32] of images whose sides are multiples of 32."""
        if any(side % 32 for side in image.shape[2:]):
            raise SegzooError(
                f"VRWKV-Adapter takes images with sides that are multiples of 32, not {[*image.shape[2:]]}"
            )
        c1, *pyramid = self.spm(image)
        grids = [(level.shape[2], level.shape[3]) for level in pyramid]
        c = torch.cat(
            [
                level.flatten(2).transpose(1, 2) + embedding
                for level, embedding in zip(pyramid, self.level_embed, strict=True)
            ],
            dim=1,
        )
        x, grid = self.embed(image)
        where = Geometry(grid, grids, *(pixel_centres(maps, self.pos_embed) for maps in ([grid], grids)))
        outputs = []
        for interaction, stage in zip(self.interactions, self.stages, strict=True):
            x, c = interaction(x, c, [self.layers[index] for index in stage], where)
            outputs.append(to_map(x, grid))

        # transposed before they are split: the other way round, OpenVINO mixes them up in a graph of one image
        levels = c.transpose(1, 2).split([height * width for height, width in grids], dim=2)
        c2, c3, c4 = (level.unflatten(2, grid) for level, grid in zip(levels, grids, strict=True))
        maps = [self.up(c2) + c1, c2, c3, c4]
        norms = (self.norm1, self.norm2, self.norm3, self.norm4)
        return [
            norm(level + F.interpolate(output, size=level.shape[2:], mode="bilinear", align_corners=False))
            for norm, level, output in zip(norms, maps, outputs, strict=True)
        ]


def init_adapter(module: nn.Module) -> None:
    """Set the original's initial values: convolutions by their fan-out, linears as the trunk's, attention its own."""
    init_linears(module)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            fan_out = math.prod(part.kernel_size) * part.out_channels // part.groups
            nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, DeformableAttention):
            part.reset()
