"""A post-processing step: a function from a segmentation to another mask of its shape and type."""

import numpy as np
from scipy.ndimage import label

from segzoo import Segmentation


def largest_component(found: Segmentation) -> np.ndarray:
    """Return the mask with the largest connected component of each class alone."""
    mask = found.mask.copy()
    for value in range(1, len(found.class_names)):
        parts, count = label(found.mask == value)
        if count > 1:
            sizes = np.bincount(parts.ravel())
            mask[(parts > 0) & (parts != 1 + sizes[1:].argmax())] = 0
    return mask
