"""Deployed network with its contract around it, as one graph."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.prediction.runtimes import UNTEMPERED
from segzoo.preprocessing.image import Preprocessing

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


AXES = ("depth", "height", "width")


# ---- the graph


class Graph(nn.Module):
    """Deployed network with what a checkpoint's contract does before and after it.

    Where a checkpoint has thresholds and the graph sees whole images, the mask that they make is an output of its own;
    where it has a temperature, so are the probabilities without it, of which masks are made. A volume's windows are
    averaged first, and what looks for connected parts is no work for a graph: of what is not done here
    `segzoo.export.write.left_out` tells.

    Args:
        network: deployed.
        precision: "float32" or "float16", of the network alone: images and probabilities are float32.
        resize: to a height and width.
    """

    mean: Tensor
    std: Tensor
    thresholds: Tensor | None

    def __init__(
        self, network: "SegmentationNetwork", precision: str, resize: Callable[[Tensor, Sequence[int]], Tensor]
    ) -> None:
        super().__init__()
        self.resize = resize
        self.network = network.deploy().half() if precision == "float16" else network  # a copy: half() works in place
        self.dtype = torch.float16 if precision == "float16" else torch.float32
        contract = network.preprocessing
        self.contract = contract if isinstance(contract, Preprocessing) else None
        self.image_size = None if self.contract is None else self.contract.image_size  # None: nothing is resized
        if self.contract is not None:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(self.contract, name)) * 255.0
                self.register_buffer(name, values[:, None, None], persistent=False)
        found = network.postprocessing.thresholds(network.task, network.class_names) if self.contract else None
        self.register_buffer("thresholds", None if found is None else torch.tensor(found), persistent=False)
        self.temperature = network.postprocessing.temperature if self.contract else 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what it gives."""
        mask = () if self.thresholds is None else ("mask",)
        return ("probabilities", "logits", *mask, *(() if self.temperature == 1 else (UNTEMPERED,)))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Probabilities [B, K, *S] of images [B, C, *S], and logits on the network's own grid.

        With thresholds also the mask, uint8 [B, *S], in multi-label [B, K, *S]; with a temperature the probabilities
        without it.
        """
        size, x = image.shape[2:], image
        if self.image_size is not None:
            x = self.resize(x, self.image_size)
        if self.contract is not None:
            x = (x - self.mean) / self.std
        logits = self.logits(x)
        # flat, since ONNX Runtime would go on in its own layout, which has 16 channels for one class
        probabilities = self.network.activate(logits.flatten(2)).unflatten(2, logits.shape[2:])
        if self.image_size is not None:
            probabilities = self.resize(probabilities, size)
        task, found = self.network.task, [probabilities, logits]
        if self.thresholds is not None:
            found.append(task.mask(probabilities, self.thresholds).to(torch.uint8))
        if self.temperature != 1:
            found[0] = task.tempered(probabilities, self.temperature)
            found.append(probabilities)
        return tuple(found)

    def logits(self, x: Tensor) -> Tensor:
        """Return the network's forward pass, padded and cropped without looking at the size, which may vary."""
        network = self.network
        strides = network.stride if isinstance(network.stride, tuple) else (network.stride,) * (x.ndim - 2)
        padded = x
        for axis, stride in enumerate(strides, 2):
            side = x.shape[axis]
            whole = (side + stride - 1) // stride * stride
            if not isinstance(side, int) or whole != side:
                padded = padded.index_select(axis, torch.arange(whole, device=x.device).clamp(max=side - 1))
        logits = network.compute_logits(padded.to(self.dtype))
        assert isinstance(logits, Tensor)  # deployed networks have one output
        for axis, side in enumerate(x.shape[2:], 2):  # not a slice, whose program would only do where it cuts something
            if not isinstance(side, int) or logits.shape[axis] != side:
                logits = logits.index_select(axis, torch.arange(side, device=x.device))
        return logits.float()


def interpolate(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, in the one operation that PyTorch has for it."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, as `Preprocessing` does it, in operations that every runtime has.

    ONNX's own antialiased Resize is ignored without a word by some runtimes, OpenVINO's among them.

    Args:
        x: [B, C, H, W].
        size: the height and width to reach; either may vary from call to call, as may those of x.
    """
    height, width = size  # rows first: columns need transposing, of what is smaller then
    return resize_rows(resize_rows(x, height).mT, width).mT


def resize_rows(x: Tensor, count: int) -> Tensor:
    """[B, C, count, W] of x [B, C, H, W]: each row a weighted sum of the rows under a triangle over its place."""
    own = x.shape[-2]
    if isinstance(own, int) and isinstance(count, int) and own == count:
        return x
    # rows under a triangle; as simple as it can be, since tracing what is exact takes twice as long
    reach = torch.sym_max(3, (2 * own + count - 1) // count + 1)
    step = torch.scalar_tensor(own, dtype=torch.float32) / count
    half = step.clamp(min=1)
    centre = (torch.arange(count) + 0.5) * step
    first = (centre - half + 0.5).floor().clamp(min=0)
    row = first[:, None] + torch.arange(reach)
    weight = (1 - ((row + 0.5 - centre[:, None]) / half).abs()).clamp(min=0) * (row < own)
    weight = weight / weight.sum(1, keepdim=True)
    rows = x.index_select(-2, row.clamp(max=own - 1).long().flatten()).unflatten(-2, row.shape)
    return (weight[:, None] @ rows).squeeze(-2)


# ---- export


def example_input(network: "SegmentationNetwork", size: Sequence[int] | None) -> Tensor:
    """Return what the graph is traced with: two images of no special size, or of the size that is to be fixed."""
    sides = size or ((300, 411) if network.spatial_dims == 2 else (40, 56, 72))
    return torch.rand(2, network.in_channels, *sides, generator=torch.Generator().manual_seed(0)) * 255


def dynamic_shapes(x: Tensor, size: Sequence[int] | None) -> tuple[dict[int, Any]]:
    """Return the axes that vary: the batch and, unless fixed, the sides."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if size is None:
        spatial = x.ndim - 2
        axes |= {axis: torch.export.Dim(name) for axis, name in enumerate(AXES[-spatial:], 2)}
    return (axes,)
