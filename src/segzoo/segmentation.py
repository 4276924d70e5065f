"""What a model sees in an image or a volume: masks, their files and their picture. Needs neither torch nor a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.geometry import Geometry, axes_between
from segzoo.io import write_mask
from segzoo.volumes import is_volume, volume_stem, volume_suffix, write_volume_mask

# one colour a class, told apart by most colour-blind readers too (Okabe and Ito's palette)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
SEPARATORS = r"[ /\\]"  # in classes' names, which become file names
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

    def save(self, path: str | Path, *, note: str = "") -> None:
        """Write the mask as class indices (multi-label: one file a class, named after it).

        Args:
            path: of an image's mask, written as PNG; of a volume's, in the format that its suffix says: .nii.gz, .nii,
                .nrrd or .mha, with the volume's own affine.
            note: up to 79 characters to keep in the file's header.

        Raises:
            SegzooError: the suffix of a volume's mask is another one, or two classes would be one file.
        """
        require_own_files(self.class_names if self.multilabel else ())
        masks = self.mask if self.multilabel else [self.mask]
        paths = mask_paths(Path(path), self.class_names if self.multilabel else None)
        for file, mask in zip(paths, masks, strict=True):
            if self.geometry is None:
                write_mask(file, mask, note)
            else:
                write_volume_mask(file, mask, self.geometry, note)

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


def mask_paths(path: Path, channels: Sequence[str] | None) -> list[Path]:
    """The files that a segmentation is saved in.

    Args:
        path: as given to :meth:`Segmentation.save`.
        channels: the classes' names for multi-label, else None.
    """
    if channels is None:
        return [path]
    stem, suffix = (volume_stem(path), volume_suffix(path)) if is_volume(path) else (path.stem, path.suffix)
    return [path.with_name(f"{stem}_{re.sub(SEPARATORS, '-', name)}{suffix}") for name in channels]


def require_own_files(channels: Sequence[str]) -> None:
    """Refuse classes of which two would be saved in one file.

    Args:
        channels: their names, for multi-label.

    Raises:
        SegzooError: saying so.
    """
    files = mask_paths(Path("mask.png"), channels)
    if len(set(files)) < len(files):
        raise SegzooError(
            f"the classes {', '.join(channels)} cannot have a file each, as blanks and slashes become '-' in its name; "
            "give them other class_names"
        )


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
