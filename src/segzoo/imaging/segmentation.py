"""Segmentations: masks, their files and their picture, without torch and without a model."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import write_mask
from segzoo.imaging.overlay import contact_sheet, draw_overlay
from segzoo.imaging.readers import reader_of
from segzoo.imaging.volumes import write_volume_mask

NOTEBOOK_PIXELS = 1024  # at most, of a side of what a notebook shows and stores
SEPARATORS = r"[ /\\]"  # in classes' names, which become file names


@dataclass  # not frozen: Trainer.predict takes no frozen ones
class Segmentation:
    """Mask and probabilities of one image or volume, on its own grid.

    Attributes:
        mask: integers [H, W] or [D, H, W], indices into ``class_names``; multi-label: 0 or 1 [K, H, W] or
            [K, D, H, W].
        probabilities: float32 [K, H, W] or [K, D, H, W], K the model's num_classes (1 for binary).
        class_names: name of every mask value, or of every channel for multi-label.
        image: the image itself, uint8 [H, W, C], or the volume's intensities, float32 [C, D, H, W], for the overlay;
            None where it is not at hand.
        geometry: where a volume's voxels lie; None for an image.
        region_values: the whole numbers that the classes of a multi-label mask are written as, into one file; see
            :class:`segzoo.tasks.Task`.
        doubts: scores that say whether to look at it first, by their names, 0 to 1; none where nobody asked.
        unlike: what of the input is unlike what the model was trained on, in words.

    Example:
        >>> import numpy as np
        >>> import segzoo
        >>> found = segzoo.from_pretrained("lv-unet-busi").predict(np.zeros((40, 60), np.uint8))
        >>> found.mask.shape, found.probabilities.shape, found.foreground_names()
        ((40, 60), (1, 40, 60), ('lesion',))
    """

    mask: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    image: np.ndarray | None = None
    geometry: Geometry | None = None
    region_values: tuple[int, ...] = ()
    doubts: dict[str, float] = field(default_factory=dict)
    unlike: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return its size and classes: a list of segmentations would print all of their arrays."""
        size = " x ".join(map(str, self.probabilities.shape[1:]))
        return f"<segzoo.Segmentation: {size}, {', '.join(self.class_names)}>"

    @property
    def doubt(self) -> float | None:
        """First of the scores that say whether to look at it first; None where nobody asked for one."""
        return next(iter(self.doubts.values()), None)

    @property
    def multilabel(self) -> bool:
        """True where every class has a mask of its own."""
        return self.mask.ndim == self.probabilities.ndim

    def save(self, path: str | Path, *, note: str = "") -> None:
        """Write the mask as class indices, or those of regions (else multi-label: one file a class, named after it).

        Args:
            path: of an image's mask, written as PNG; of a volume's, in the format that its suffix says: .nii.gz, .nii,
                .nrrd or .mha, with the volume's own affine.
            note: up to 47 characters to keep in the file's header, with a digest of the mask.

        Raises:
            SegzooError: the suffix of a volume's mask is another one, or two classes would be one file.
        """
        apart = self.multilabel and not self.region_values
        if apart:
            require_own_files(self.class_names)
        masks = self.mask if apart else [self.label_map()]
        paths = mask_paths(Path(path), self.class_names if apart else None)
        for file, mask in zip(paths, masks, strict=True):
            if self.geometry is None:
                write_mask(file, mask, note)
            else:
                write_volume_mask(file, mask, self.geometry, note)

    def label_map(self) -> np.ndarray:
        """Return the mask as one array of integers [H, W] or [D, H, W], where of each pixel one class is told.

        Of regions that is the value of the last one that holds the pixel, in the order of ``region_values``.

        Raises:
            SegzooError: the classes may overlap, and have no such values.
        """
        if not self.multilabel:
            return self.mask
        if not self.region_values:
            raise SegzooError("classes that may overlap have no values to be written as; take mask, one class a time")
        labels = np.zeros(self.mask.shape[1:], np.uint8 if max(self.region_values) < 256 else np.uint16)
        for region, value in zip(self.mask, self.region_values, strict=True):
            labels[region > 0] = value
        return labels

    def overlay(self) -> Image.Image:
        """Draw the image, or a sheet of the volume's slices, with every class tinted and outlined in its colour."""
        if self.image is None:
            raise SegzooError("this segmentation does not hold its image, so there is nothing to draw on")
        if self.geometry is None:
            return draw_overlay(self.image, ClassMasks(self))
        return contact_sheet(self.image[0], ClassMasks(self), self.geometry)

    def _repr_png_(self) -> bytes | None:
        """Return the overlay for a notebook, which asks for it by this name; None where there is no image."""
        if self.image is None:
            return None
        picture, file = self.overlay(), io.BytesIO()
        picture.thumbnail((NOTEBOOK_PIXELS, NOTEBOOK_PIXELS))
        picture.save(file, format="PNG")
        return file.getvalue()

    def class_masks(self) -> list[np.ndarray]:
        """Return a boolean [H, W] or [D, H, W] for every class but the background."""
        return [*ClassMasks(self)]

    def foreground_names(self) -> tuple[str, ...]:
        """Return the names that belong to :meth:`class_masks`."""
        return self.class_names if self.multilabel else self.class_names[1:]


class ClassMasks(Sequence[np.ndarray]):
    """Masks of :meth:`Segmentation.class_masks`, each made when it is asked for: all of a volume's take its room.

    Args:
        found: that they are of.
    """

    def __init__(self, found: Segmentation) -> None:
        self.found = found

    def __len__(self) -> int:
        return len(self.found.foreground_names())

    def __getitem__(self, index: Any) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if self.found.multilabel:
            return self.found.mask[index].astype(bool)
        return self.found.mask == 1 + index % len(self)


def mask_paths(path: Path, channels: Sequence[str] | None) -> list[Path]:
    """Return the files that a segmentation is saved in.

    Args:
        path: as given to :meth:`Segmentation.save`.
        channels: the classes' names for multi-label, else None.
    """
    if channels is None:
        return [path]
    stem = reader_of(path).stem
    suffix = path.name.removeprefix(stem)
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
