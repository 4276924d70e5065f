"""Sizes of a training from its data and the memory that there is, by nnU-Net's rules of thumb.

F. Isensee et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature
Methods 18 (2021) 203-211. Its rules: see whole objects at the resolution that most images have, in batches of at least
two, as far as memory allows; halve no axis below four voxels, nor one whose voxels are thicker than the others'.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MOST_IMAGE, MOST_IMAGE_SLOW, MOST_PATCH = 512**2, 256**2, 128**3  # pixels and voxels of an input
MOST_BATCH = 8  # the recipes' learning rates were made for batches of 2 to 8
SHARE_OF_DATA = 0.05  # of all voxels, in one batch at most
THICK = 3  # times as thick as the others: of such an axis, the finer spacing is kept
UNEQUAL = 8  # sides of a volume in mm that differ by more: the header does not know the distance of its slices
SMALLEST = 4  # voxels of an axis after its last halving

Strides = list[list[int]]


@dataclass(frozen=True)
class Network:
    """Demands of a network on its input.

    Args:
        stride: sides are multiples of these.
        weight_bytes: that training takes whatever the input.
        pixel_bytes: and for each pixel or voxel of a batch.
        halvings: how many of its blocks may halve each axis or not, as the data has it; 0: its strides are fixed.
    """

    stride: tuple[int, ...]
    weight_bytes: int
    pixel_bytes: float
    halvings: int = 0


@dataclass
class Plan:
    """Sizes of a training, and why.

    Attributes:
        data: options of the dataset.
        strides: of the network; None: its own.
        reasons: a sentence for each of them.
    """

    data: dict[str, Any] = field(default_factory=dict)
    strides: Strides | None = None
    reasons: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, reason: str) -> None:
        """Decide an option of the dataset, and say why."""
        self.data[name] = value
        self.reasons.append(f"{name} {said(value)}: {reason}")


def plan_images(
    sizes: Sequence[tuple[int, ...]],
    network: Network,
    memory: int,
    slow: bool,
    *,
    image_size: tuple[int, ...] | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Plan a training on images, by their shapes alone.

    Args:
        sizes: Height and width of each training image.
        network: That is trained.
        memory: Bytes that there are for it.
        slow: There is no GPU.
        image_size: Where it is given, or that of a checkpoint.
        batch_size: Where it is given.

    Example:
        >>> from segzoo.data.planning import Network, plan_images
        >>> plan = plan_images([(300, 400)] * 30, Network((32, 32), 0, 1000), memory=2**30, slow=False)
        >>> plan.data
        {'image_size': (288, 416), 'batch_size': 8}
    """
    plan, most = Plan(), MOST_IMAGE_SLOW if slow else MOST_IMAGE
    if image_size is None:
        median = tuple(int(side) for side in np.median(np.array(sizes), axis=0))
        factor = min(1.0, math.sqrt(most / math.prod(median)))
        image_size = nearest([side * factor for side in median], network.stride)
        reason = f"the median of {len(sizes)} images is {said(median)}"
        if factor < 1:
            reason += f", more than the {round(math.sqrt(most))} x {round(math.sqrt(most))} pixels that "
            reason += "a machine without a GPU gets through in time" if slow else "a network sees at most"
        while fitting_batch(image_size, network, memory) < (batch_size or 2) and image_size != network.stride:
            image_size = smaller(image_size, median, network.stride)
            reason += "" if reason.endswith("memory") else "; made smaller for the memory"
        plan.add("image_size", image_size, f"{reason}; sides are multiples of {said(network.stride)}")
    plan.reasons.append(own_strides(network))
    if batch_size is None:
        fitting = fitting_batch(image_size, network, memory)
        plan.add("batch_size", max(1, min(fitting, MOST_BATCH)), batch_reason(fitting, memory))
    return plan


def plan_volumes(
    shapes: Sequence[tuple[int, ...]],
    spacings: Sequence[tuple[float, ...]],
    network: Network,
    memory: int,
    *,
    resample: bool = True,
    spacing: tuple[float, ...] | None = None,
    patch_size: tuple[int, ...] | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Plan a training on volumes.

    Args:
        shapes: Voxels of each training volume, in the order of the network's axes.
        spacings: Millimetres between them.
        network: That is trained.
        memory: Bytes that there are for it.
        resample: To one spacing, where none is given.
        spacing: Where it is given, or that of a checkpoint.
        patch_size: Likewise.
        batch_size: Likewise.

    Example:
        >>> from segzoo.data.planning import Network, plan_volumes
        >>> network = Network((16, 16, 16), 0, 10_000, halvings=4)
        >>> plan = plan_volumes([(12, 200, 180)] * 40, [(10.0, 1.5, 1.5)] * 40, network, memory=2**33)
        >>> plan.data["patch_size"], plan.strides
        ((12, 192, 176), [[1, 2, 2], [1, 2, 2], [2, 2, 2], [1, 2, 2]])
    """
    plan, known = Plan(), spacing_known(shapes, spacings)
    if spacing is None and known and resample:
        spacing, reason = target_spacing(shapes, spacings)
        plan.add("spacing", spacing, reason)
    own = np.array(spacings)
    grids = np.array(shapes) if spacing is None else np.maximum(1, np.rint(np.array(shapes) * own / np.array(spacing)))
    median = tuple(int(side) for side in np.median(grids, axis=0))
    thickness = tuple(np.median(own, axis=0)) if known or spacing else tuple(max(median) / side for side in median)
    thickness = tuple(float(length) for length in (spacing or thickness))
    stride, strides = strides_of(patch_size or median, thickness, network)
    if patch_size is None:
        patch_size, reason = covering(median, stride), f"the median of {len(shapes)} volumes has {said(median)} voxels"
        reason += " at that spacing" if spacing else ""
        limit = limit_of(patch_size, network, memory, batch_size or 2)
        while limit is not None and patch_size != stride:
            cut = limit
            patch_size = smaller(patch_size, median, stride)
            stride, strides = strides_of(patch_size, thickness, network)
            patch_size = within(patch_size, stride)
            limit = limit_of(patch_size, network, memory, batch_size or 2)
            reason = f"{reason.partition(', cut')[0]}, cut down to {cut}"
        plan.add("patch_size", patch_size, f"{reason}; sides are multiples of {said(stride)}")
    plan.strides = strides
    if strides is None:
        plan.reasons.append(own_strides(network))
    else:
        thick = " x ".join(f"{length:.3g}" for length in thickness)
        source = "as the headers say" if known else "as the shapes say, for what the headers say cannot be"
        plan.reasons.append(
            f"strides {said_strides(strides)}: no axis is halved below {SMALLEST} voxels, nor while its voxels are "
            f"twice as thick as the others' ({thick}, {source})"
        )
    if batch_size is None:
        fitting = fitting_batch(patch_size, network, memory)
        of_data = int(SHARE_OF_DATA * grids.prod(axis=1).sum() / math.prod(patch_size))
        reason = batch_reason(fitting, memory)
        if of_data < min(fitting, MOST_BATCH):
            reason = f"a batch sees at most {SHARE_OF_DATA:.0%} of all voxels, or two patches"
        plan.add("batch_size", max(1, min(fitting, MOST_BATCH, max(2, of_data))), reason)
    return plan


# ---- rules


def spacing_known(shapes: Sequence[tuple[int, ...]], spacings: Sequence[tuple[float, ...]]) -> bool:
    """Tell whether headers state a spacing that can be: else the shapes alone say which axis has thick voxels."""
    lengths = np.median(np.array(shapes) * np.array(spacings), axis=0)
    return bool(lengths.max() <= UNEQUAL * lengths.min())


def target_spacing(
    shapes: Sequence[tuple[int, ...]], spacings: Sequence[tuple[float, ...]]
) -> tuple[tuple[float, ...], str]:
    """Return the spacing to resample to, and why: the median, of an axis of thick slices one of the finer ones."""
    found, sides = np.median(np.array(spacings), axis=0), np.median(np.array(shapes), axis=0)
    reason = f"the median of {len(spacings)} volumes"
    worst = int(found.argmax())
    others = [axis for axis in range(3) if axis != worst]
    if found[worst] > THICK * found[others].max() and THICK * sides[worst] < sides[others].min():
        finer = max(float(np.percentile(np.array(spacings)[:, worst], 10)), float(found[others].max()))
        reason += ", of the thick slices the tenth percentile" if finer < found[worst] else ""
        found[worst] = finer
    return tuple(round(float(length), 4) for length in found), reason


def strides_for(sides: Sequence[int], thickness: Sequence[float], halvings: int) -> Strides:
    """Return which axes each block halves."""
    strides: Strides = []
    left, thick = np.array(sides, float), np.array(thickness, float)
    for _ in range(halvings):
        able = left >= 2 * SMALLEST
        halved = able & (thick < 2 * thick[able].min()) if able.any() else able
        step = np.where(halved, 2, 1)
        strides.append(step.tolist())
        left, thick = left // step, thick * step
    return strides


def strides_of(
    sides: Sequence[int], thickness: Sequence[float], network: Network
) -> tuple[tuple[int, ...], Strides | None]:
    """Return what the sides of an input are multiples of, and the strides of a network that has no fixed ones."""
    if not network.halvings:
        return network.stride, None
    strides = strides_for(sides, thickness, network.halvings)
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True)), strides


def limit_of(patch_size: Sequence[int], network: Network, memory: int, batch: int) -> str | None:
    """Return what forbids a patch of this size, if anything does."""
    if fitting_batch(patch_size, network, memory) < batch:
        return f"what a batch of {batch} takes of the memory"
    return "the 128 x 128 x 128 voxels of the papers" if math.prod(patch_size) > MOST_PATCH else None


def fitting_batch(sides: Sequence[int], network: Network, memory: int) -> int:
    """Return how many inputs of this size fit into the memory."""
    return max(0, int((memory - network.weight_bytes) / (network.pixel_bytes * math.prod(sides))))


def own_strides(network: Network) -> str:
    """Say what a network halves that has strides of its own."""
    return f"strides {said(network.stride)} in all: the network's own"


def batch_reason(fitting: int, memory: int) -> str:
    """Say why a batch is as large as it is."""
    room = f"{max(1, fitting)} would fit into {memory / 2**30:.3g} GiB"
    return f"{room}, and the recipes were made for {MOST_BATCH} at most" if fitting > MOST_BATCH else room


def nearest(sides: Sequence[float], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the nearest sides that are multiples of the stride."""
    return tuple(max(1, int(side / step + 0.5)) * step for side, step in zip(sides, stride, strict=True))


def covering(sides: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the smallest sides of multiples of the stride that hold these."""
    return tuple(-(-side // step) * step for side, step in zip(sides, stride, strict=True))


def within(sides: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return the largest sides of multiples of the stride that are no longer than these."""
    return tuple(max(1, side // step) * step for side, step in zip(sides, stride, strict=True))


def smaller(sides: Sequence[int], median: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """Return sides of which the one that sees most of its axis, or else the longest, is a stride shorter."""
    able = [axis for axis, side in enumerate(sides) if side > stride[axis]]
    chosen = max(able, key=lambda axis: (min(1.0, sides[axis] / median[axis]), sides[axis]))
    return tuple(side - stride[axis] * (axis == chosen) for axis, side in enumerate(sides))


def said(value: Any) -> str:
    """Return sides in words, such as "256 x 320"."""
    return " x ".join(f"{side:g}" for side in value) if isinstance(value, tuple) else str(value)


def said_strides(strides: Strides) -> str:
    """Return strides in words, such as "1x2x2, 2x2x2"."""
    return ", ".join("x".join(map(str, step)) for step in strides)
