"""From an image or a volume as it is on disk to a mask on the same grid."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segzoo.errors import SegzooError
from segzoo.io import as_image, read_image, write_mask
from segzoo.preprocessing import Preprocessing
from segzoo.volume_preprocessing import VolumePreprocessing, axes_between
from segzoo.volumes import (
    VOLUME_SUFFIXES,
    Geometry,
    Volume,
    is_volume,
    read_volume,
    volume_stem,
    volume_suffix,
    write_volume_mask,
)

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

# one colour a class, told apart by most colour-blind readers too (Okabe and Ito's palette)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))

BATCH_VOXELS = 128**3  # on a GPU, small windows run together until they hold as many; a CPU gains nothing by it
BATCH_SLICES = 8
SHEET_COLUMNS, SHEET_ROWS, PANEL_PIXELS, GAP_PIXELS = 4, 3, 224, 2


@dataclass  # not frozen: Trainer.predict takes no frozen ones
class Segmentation:
    """What a model sees in one image or volume, on its own grid.

    Attributes:
        mask: integers [H, W] or [D, H, W], indices into ``class_names``; multi-label: 0 or 1 [K, H, W] or
            [K, D, H, W].
        probabilities: float32 [K, H, W] or [K, D, H, W], K the model's num_classes (1 for binary).
        class_names: name of every mask value, or of every channel for multi-label.
        image: the image itself, uint8 [H, W, C], or the volume's intensities, float32 [C, D, H, W], for the overlay;
            None where it is not at hand.
        geometry: where a volume's voxels lie; None for an image.
    """

    mask: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    image: np.ndarray | None = None
    geometry: Geometry | None = None

    @property
    def multilabel(self) -> bool:
        """Whether every class has a mask of its own."""
        return self.mask.ndim == self.probabilities.ndim

    def save(self, path: str | Path) -> None:
        """Write the mask as class indices (multi-label: one file a class, named after it).

        Args:
            path: of an image's mask, written as PNG; of a volume's, in the format that its suffix says: .nii.gz, .nii,
                .nrrd or .mha, with the volume's own affine.

        Raises:
            SegzooError: the suffix of a volume's mask is another one.
        """
        path = Path(path)
        stem, suffix = (path.stem, path.suffix) if self.geometry is None else (volume_stem(path), volume_suffix(path))
        if not self.multilabel:
            self._write(path, self.mask)
            return
        for name, mask in zip(self.class_names, self.mask, strict=True):
            self._write(path.with_name(f"{stem}_{name.replace(' ', '-')}{suffix}"), mask)

    def _write(self, path: Path, mask: np.ndarray) -> None:
        if self.geometry is None:
            write_mask(path, mask)
        else:
            write_volume_mask(path, mask, self.geometry)

    def overlay(self) -> Image.Image:
        """The image, or a sheet of the volume's slices, with every class tinted and outlined in its colour."""
        if self.image is None:
            raise SegzooError("this segmentation does not hold its image, so there is nothing to draw on")
        if self.geometry is None:
            return draw_overlay(self.image, self.class_masks())
        return contact_sheet(self.image[0], self.class_masks(), self.geometry)

    def class_masks(self) -> list[np.ndarray]:
        """A boolean [H, W] or [D, H, W] for every class but the background."""
        if self.multilabel:
            return [mask.astype(bool) for mask in self.mask]
        return [self.mask == index for index in range(1, len(self.class_names))]

    def foreground_names(self) -> tuple[str, ...]:
        """The names that belong to :meth:`class_masks`."""
        return self.class_names if self.multilabel else self.class_names[1:]


# ---- predict


def predict(
    model: "SegmentationModule",
    image: "str | Path | Image.Image | np.ndarray | Tensor | Volume",
    *,
    tta: bool = False,
    overlap: float = 0.5,
) -> Segmentation:
    """Segment one image or volume with its model's own preprocessing; see :meth:`SegmentationModule.predict`.

    The network runs in its deployed form on its own device: over an image at the size it was trained for, over a
    volume window by window, and, where it is a network for images, slice by slice along a volume's first axis.
    """
    given = read_input(model.preprocessing, image)
    network = model.deploy() if model.is_deployable else model
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            if isinstance(given, Volume):
                restored = volume_probabilities(network, given, overlap, tta)
            else:
                restored = image_probabilities(network, given, tta)
            mask = network.mask(restored)[0].numpy()
    finally:
        network.train(was_training)
    return Segmentation(
        mask.astype(np.uint8 if len(model.class_names) <= 256 else np.int32),
        restored[0].float().numpy(),
        model.class_names,
        given.array if isinstance(given, Volume) else given,
        given.geometry if isinstance(given, Volume) else None,
    )


def read_input(
    preprocessing: Preprocessing | VolumePreprocessing, image: "str | Path | Image.Image | np.ndarray | Tensor | Volume"
) -> npt.NDArray[np.uint8] | Volume:
    """An image [H, W, C] or a volume, whatever ``predict`` was given.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or it is an image where the model takes volumes.
    """
    channels = preprocessing.channels
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path) and is_volume(image):
        # the slices of a volume are grey, also to a model that takes RGB
        return read_volume(image, 1 if preprocessing.spatial_dims == 2 and channels == 3 else channels)
    if isinstance(image, str | Path | Image.Image):
        if preprocessing.spatial_dims == 3:
            what = "a picture" if isinstance(image, Image.Image) else image
            raise SegzooError(f"This model segments volumes ({', '.join(VOLUME_SUFFIXES)}), and {what} is none.")
        return as_image(image, channels) if isinstance(image, Image.Image) else read_image(image, channels)
    if preprocessing.spatial_dims == 3 or np.ndim(image) == 4:
        return as_volume(preprocessing, image)
    return as_image(image, channels)


def as_volume(preprocessing: Preprocessing | VolumePreprocessing, values: np.ndarray | Tensor) -> Volume:
    """A volume [D, H, W] or [C, D, H, W] in memory, taken to lie as the model wants it."""
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise SegzooError(
            f"A volume must be numbers of shape [D, H, W] or [C, D, H, W], not {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    array = array.astype(np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise SegzooError("The volume holds NaN or infinite voxels.")
    if isinstance(preprocessing, VolumePreprocessing):
        spacing = preprocessing.spacing or (1.0, 1.0, 1.0)
        return Volume(array, Geometry.along_axes(array.shape[1:], spacing, preprocessing.orientation))
    return Volume(array, Geometry.along_axes(array.shape[1:]))


def image_probabilities(network: "SegmentationModule", image: npt.NDArray[np.uint8], tta: bool) -> Tensor:
    """Probabilities [1, K, H, W] on an image's own grid."""
    preprocessing = network.preprocessing
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    probabilities = predict_probabilities(network, preprocessing(image)[None], tta=tta)
    return preprocessing.restore(probabilities, image.shape[:2])


def volume_probabilities(network: "SegmentationModule", volume: Volume, overlap: float, tta: bool) -> Tensor:
    """Probabilities [1, K, D, H, W] on a volume's own grid."""
    preprocessing = network.preprocessing
    if isinstance(preprocessing, VolumePreprocessing):
        batch = preprocessing(volume)[None]
        progress = sys.stderr.isatty()
        probabilities = predict_probabilities(network, batch, overlap=overlap, tta=tta, progress=progress)
        return preprocessing.restore(probabilities, volume.geometry)
    depth, height, width = volume.geometry.shape
    intensities = to_uint8(volume.array)
    restored = torch.empty(1, network.num_classes, depth, height, width)
    for start in tqdm(range(0, depth, BATCH_SLICES), disable=None):  # None: shown on a terminal
        slices = intensities[:, start : start + BATCH_SLICES].transpose(1, 2, 3, 0)
        batch = torch.stack([preprocessing(as_image(one, preprocessing.channels)) for one in slices])
        found = preprocessing.restore(predict_probabilities(network, batch, tta=tta), (height, width))
        restored[0, :, start : start + BATCH_SLICES] = found.movedim(0, 1)
    return restored


def to_uint8(intensities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Intensities as 0..255, from the 0.5th to the 99.5th percentile (where those are equal, from end to end)."""
    low, high = np.percentile(intensities, (0.5, 99.5))
    if low == high:
        low, high = intensities.min(), intensities.max()
    if low == high:
        return np.zeros(intensities.shape, np.uint8)
    scaled = np.clip(intensities, low, high)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.round(scaled, out=scaled).astype(np.uint8)


def predict_probabilities(
    network: "SegmentationModule",
    batch: Tensor,
    *,
    overlap: float = 0.5,
    tta: bool = False,
    progress: bool = False,
) -> Tensor:
    """Probabilities of a preprocessed batch, in one piece or by a sliding window.

    Windows have the contract's patch size, or the batch's own along axes where that is smaller. They weigh most at
    their centre (a Gaussian, its standard deviation an eighth of the window) and are averaged after the activation, as
    in nnU-Net. Each runs on the network's device and is put in place on the CPU, so that the memory needed beyond the
    result does not depend on how many there are.

    Args:
        network: in eval mode.
        batch: ``[B, C, *S]`` on any device.
        overlap: part of its length that a window shares with the next one along each axis, at least 0 and below 1.
        tta: average each window over its mirrorings along the contract's ``mirror_axes``.
        progress: show a bar on stderr that counts the batches of windows.

    Returns:
        ``[B, K, *S]`` on the CPU.

    Raises:
        SegzooError: ``overlap`` is out of range.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")
    parameter = next(network.parameters())

    def run(window: Tensor) -> Tensor:
        window = window.to(parameter)  # its device and dtype
        return mirror_averaged(network, window) if tta else network.activate(network(window))

    size = tuple(batch.shape[2:])
    patch = network.preprocessing.patch_size or size
    window = tuple(min(sides) for sides in zip(patch, size, strict=True))
    if window == size:
        return run(batch).cpu()
    from monai.inferers.utils import sliding_window_inference

    stitched = sliding_window_inference(
        batch.float(),  # in which windows are added up
        window,
        1 if parameter.device.type == "cpu" else max(1, BATCH_VOXELS // math.prod(window)),
        run,
        overlap=overlap,
        roi_weight_map=window_weights(window),  # MONAI's own is flat far from the centre along more than one axis
        sw_device=parameter.device,
        device="cpu",
        progress=progress,
    )
    assert isinstance(stitched, Tensor)  # as is what run gives
    return stitched


def window_weights(size: Sequence[int]) -> Tensor:
    """A Gaussian over a window, 1 at its centre, its standard deviation an eighth of each side."""
    weights = torch.ones(())
    for side in size:
        offset = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-((offset / (side / 8)) ** 2) / 2)
    return weights


def mirror_averaged(network: "SegmentationModule", batch: Tensor) -> Tensor:
    """Mean probabilities over all mirrorings along the axes of the contract, each mirrored back."""
    axes = [2 + axis for axis in network.preprocessing.mirror_axes]
    subsets = [[axis for bit, axis in enumerate(axes) if code >> bit & 1] for code in range(2 ** len(axes))]
    total = network.activate(network(batch))
    for subset in subsets[1:]:
        total = total.add_(network.activate(network(batch.flip(subset))).flip(subset))
    return total.div_(len(subsets))


# ---- draw


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray]) -> Image.Image:
    """An RGB picture of ``image`` (uint8 [H, W, C]) with each mask (bool [H, W]) tinted and outlined."""
    grey = image.shape[2] != 3
    picture = np.repeat(image[:, :, :1], 3, axis=2) if grey else image.copy()
    for index, mask in enumerate(masks):
        colour = np.array(COLOURS[index % len(COLOURS)])
        picture[mask] = (0.75 * picture[mask] + 0.25 * colour).astype(np.uint8)
        picture[outline(mask)] = colour
    return Image.fromarray(picture)


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (bool [H, W]) that touch what is outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def contact_sheet(volume: np.ndarray, masks: Sequence[np.ndarray], geometry: Geometry) -> Image.Image:
    """Up to 12 slices of a volume [D, H, W] through what the masks (bool [D, H, W]) cover, or through all of it.

    Slices are cut across the axis of the largest spacing, axial where all are alike, and shown as radiologists hang
    them: the patient's right on the left, anterior or superior up. Pixels are square.
    """
    axes, flips = axes_between(geometry.orientation, "IPL")
    spacing = [geometry.spacing[axis] for axis in axes]
    across = max(range(3), key=lambda axis: spacing[axis] * (1.01 if axis == 0 else 1))
    grey, *masks = (
        np.moveaxis(np.flip(array.transpose(axes), tuple(flips)), across, 0) for array in (to_uint8(volume), *masks)
    )
    covered = np.flatnonzero(np.any([mask.any(axis=(1, 2)) for mask in masks], axis=0))
    first, last = (covered[0], covered[-1]) if covered.size else (0, len(grey) - 1)
    chosen = np.unique(np.linspace(first, last, SHEET_COLUMNS * SHEET_ROWS).round().astype(int))

    del spacing[across]
    extent = [side * length for side, length in zip(grey.shape[1:], spacing, strict=True)]
    height, width = (max(1, round(PANEL_PIXELS * length / max(extent))) for length in extent)
    pixels = np.ix_(np.arange(height) * grey.shape[1] // height, np.arange(width) * grey.shape[2] // width)
    columns = min(SHEET_COLUMNS, len(chosen))
    right, down = width + GAP_PIXELS, height + GAP_PIXELS
    sheet = Image.new("RGB", (columns * right - GAP_PIXELS, -(-len(chosen) // columns) * down - GAP_PIXELS), "white")
    for place, index in enumerate(chosen):
        panel = draw_overlay(grey[index][pixels][..., None], [mask[index][pixels] for mask in masks])
        sheet.paste(panel, (place % columns * right, place // columns * down))
    return sheet
