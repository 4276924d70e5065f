"""Post-processing: from a segmentation to another mask, such as its largest component alone.

What belongs to a checkpoint is described in its config.json (see `segzoo.postprocessing`) and applied with it. Named
steps come after that, and none unless it is asked for: a package adds one by an entry point of the group
``segzoo.postprocessing``.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import MissingError, SegzooError
from segzoo.extensions import Table
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.measure import bounding_box
from segzoo.imaging.segmentation import Segmentation
from segzoo.postprocessing import Cleaning, Postprocessing
from segzoo.tasks import Task

Array: TypeAlias = npt.NDArray[Any]
# from mask, probabilities, class names and grid to a mask of the same shape and type
Step: TypeAlias = Callable[[Segmentation], np.ndarray]

POSTPROCESSING: Table[Step] = Table("postprocessing", {})
PART = 2**22  # probabilities that a temperature is applied to at once


# ---- what belongs to a checkpoint


class Finishing:
    """Way from probabilities to a checkpoint's mask: thresholds, then what is done to each class in turn.

    Args:
        described: by the checkpoint.
        task: number and kind of the classes.
        class_names: of the mask's values, or of its channels.
        spatial_dims: of the network; what one for images finds in a volume is cleaned slice by slice, as it was found.

    Attributes:
        thresholds: float32 [K], one a channel of the probabilities; None where all are even.

    Example:
        >>> import numpy as np
        >>> from segzoo.postprocessing import Cleaning, Postprocessing
        >>> from segzoo.prediction.postprocess import Finishing
        >>> from segzoo.tasks import Task
        >>> described = Postprocessing({"lesion": Cleaning(threshold=0.4, largest_component=True)})
        >>> finishing = Finishing(described, Task(1), ("background", "lesion"), spatial_dims=2)
        >>> probabilities = np.array([[[0.9, 0.45, 0.1, 0.7]]], np.float32)
        >>> finishing.clean(finishing.mask(probabilities[None])[0].astype(np.uint8))
        array([[1, 1, 0, 0]], dtype=uint8)
    """

    def __init__(self, described: Postprocessing, task: Task, class_names: Sequence[str], spatial_dims: int) -> None:
        self.described, self.task, self.class_names = described, task, tuple(class_names)
        self.spatial_dims = spatial_dims
        thresholds = described.thresholds(task, class_names)
        self.thresholds = None if thresholds is None else np.array(thresholds, np.float32)

    def given_out(self, probabilities: Array) -> Array:
        """Return the probabilities [B, K, *S] that are given out, of those that the mask is made of."""
        if not self.described.changes_probabilities:
            return probabilities
        found = np.empty_like(probabilities)
        rows = max(1, PART // max(1, probabilities[:, :, :1].size))
        for start in range(0, probabilities.shape[2], rows):
            place = np.s_[:, :, start : start + rows]
            found[place] = self.task.tempered(probabilities[place], self.described.temperature)
        return found

    @property
    def steps(self) -> list[Step]:
        """Step that cleans a segmentation's mask, if there is anything to clean."""
        if not any(cleaning.cleans for cleaning in self.described.classes.values()):
            return []
        return [self.step]

    def step(self, found: Segmentation) -> Array:
        """Return the mask of a segmentation, cleaned."""
        return self.clean(found.mask, found.geometry)

    def mask(self, probabilities: Array) -> Array:
        """Return the mask of probabilities [B, K, *S], before it is cleaned, as `Task.mask` does."""
        found: Array = self.task.mask(probabilities, self.thresholds)
        return found

    def clean(self, mask: Array, geometry: Geometry | None = None, scale: float = 1) -> Array:
        """Return a mask with what is done to each class done.

        Args:
            mask: integers [*S], in multi-label [K, *S].
            geometry: says how large a volume's voxels are.
            scale: pixels of the input's own grid to one of this mask's, where that lies on another.

        Raises:
            SegzooError: a size is given in millimetres, and nothing says how large a pixel is.
        """
        mask = mask.copy()
        first = self.task.first_foreground
        for number, cleaning in enumerate(self.described.of(self.class_names)[first:], start=first):
            if cleaning.cleans:
                pixel = scale * self.pixel(cleaning, geometry)
                for place in self.pieces(mask, number):
                    clean_class(place, 1 if self.task.multilabel else number, cleaning, pixel)
        return mask

    def pieces(self, mask: Array, number: int) -> list[Array]:
        """Return views of a mask that are cleaned by themselves: all of it, or the slices of a volume."""
        own = mask[number] if self.task.multilabel else mask
        return [own] if own.ndim == self.spatial_dims else list(own)

    def pixel(self, cleaning: Cleaning, geometry: Geometry | None) -> float:
        """Return how large a pixel or voxel is, in the unit of a class's sizes."""
        if cleaning.unit == "pixels" or not cleaning.smallest_part:
            return 1
        if geometry is None:
            raise SegzooError(
                f"its post-processing leaves out parts below {cleaning.smallest_part:g} {cleaning.unit}, and nothing "
                "says how large its pixels are; give an input with a spacing, or take the mask as it is by --raw"
            )
        return math.prod(geometry.spacing[-self.spatial_dims :])


# ---- one class


def clean_class(mask: Array, value: int, cleaning: Cleaning, pixel: float) -> None:
    """Clean a class, in place: what is taken away becomes 0, and only what is 0 is filled.

    Args:
        mask: integers [*S].
        value: of the class.
        cleaning: what is done.
        pixel: size of one, in the unit of the cleaning.
    """
    box = bounding_box(mask == value)
    if box is None:
        return
    mask = mask[box]
    if cleaning.filled_holes:
        mask[holes(mask == value) & (mask == 0)] = value
    if cleaning.smallest_part:
        found, sizes = components(mask == value)
        mask[(sizes * pixel < cleaning.smallest_part)[found] & (found > 0)] = 0
    if cleaning.largest_component:
        found, sizes = components(mask == value)
        if len(sizes) > 1:
            mask[(found > 0) & (found != 1 + sizes[1:].argmax())] = 0


def components(marked: Array) -> tuple[Array, Array]:
    """Return the connected parts of a mask [*S], numbered from 1 and joined where corners touch, and their sizes.

    Of parts of one size the first in the mask has the lowest number.
    """
    found = labelled(marked, corners=True)
    return found, np.bincount(found.ravel())


def holes(marked: Array) -> Array:
    """Return what a mask [*S] encloses: what no way, by the sides of pixels, leads out of."""
    outside = labelled(np.pad(~marked, 1, constant_values=True), corners=False)
    inner = (slice(1, -1),) * marked.ndim
    enclosed: Array = (outside != outside.flat[0])[inner] & ~marked
    return enclosed


def labelled(marked: Array, corners: bool) -> Array:
    """Return the connected parts of a mask [*S], numbered from 1, joined by their sides or by corners as well."""
    from scipy.ndimage import generate_binary_structure, label  # takes a tenth of a second, and most masks need none

    limits.require_memory(6 * marked.size, "the connected parts of its mask")
    found: Array = label(marked, generate_binary_structure(marked.ndim, marked.ndim if corners else 1))[0]
    return found


# ---- steps by name


def chosen(steps: Sequence[str | Step]) -> list[Step]:
    """Return steps, those given by name from the table.

    Raises:
        MissingError: there is no step of this name.
    """
    for name in steps:
        if isinstance(name, str) and name not in list(POSTPROCESSING):
            known = ", ".join(POSTPROCESSING) or "there are none"
            raise MissingError(f"there is no post-processing step {name!r}; known: {known}")
    return [POSTPROCESSING[step] if isinstance(step, str) else step for step in steps]


def checked(step: Step, found: Segmentation) -> np.ndarray:
    """Return the mask that a step makes of a segmentation.

    Raises:
        SegzooError: it is of another shape or type than the one before.
    """
    mask = step(found)
    if mask.shape != found.mask.shape or mask.dtype != found.mask.dtype:
        name = getattr(step, "__name__", type(step).__name__)
        raise SegzooError(
            f"the post-processing step {name} makes a mask {mask.dtype} {list(mask.shape)} of one "
            f"{found.mask.dtype} {list(found.mask.shape)}; mend the step"
        )
    return mask
