"""Images of a dataset that show nearly the same thing and that a grouped split does not know of.

    python benchmarks/near_copies.py BUSI data/BUSI

Prints every pair that no group and no list of lookalikes holds, then how many images of the test and validation parts
have such a copy in the training part, fold by fold. Copies may be shifted, cropped, rescaled, mirrored and compressed
anew. Every two images are laid on each other at every shift, at several scales and mirrored, as small textures; where
these agree, finer ones decide. That takes minutes a dataset on one core. Look at the pairs before you believe them;
those believed go into ``src/segzoo/data/groups/<dataset>_lookalikes.csv``, joined where they share an image or a group.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.fft import irfft2, rfft2

import segzoo.data
from segzoo.data.samples import Sample
from segzoo.data.splits import FOLDS, make_split

COARSE, FINE = 54, 128  # the longer side of an image as a texture: to search with and to decide by, in pixels
DETAIL = {COARSE: 1.2, FINE: 2.5}  # radius of what is texture, in pixels
REACH = 6.0  # of what is made as strong as everywhere, likewise
SCALES = np.geomspace(0.6, 1, 9)  # how large the second image of a pair may be on the first one: each 7 % larger
CLOSER = np.linspace(0.94, 1.06, 13)  # of the scale that was found
OVERLAP = 0.4  # of the smaller image, which must lie on the other one
ALIKE, SAME = 0.35, 0.55  # correlation of a candidate's coarse textures and of a near copy's fine ones
DARK, LIT, MARGIN = 30, 0.3, 0.1  # grey level of a frame, share of a line that is none, and what is cut off beside it
BATCH = 64  # images that one is compared with at once

Array = np.ndarray


def near_copies(samples: Sequence[Sample]) -> list[tuple[float, Sample, Sample]]:
    """Pairs of images not known to be alike, the most alike first, with the correlation of their textures."""
    pictures = [middle(Image.open(sample.image).convert("L")) for sample in samples]
    found = []
    for (first, second), (scale, mirrored) in candidates(pictures).items():
        one, other = samples[first], samples[second]
        if known(one, other):
            continue
        alike = closest(pictures[first], turned(pictures[second], mirrored), scale)
        if alike > SAME:
            found.append((alike, one, other))
    return sorted(found, key=lambda pair: -pair[0])


def known(one: Sample, other: Sample) -> bool:
    """Return whether two images share a group or are listed as lookalikes."""
    return one.group == other.group or one.lookalikes == other.lookalikes != ""


# ---- search


def candidates(pictures: Sequence[Image.Image]) -> dict[tuple[int, int], tuple[float, bool]]:
    """Pairs that may be copies, and at which scale and in which sense the second one lies best on the first one."""
    best: dict[frozenset[int], tuple[float, tuple[int, int], tuple[float, bool]]] = {}
    whole = spectra(pictures, 1)
    for mirrored in (False, True):
        for scale in SCALES:
            others = spectra([turned(picture, mirrored) for picture in pictures], scale)
            for first, second, alike in matches(whole, others):
                pair = frozenset((first, second))
                if pair not in best or alike > best[pair][0]:
                    best[pair] = alike, (first, second), (float(scale), mirrored)
    return {indices: how for _, indices, how in best.values()}


def spectra(pictures: Sequence[Image.Image], scale: float) -> Tensor:
    """Return spectra of coarse textures of length 1, in frames in which a shift by half an image leaves them apart."""
    frames = torch.zeros(len(pictures), COARSE * 4 // 3, COARSE * 4 // 3)
    for frame, picture in zip(frames, pictures, strict=True):
        image = texture(picture, COARSE, scale)
        frame[: image.shape[0], : image.shape[1]] = torch.from_numpy(image / (np.linalg.norm(image) + 1e-6))
    return rfft2(frames)


def matches(whole: Tensor, others: Tensor) -> Iterator[tuple[int, int, float]]:
    """Yield indices of textures that agree at some shift, and how well."""
    for first, spectrum in enumerate(whole):
        products = [irfft2(spectrum * batch.conj()).amax((-2, -1)) for batch in others.split(BATCH)]
        agreement = torch.cat(products)
        for second in (agreement > ALIKE).nonzero().flatten().tolist():
            if second != first:
                yield first, second, float(agreement[second])


# ---- decision


def closest(one: Image.Image, other: Image.Image, scale: float) -> float:
    """Return the correlation of two images' fine textures at the best of the scales around one."""
    texture_of_one = texture(one, FINE, 1)
    return max(correlation(texture_of_one, texture(other, FINE, scale * factor)) for factor in CLOSER)


def correlation(one: Array, other: Array) -> float:
    """Return the highest of two textures over all shifts by which enough of them overlaps."""
    shape = [a + b for a, b in zip(one.shape, other.shape, strict=True)]

    def products(first: Array, second: Array) -> Tensor:
        """Return the sum of one texture times the other, at each shift."""
        return irfft2(rfft2(torch.from_numpy(first), shape) * rfft2(torch.from_numpy(second), shape).conj(), shape)

    everywhere, all_over = np.ones_like(one), np.ones_like(other)
    enough = products(everywhere, all_over) > OVERLAP * min(one.size, other.size)
    energies = products(one**2, all_over)[enough] * products(everywhere, other**2)[enough]
    flat = float(OVERLAP**2 * (one**2).sum() * (other**2).sum()) + 1e-6  # where little overlaps that could agree
    return float((products(one, other)[enough] / energies.clamp(min=flat).sqrt()).max())


# ---- images


def middle(picture: Image.Image) -> Image.Image:
    """Return an image without its dark frame and what lies along it: the edge of a round picture, words, marks."""
    lit = np.asarray(picture) > DARK
    box = [0, 0, *picture.size]
    for axis in (0, 1):  # columns, rows
        lines = np.flatnonzero(lit.mean(axis) > LIT)
        if 2 * len(lines) > picture.size[axis]:  # else it is dark itself
            cut = round(MARGIN * (lines[-1] + 1 - lines[0]))
            box[axis], box[axis + 2] = int(lines[0]) + cut, int(lines[-1]) + 1 - cut
    return picture.crop((box[0], box[1], box[2], box[3]))


def turned(picture: Image.Image, mirrored: bool) -> Image.Image:
    return ImageOps.mirror(picture) if mirrored else picture


def texture(picture: Image.Image, side: int, scale: float) -> Array:
    """Return an image without its large dark and bright regions and as strong in all its parts.

    In the regions most ultrasound images agree, and marks drawn into one are stronger than anything else.

    Args:
        picture: The image.
        side: `COARSE` or `FINE`.
        scale: How large it is, its longer side being ``side`` at 1.
    """
    shrunk = side * scale / max(picture.size)
    size = [max(1, round(length * shrunk)) for length in picture.size]
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32)
    details = pixels - gaussian_filter(pixels, DETAIL[side])
    strength = np.sqrt(gaussian_filter(details**2, REACH))
    return details / (strength + 2)  # two grey levels are noise


# ---- parts


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
