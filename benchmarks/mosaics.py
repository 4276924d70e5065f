"""Images of a dataset that are neighbouring tiles of one larger picture, cut without overlap.

    python benchmarks/mosaics.py DSB2018 data/dsb2018_96 [--list]

Prints, fold by fold, how many images of the test part are continued by one of another part that no group and no list
of lookalikes holds; with ``--list`` every picture's tiles, as they stand in
``src/segzoo/data/groups/dsb2018_lookalikes.csv``. Two images are neighbours where the last rows or columns of the one
are nearly the first ones of the other: where their mean squared difference is less than a tenth of what it would be
between two unrelated rows of that contrast. How many pairs fit as well that cannot be neighbours, last rows with last
rows and first with first, is printed too: about as many of those found are there by chance. Borders without contrast
say nothing, so that neighbours remain unfound.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from near_copies import known, parts_of
from PIL import Image
from scipy.sparse.csgraph import connected_components

import segzoo.data
from segzoo.data.samples import Sample
from segzoo.data.splits import FOLDS

CONTRAST = 8.0  # standard deviation along a border below which it fits too many others, in grey levels
FITTING = 0.9  # 1 of equal borders, 0 of unrelated ones

Array = np.ndarray


def borders(samples: Sequence[Sample]) -> dict[str, Array]:
    """Return the outermost pixels of every image on each side, [images, pixels, 3]; all images are of one size."""
    pixels = np.stack([np.asarray(Image.open(sample.image).convert("RGB"), np.float32) for sample in samples])
    return {"left": pixels[:, :, 0], "right": pixels[:, :, -1], "top": pixels[:, 0], "bottom": pixels[:, -1]}


def fit(one: Array, other: Array) -> Array:
    """Return how well each image's border fits each other image's: [images, images]."""
    rows, columns = (side.reshape(len(side), -1).astype(np.float64) for side in (one, other))
    distance = (rows**2).mean(1)[:, None] + (columns**2).mean(1)[None] - 2 * rows @ columns.T / rows.shape[1]
    contrasts = [side.std(axis=1).mean(axis=1) for side in (one, other)]
    smaller = np.minimum(contrasts[0][:, None], contrasts[1][None])
    found = 1 - distance / (2 * np.maximum(smaller, CONTRAST) ** 2)
    found[smaller < CONTRAST] = 0
    np.fill_diagonal(found, 0)
    return found


def neighbours(sides: dict[str, Array]) -> Array:
    """Return whether each two images lie side by side or above each other."""
    beside = (fit(sides["right"], sides["left"]) > FITTING) | (fit(sides["bottom"], sides["top"]) > FITTING)
    return beside | beside.T


def by_chance(sides: dict[str, Array]) -> int:
    """Pairs that fit and cannot be neighbours, of as many as `neighbours` compares."""
    return sum(int(np.triu(fit(side, side) > FITTING).sum()) for side in sides.values())


def mosaics(samples: Sequence[Sample], beside: Array) -> list[list[str]]:
    """Return the tiles of every larger picture of which there are at least two, by name."""
    count, labels = connected_components(beside, directed=False)
    pictures: list[list[str]] = [[] for _ in range(count)]
    for sample, label in zip(samples, labels, strict=True):
        pictures[label].append(sample.id)
    return sorted(sorted(tiles) for tiles in pictures if len(tiles) > 1)


def continued(samples: Sequence[Sample], beside: Array, fold: int) -> tuple[int, int]:
    """Return how many test images of a fold are continued by one of another part, and of how many."""
    parts = parts_of(samples, fold)
    test = [index for index, sample in enumerate(samples) if parts.get(sample.id) == "test"]
    found = [
        any(
            parts.get(samples[other].id) in ("train", "val") and not known(samples[index], samples[other])
            for other in np.flatnonzero(beside[index])
        )
        for index in test
    ]
    return sum(found), len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="such as DSB2018")
    parser.add_argument("root", type=Path)
    parser.add_argument("--list", action="store_true", help="print the tiles of every picture")
    options = parser.parse_args()
    samples = getattr(segzoo.data, options.dataset)(options.root).samples()
    sides = borders(samples)
    beside = neighbours(sides)
    pictures = mosaics(samples, beside)
    if options.list:
        print("image,group")
        for tiles in pictures:
            print("\n".join(f"{tile},{tiles[0]}" for tile in tiles))
        return
    print(
        f"{int(np.triu(beside).sum())} pairs of neighbours, some {by_chance(sides)} of them by chance: "
        f"{len(pictures)} pictures of {sum(map(len, pictures))} images"
    )
    for fold in range(FOLDS):
        print("fold {}: {} of {} test images are continued elsewhere".format(fold, *continued(samples, beside, fold)))


if __name__ == "__main__":
    main()
