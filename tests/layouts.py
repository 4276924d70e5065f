"""The real samples of BUSI, laid out as other datasets are."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)
LAYOUTS = {  # folders of images and of masks, and what ends a mask's name
    "CVC-ClinicDB": ("Original", "Ground Truth", ""),
    "dsb2018_96": ("images", "masks/0", ""),
    "ISIC2017": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "_segmentation"),
    "Kvasir-SEG": ("images", "masks", ""),
    "mine": ("images", "masks", ""),
}


def small_pairs(samples: Path) -> list[tuple[Image.Image, np.ndarray]]:
    """The images in colour, and where each has a lesion, a few pixels large."""
    pairs = []
    for mask in sorted(samples.glob("BUSI/*/*/*_mask.png")):
        image = Image.open(mask.with_name(mask.name.replace("_mask", ""))).convert("RGB").resize(SIZE)
        pairs.append((image, np.asarray(Image.open(mask).convert("L").resize(SIZE, Image.Resampling.NEAREST)) > 127))
    return pairs


def write_layouts(folder: Path, samples: Path) -> None:
    """Write a folder for each layout."""
    for number, (image, lesion) in enumerate(small_pairs(samples)):
        for name, (images, masks, suffix) in LAYOUTS.items():
            stem = 1 + 75 * number if name == "CVC-ClinicDB" else number  # frames there, of as many sequences
            write(folder / name / images / f"{stem}.png", image)
            write(folder / name / masks / f"{stem}{suffix}.png", Image.fromarray(lesion * np.uint8(255)))


def write(path: Path, image: Image.Image) -> None:
    """Write an image into a folder, which is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
