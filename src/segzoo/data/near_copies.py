"""Near copies among a user's own images: the same picture saved again, rescaled, or shifted by a pixel or two.

Each image becomes a small picture of its texture, and two are near copies where these correlate. Among the 4529 images
of the zoo's 2D datasets no other pairs do so as strongly. Crops, larger shifts and mirrored copies are not found;
benchmarks/near_copies.py looks for those, for hours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

SIDE = 16  # of a small picture
SIGMA = 1.0  # of the blur that texture is what remains beside, and twice that of what is made as strong as everywhere
ALIKE = 0.9  # correlation of near copies
_BLOCK = 512  # images that all others are compared with at once

Texture = npt.NDArray[np.float32]


def texture(image: npt.NDArray[np.uint8]) -> Texture:
    """Return an image's texture as a vector of length 1, or 0 where it has none.

    Args:
        image: ``[H, W, C]``.
    """
    grey = Image.fromarray(image[..., 0]) if image.shape[2] != 3 else Image.fromarray(image).convert("L")
    small = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    fine = small - gaussian_filter(small, SIGMA)
    even = fine / np.sqrt(gaussian_filter(fine * fine, 2 * SIGMA) + 1)
    even -= even.mean()
    length = float(np.linalg.norm(even))
    vector: Texture = (even / length if length else even).ravel()
    return vector


def copies_across(
    textures: Mapping[str, Texture], parts: Mapping[str, Sequence[str]], groups: Mapping[str, str]
) -> list[tuple[str, str]]:
    """List the images to validate or to test on that have a near copy in a part before theirs, each with one of them.

    Args:
        textures: Of images by their ids.
        parts: Ids of train, val and test.
        groups: Ids to groups, within which likeness is known.
    """
    found: dict[str, tuple[str, str]] = {}
    earlier = list(parts["train"])
    for part in ("val", "test"):
        seen = set(earlier)
        own = [one for one in parts[part] if one not in seen]
        others = _stacked(textures, earlier).T
        for start in range(0, len(own), _BLOCK):
            block = own[start : start + _BLOCK]
            alike: npt.NDArray[Any] = _stacked(textures, block) @ others
            for row, column in np.argwhere(alike > ALIKE):
                one, other = block[row], earlier[column]
                if groups[one] != groups[other]:
                    found.setdefault(one, (one, other))
        earlier += own
    return list(found.values())


def _stacked(textures: Mapping[str, Texture], ids: Sequence[str]) -> Texture:
    return np.array([textures[identifier] for identifier in ids], np.float32).reshape(-1, SIDE * SIDE)
