"""Images of a dataset that show nearly the same thing and that a grouped split does not know of.

    python benchmarks/near_copies.py BUSI data/BUSI

Prints every pair that no group and no list of lookalikes holds, then how many images of the test and validation parts
have such a copy in the training part, fold by fold. Candidates are images whose thumbnails correlate; of these the
pairs count whose edges and textures lie on each other once one is moved by a few pixels. Look at them before you
believe them; those believed go into ``src/segzoo/data/groups/<dataset>_lookalikes.csv``, joined where they share an
image.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from scipy.ndimage import gaussian_filter

import segzoo.data
from segzoo.data.samples import Sample
from segzoo.data.splits import FOLDS, make_split

THUMBNAIL, ALIKE = 32, 0.93  # a thumbnail's side, and the correlation of a candidate's
SIDE, SHIFT, SMOOTH = 96, 16, 6.0  # an image's side, how far it is moved, and what of it is no texture: all in pixels
SAME = 0.75  # correlation of a near copy's texture

Array = np.ndarray


def near_copies(samples: Sequence[Sample]) -> list[tuple[float, Sample, Sample]]:
    """Pairs of images not known to be alike, the most alike first, with the correlation of their textures."""
    pictures = [Image.open(sample.image).convert("L") for sample in samples]
    thumbnails = np.stack([normalized(pixels(picture, THUMBNAIL)).ravel() for picture in pictures])
    textures = [texture(pixels(picture, SIDE)) for picture in pictures]
    found = []
    for first, second in np.argwhere(np.triu(thumbnails @ thumbnails.T, 1) > ALIKE):
        one, other = samples[first], samples[second]
        if not known(one, other) and (alike := correlation(textures[first], textures[second])) > SAME:
            found.append((alike, one, other))
    return sorted(found, key=lambda pair: -pair[0])


def known(one: Sample, other: Sample) -> bool:
    """Return whether two images share a group or are listed as lookalikes."""
    return one.group == other.group or one.lookalikes == other.lookalikes != ""


def pixels(picture: Image.Image, side: int) -> Array:
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX), np.float32)


def texture(image: Array) -> Array:
    """Return an image without its large dark and bright regions, in which most ultrasound images agree."""
    return image - gaussian_filter(image, SMOOTH)


def correlation(one: Array, other: Array) -> float:
    """Return the highest of an image with the middle of another one over all shifts."""
    middle = normalized(other[SHIFT:-SHIFT, SHIFT:-SHIFT])
    windows = normalized(sliding_window_view(one, middle.shape))
    return float((windows * middle).sum((-2, -1)).max())


def normalized(image: Array) -> Array:
    """Of mean 0 and length 1 over the last two axes."""
    centred = image - image.mean((-2, -1), keepdims=True)
    return centred / (np.linalg.norm(centred, axis=(-2, -1), keepdims=True) + 1e-6)


def parted(pairs: Sequence[tuple[float, Sample, Sample]], parts: dict[str, str], part: str) -> set[str]:
    """Return the images of a part that have a near copy in the training part."""
    both = {(one.id, other.id) for _, one, other in pairs} | {(other.id, one.id) for _, one, other in pairs}
    return {image for image, copy in both if parts.get(image) == part and parts.get(copy) == "train"}


def parts_of(samples: Sequence[Sample], fold: int) -> dict[str, str]:
    """Image -> part of the grouped split, of those that are in one."""
    split = make_split(list(samples), "grouped", fold, seed=42)
    return {image: part for part, images in split.items() for image in images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="such as BUSI")
    parser.add_argument("root", type=Path)
    options = parser.parse_args()
    samples = getattr(segzoo.data, options.dataset)(options.root).samples()
    pairs = near_copies(samples)
    for alike, one, other in pairs:
        print(f"{alike:.2f} {one.id}, {other.id}")
    for fold in range(FOLDS):
        parts = parts_of(samples, fold)
        counts = [
            f"{len(parted(pairs, parts, part))} of {list(parts.values()).count(part)} {part}"
            for part in ("test", "val")
        ]
        print(f"fold {fold}: {' and '.join(counts)} images have a near copy in the training part")


if __name__ == "__main__":
    main()
