"""Deformable attention: every query reads a few points that it chooses itself, in every one of several maps.

Plain attention compares each query with all tokens. Here a linear layer tells from the query alone where to look
(offsets from its own place, some points a head and map) and how much each point counts; what lies between pixels is
interpolated. So the cost grows with the queries and not with their product with the pixels.

The maps are tokens [B, Σ h·w, C], one map after the other, row by row; a grid is (h, w).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segzoo.errors import SegzooError
from segzoo.nn.blend import Grid
from segzoo.nn.depthwise import needs_gradient
from segzoo.nn.tiles import eager_on_cpu


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (https://arxiv.org/abs/2010.04159).

    Args:
        channels: C.
        heads: each chooses its own points.
        levels: maps to read from.
        points: in each map, for each head.
        ratio: width of the values over C.
    """

    def __init__(self, channels: int, heads: int, levels: int, points: int, ratio: float) -> None:
        super().__init__()
        width = int(channels * ratio)
        if width % heads:
            raise SegzooError(f"deformable attention of width {width} cannot be split into {heads} heads")
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(channels, heads * levels * points * 2)
        self.attention_weights = nn.Linear(channels, heads * levels * points)
        self.value_proj = nn.Linear(channels, width)
        self.output_proj = nn.Linear(width, channels)
        self.reset()

    def forward(self, query: Tensor, places: Tensor, features: Tensor, grids: Sequence[Grid]) -> Tensor:
        """Read ``features`` [B, Σ h·w, C] of the maps ``grids`` for ``query`` [B, N, C].

        Args:
            query: who reads.
            places: where each query is, [N, 2] as (x, y) in 0..1.
            features: the maps, one after the other, row by row.
            grids: (h, w) of each map.

        Returns:
            What was read, [B, N, C].
        """
        batch, number = query.shape[:2]
        per_head = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(batch, number, *per_head, 2)
        weights = self.attention_weights(query).view(batch, number, self.heads, -1).softmax(-1)
        weights = weights.view(batch, number, *per_head).to(places.dtype)
        if eager_on_cpu(query) and not needs_gradient(features, offsets, weights, self.value_proj.weight):
            tokens = self.value_proj(features).to(places.dtype).unflatten(2, (self.heads, -1))
            return self.output_proj(read_in_bags(tokens, grids, places, offsets, weights).flatten(2))
        # heads beside the batch, since each reads its own channels: (B·heads, d, Σ h·w)
        values = (
            self.value_proj(features)
            .to(places.dtype)
            .transpose(1, 2)
            .reshape(batch * self.heads, -1, features.shape[1])
        )
        read = torch.zeros((), dtype=places.dtype, device=places.device)
        for level, (grid, value) in enumerate(
            zip(grids, values.split([height * width for height, width in grids], dim=2), strict=True)
        ):
            # an offset of one is one pixel of the map it is in
            moved = places[:, None, None] + offsets[:, :, :, level] / places.new_tensor(grid[::-1])
            weight = weights[:, :, :, level].transpose(1, 2).reshape(batch * self.heads, 1, number, self.points)
            points = moved.transpose(1, 2).reshape(batch * self.heads, number, self.points, 2)
            read = read + (sample(value.unflatten(2, grid), points) * weight).sum(-1)  # (B·heads, d, N)
        return self.output_proj(read.view(batch, -1, number).transpose(1, 2))

    @torch.no_grad()
    def reset(self) -> None:
        """Set initial values: every head looks in a direction of its own, point by point farther away."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, self.points + 1)
        bias = direction[:, None, None] * steps[:, None]  # (heads, 1, points, 2)
        self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        for zero in (self.sampling_offsets.weight, self.attention_weights.weight, self.attention_weights.bias):
            zero.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            projection.bias.zero_()


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps [B, d, h, w] at points [B, N, P, 2], (x, y) in 0..1, between pixels bilinear, zero outside.

    Returns:
        [B, d, N, P].
    """
    if maps.is_cuda and torch.are_deterministic_algorithms_enabled():  # where grid_sample's gradient refuses to run
        return sample_by_gathering(maps, points)
    return F.grid_sample(maps, 2 * points - 1, mode="bilinear", padding_mode="zeros", align_corners=False)


def sample_by_gathering(maps: Tensor, points: Tensor) -> Tensor:
    """Do what :func:`sample` does, from four gathers."""
    height, width = maps.shape[2:]
    position = points.flatten(1, 2) * points.new_tensor([width, height]) - 0.5  # (B, N·P, 2) in pixels
    corner = position.detach().floor()
    read = maps.new_zeros(())
    for step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixel = corner + corner.new_tensor(step)
        share = (1 - (position - pixel).abs()).prod(-1)
        inside = (pixel >= 0).all(-1) & (pixel[..., 0] < width) & (pixel[..., 1] < height)
        x, y = pixel[..., 0].clamp(0, width - 1), pixel[..., 1].clamp(0, height - 1)
        index = (y * width + x).long()[:, None].expand(-1, maps.shape[1], -1)
        read = read + maps.flatten(2).gather(2, index) * (share * inside)[:, None]
    return read.unflatten(2, points.shape[1:3])


def read_in_bags(tokens: Tensor, grids: Sequence[Grid], places: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Read all points of all maps as weighted sums of rows of a table, which takes a CPU a fraction of the time.

    Its gradient would take longer than that of :func:`sample`.

    Args:
        tokens: of the maps, [B, Σ h·w, heads, d].
        grids: (h, w) of each map.
        places: where each query is, [N, 2] as (x, y) in 0..1.
        offsets: from there, in pixels, [B, N, heads, maps, points, 2].
        weights: of the points, [B, N, heads, maps, points].

    Returns:
        [B, N, heads, d].
    """
    batch, length, heads, width = tokens.shape
    number, points = len(places), offsets.shape[4]
    sides = torch.tensor(grids).repeat_interleave(points, 0)  # of the map of each point
    starts = sides.new_tensor([0, *(height * width for height, width in grids)])[:-1].cumsum(0)
    first = (starts.repeat_interleave(points) + length * torch.arange(batch).view(-1, 1, 1, 1)) * heads
    first = first + torch.arange(heads).unsqueeze(-1)  # row of the map's first pixel for this head
    columns, rows = (
        neighbours(places[:, axis].view(-1, 1, 1), offset.flatten(3), sides[:, 1 - axis])
        for axis, offset in enumerate(offsets.unbind(-1))
    )
    index = torch.stack([first + heads * (y * sides[:, 1] + x) for y, _ in rows for x, _ in columns], -1)
    weights = weights.flatten(3)
    share = torch.stack([weights * of_row * of_column for _, of_row in rows for _, of_column in columns], -1)
    bags = batch * number * heads
    read = F.embedding_bag(
        index.view(bags, -1), tokens.reshape(-1, width), mode="sum", per_sample_weights=share.view(bags, -1)
    )
    return read.view(batch, number, heads, width)


def neighbours(place: Tensor, offset: Tensor, side: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return, on one axis, the two pixels next to each point and their shares of it, which are zero outside.

    Args:
        place: from where, in 0..1.
        offset: from there, in pixels.
        side: of the map, in pixels.
    """
    size = side.to(place.dtype)
    position = place * size + (offset - 0.5)
    corner = position.floor()
    beyond = position - corner
    pixels = []
    for pixel, share in ((corner, 1 - beyond), (corner + 1, beyond)):
        # NaN, of weights that diverged, ends as pixel 0, and goes on in the share
        inside = pixel.fmax(size.new_zeros(())).fmin(size - 1)
        pixels.append((inside.long(), share * (pixel == inside)))
    return pixels


def pixel_centres(grids: Sequence[Grid], like: Tensor) -> Tensor:
    """Return where the pixels of several maps are, [Σ h·w, 2] as (x, y) in 0..1, in the dtype of ``like``."""
    places = []
    for sides in grids:
        rows, columns = ((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side for side in sides)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        places.append(torch.stack([x, y], dim=-1).flatten(0, 1))
    return torch.cat(places)
