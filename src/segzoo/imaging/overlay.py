"""Pictures of masks on their image, or on the slices of their volume."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.imaging import strips
from segzoo.imaging.geometry import Geometry, axes_between

# one colour a class, told apart by most colour-blind readers too (Okabe and Ito's palette)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
SHEET_COLUMNS, SHEET_ROWS, PANEL_PIXELS, GAP_PIXELS = 4, 3, 224, 2


# ---- draw


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray]) -> Image.Image:
    """Return an RGB picture of ``image`` (uint8 [H, W, C]) with each mask (bool [H, W]) tinted and outlined."""
    height, width = image.shape[:2]
    grey = image.shape[2] != 3
    picture = Image.new("RGB", (width, height))
    rows = max(1, strips.STRIP_PIXELS // width)  # drawn together: a large picture is not copied whole
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        around = slice(max(0, top - 1), top + rows + 1)  # outlines need a row more on either side
        inner = slice(top - around.start, top - around.start + rows)
        colours = np.repeat(image[strip, :, :1], 3, axis=2) if grey else image[strip].copy()
        for index, mask in enumerate(masks):
            colour = np.array(COLOURS[index % len(COLOURS)])
            inside = mask[strip]
            colours[inside] = (0.75 * colours[inside] + 0.25 * colour).astype(np.uint8)
            colours[outline(mask[around])[inner]] = colour
        picture.paste(Image.fromarray(colours), (0, top))
    return picture


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (bool [H, W]) that touch what is outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def contact_sheet(volume: np.ndarray, masks: Sequence[np.ndarray], geometry: Geometry) -> Image.Image:
    """Return up to 12 slices of a volume [D, H, W] through what the masks (bool [D, H, W]) cover, or through all of it.

    Slices are cut across the axis of the largest spacing, axial where all are alike, and shown as radiologists hang
    them: the patient's right on the left, anterior or superior up. Pixels are square.
    """
    axes, flips = axes_between(geometry.orientation, "IPL")
    spacing = [geometry.spacing[axis] for axis in axes]
    across = max(range(3), key=lambda axis: spacing[axis] * (1.01 if axis == 0 else 1))

    def turned(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.flip(array.transpose(axes), tuple(flips)), across, 0)

    grey = turned(to_uint8(volume))
    covered = np.flatnonzero(np.any([turned(mask).any(axis=(1, 2)) for mask in masks], axis=0))
    first, last = (covered[0], covered[-1]) if covered.size else (0, len(grey) - 1)
    chosen = np.unique(np.linspace(first, last, SHEET_COLUMNS * SHEET_ROWS).round().astype(int))
    shown = [turned(mask)[chosen] for mask in masks]  # once more: all masks at once may not find room

    del spacing[across]
    extent = [side * length for side, length in zip(grey.shape[1:], spacing, strict=True)]
    height, width = (max(1, round(PANEL_PIXELS * length / max(extent))) for length in extent)
    pixels = np.ix_(np.arange(height) * grey.shape[1] // height, np.arange(width) * grey.shape[2] // width)
    columns = min(SHEET_COLUMNS, len(chosen))
    right, down = width + GAP_PIXELS, height + GAP_PIXELS
    sheet = Image.new("RGB", (columns * right - GAP_PIXELS, -(-len(chosen) // columns) * down - GAP_PIXELS), "white")
    for place, index in enumerate(chosen):
        panel = draw_overlay(grey[index][pixels][..., None], [mask[place][pixels] for mask in shown])
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
