"""Patches cut out of volumes, and the augmentation that nnU-Net published for them ("moreDA")."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from segzoo.data.samples import IGNORED
from segzoo.errors import SegzooError


def cut_patch(
    image: Tensor, label: Tensor, start: Sequence[int], size: Sequence[int], matrix: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cut the patch out of a volume that starts at a voxel, which may lie before the volume.

    Beyond the volume its border is repeated, as models do with what they pad, and the label is -1 (ignored). With a
    matrix the patch is turned and scaled about its centre, and read in one resampling straight from the volume, so that
    its corners show what is there: the image trilinear, the label nearest.

    Args:
        image: ``[C, D, H, W]``, floating point.
        label: ``[D, H, W]`` of integers.
        start: First voxel of the patch.
        size: ``(d, h, w)`` of the patch.
        matrix: ``[3, 3]`` from offsets in the patch to offsets in the volume, in voxels; None changes nothing.

    Returns:
        ``[C, d, h, w]`` and ``[d, h, w]``, of the dtypes they came in.
    """
    if matrix is None:
        box, missing = _overlap(start, size, label.shape)
        image, label = image[:, *box], label[box]
        if not any(missing):
            return image.clone(), label.clone()
        return F.pad(image[None], missing, mode="replicate")[0], F.pad(label, missing, value=IGNORED)
    extent = torch.tensor(size, dtype=torch.float64)
    centre = torch.tensor(start, dtype=torch.float64) + (extent - 1) / 2
    # only the box that the turned patch touches, so that the cost is the patch's and not the volume's
    reach = matrix.double().abs() @ (extent - 1) / 2
    first, last = (centre - reach).floor().long(), (centre + reach).ceil().long()
    box, _ = _overlap(first.tolist(), (last - first + 1).tolist(), label.shape)
    image, label = image[:, *box], label[box]
    corner = torch.tensor([axis.start for axis in box])
    sides = torch.tensor(label.shape)
    # affine_grid and grid_sample count in halves of an extent from its middle, and their axes run backwards
    linear = matrix.double() * extent / sides[:, None]
    offset = (2 * (centre - corner) + 1) / sides - 1
    theta = torch.cat([linear.flip(0, 1), offset.flip(0)[:, None]], dim=1).float()
    grid = F.affine_grid(theta[None], [1, 1, *size], align_corners=False)
    resampled = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    shifted = label[None, None].float() - IGNORED  # for what grid_sample reads outside is 0
    nearest = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[0, 0] + IGNORED
    return resampled, nearest.to(label.dtype)


def _overlap(start: Sequence[int], size: Sequence[int], volume: Sequence[int]) -> tuple[tuple[slice, ...], list[int]]:
    """Find where a box overlaps a volume (in one voxel at least), and what F.pad would add to make it whole."""
    box: list[slice] = []
    missing: list[int] = []
    for first, length, side in zip(start, size, volume, strict=True):
        low = min(max(first, 0), side - 1)
        high = max(min(first + length, side), low + 1)
        box.append(slice(low, high))
        missing = [low - first, first + length - high, *missing]  # F.pad counts from the last axis
    return tuple(box), missing


class VolumeAugmentation:
    """nnU-Net's augmentation as MedNeXt trains with it (Isensee et al. 2021; "moreDA" without elastic deformation).

    In this order: rotation about all three axes and scaling, in one resampling; Gaussian noise, blur, brightness,
    contrast, simulated low resolution, inverted gamma and gamma; mirroring. Every random number follows torch's
    generator. Of several channels the published code draws some of these for each on its own; here all share them.

    Mirroring an axis takes away what the network could learn from position along it. That is as published, and what
    test-time augmentation (which mirrors the same axes) asks for; where ends of an axis are classes of their own, as
    are the anterior and the posterior hippocampus, leaving that axis out learns faster.

    Args:
        rotation: Largest angle about each axis, in degrees either way.
        scaling: Smallest and largest extent of what is read, relative to the patch: below 1 enlarges.
        probability: Probability that a patch is rotated, and likewise that it is scaled.
        in_plane: Rotate about D alone and scale H and W alone, as nnU-Net does where slices are much thicker than their
            pixels.
        mirror_axes: Axes (0 is D, 1 is H, 2 is W) that are each mirrored in half of all patches.
        intensity: Change intensities, too.

    Raises:
        SegzooError: If a number is out of range.

    Example:
        >>> import torch
        >>> from segzoo.data import VolumeAugmentation
        >>> augmentation = VolumeAugmentation(mirror_axes=(0,), intensity=False)
        >>> image, label = augmentation(torch.rand(1, 8, 8, 8), torch.zeros(8, 8, 8, dtype=torch.long))
        >>> image.shape, label.shape
        (torch.Size([1, 8, 8, 8]), torch.Size([8, 8, 8]))
        >>> matrix = VolumeAugmentation(probability=1.0).draw_matrix(spacing=(1.0, 1.0, 1.0))  # rotation and scaling
        >>> matrix.shape
        torch.Size([3, 3])
    """

    def __init__(
        self,
        *,
        rotation: float = 30.0,
        scaling: tuple[float, float] = (0.7, 1.4),
        probability: float = 0.2,
        in_plane: bool = False,
        mirror_axes: tuple[int, ...] = (0, 1, 2),
        intensity: bool = True,
    ) -> None:
        if rotation < 0 or len(scaling) != 2 or not 0 < scaling[0] <= scaling[1] or not 0 <= probability <= 1:
            raise SegzooError(
                "augmentation takes a rotation of at least 0 degrees, a scaling (smallest, largest) above 0 and a "
                f"probability of 0 to 1, not {rotation}, {scaling} and {probability}."
            )
        if not set(mirror_axes) <= {0, 1, 2}:
            raise SegzooError(f"augmentation mirrors axes among 0, 1 and 2, not {list(mirror_axes)}.")
        self.rotation = rotation
        self.scaling = scaling
        self.probability = probability
        self.in_plane = in_plane
        self.mirror_axes = tuple(mirror_axes)
        self.intensity = intensity
        self._intensity: Callable[[Tensor], Tensor] | None = None

    def draw_matrix(self, spacing: Sequence[float]) -> Tensor | None:
        """Draw a random rotation and scaling for `cut_patch`, or None where this patch gets neither.

        Args:
            spacing: mm of a voxel along each axis: angles are those of the body, not of the voxel grid.
        """
        turned, scaled = (torch.rand(2) < self.probability).tolist()
        if not (turned and self.rotation) and not (scaled and self.scaling != (1, 1)):
            return None
        matrix = torch.eye(3, dtype=torch.float64)
        if turned:
            steps = torch.tensor(spacing, dtype=torch.float64)
            angles = (torch.rand(3) * 2 - 1).mul(math.radians(self.rotation)).tolist()
            for axis in (0,) if self.in_plane else (0, 1, 2):
                matrix = matrix @ rotation_about(axis, angles[axis])
            matrix = matrix * steps / steps[:, None]
        if scaled:
            low, high = self.scaling
            which, where = torch.rand(2).tolist()
            if low < 1 < high:  # as many are enlarged as are shrunk
                low, high = (low, 1.0) if which < 0.5 else (1.0, high)
            matrix[1 if self.in_plane else 0 :] *= low + where * (high - low)
        return matrix

    def __call__(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Change the intensities of a patch, and mirror it.

        Args:
            image: float32 ``[C, d, h, w]``, normalised.
            label: ``[d, h, w]``.

        Returns:
            Both, new; the label only mirrored.
        """
        if self.intensity:
            image = self._change_intensities(image)
        chosen = torch.rand(len(self.mirror_axes)).tolist()
        axes = [axis - 3 for axis, draw in zip(self.mirror_axes, chosen, strict=True) if draw < 0.5]
        return (image.flip(axes), label.flip(axes)) if axes else (image, label)

    def _change_intensities(self, image: Tensor) -> Tensor:
        if self._intensity is None:
            self._intensity = published_intensities()
        seed = int(torch.randint(2**31, ()))  # MONAI has generators of its own: they start anew from torch's
        self._intensity.set_random_state(seed=seed)  # type: ignore[attr-defined]
        changed = self._intensity(image)
        return changed.as_tensor() if hasattr(changed, "as_tensor") else changed


def rotation_about(axis: int, angle: float) -> Tensor:
    """Return the rotation ``[3, 3]`` (float64) about one of three axes, by an angle in radians."""
    first, second = (other for other in range(3) if other != axis)
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def published_intensities() -> Callable[[Tensor], Tensor]:
    """Build MONAI's forms of nnU-Net's changes of intensity, with the published ranges and probabilities."""
    from monai import transforms  # takes seconds to import

    # blur and low resolution are published with 0.2 and 0.25 for an image, and then 0.5 for a channel of it
    sigma = (0.5, 1.0)
    return transforms.Compose(
        [
            transforms.RandGaussianNoise(prob=0.1, std=0.1),
            transforms.RandGaussianSmooth(sigma, sigma, sigma, prob=0.2 * 0.5),
            transforms.RandScaleIntensity(factors=0.25, prob=0.15),
            transforms.RandScaleIntensityFixedMean(factors=0.25, prob=0.15, preserve_range=True),
            transforms.RandSimulateLowResolution(zoom_range=(0.5, 1.0), prob=0.25 * 0.5),
            transforms.RandAdjustContrast(gamma=(0.7, 1.5), prob=0.1, invert_image=True, retain_stats=True),
            transforms.RandAdjustContrast(gamma=(0.7, 1.5), prob=0.3, retain_stats=True),
        ]
    )
