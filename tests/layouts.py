"""The real samples, laid out as other datasets are."""

import json
import shutil
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from PIL import Image
from scipy.ndimage import gaussian_filter

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
        eye = folder / "CHASE_DB1" / f"Image_{1 + number * 5 // 8:02}{'LR'[number % 2]}"  # of five children
        write(eye.with_suffix(".jpg"), image)
        for reader, drawn in (("1stHO", lesion), ("2ndHO", np.roll(lesion, 1))):  # who do not quite agree
            write(eye.with_name(f"{eye.name}_{reader}.png"), Image.fromarray(drawn))


def write(path: Path, image: Image.Image) -> None:
    """Write an image into a folder, which is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write_nnunet(folder: Path, samples: Path) -> None:
    """Write hippocampi in nnU-Net's raw layout: five to train on and one in imagesTs, and the same with regions.

    There are two channels, a file each: the image, and the image smoothed. Regions lie in each other, and the lowest
    slices of their labels are to be ignored.
    """
    task, two, regions = samples / "Task04_Hippocampus", folder / "Dataset001_Two", folder / "Dataset002_Regions"
    for part in ("imagesTr", "labelsTr", "imagesTs"):
        (two / part).mkdir(parents=True)
    for number, file in enumerate(sorted((task / "imagesTr").iterdir())):
        case, part = file.name.removesuffix(".nii.gz"), "imagesTr" if number < 5 else "imagesTs"
        shutil.copy(file, two / part / f"{case}_0000.nii.gz")
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float32)
        write_volume(two / part / f"{case}_0001.nii.gz", gaussian_filter(image, 1), file)
        if part == "imagesTr":
            shutil.copy(task / "labelsTr" / file.name, two / "labelsTr")
    shutil.copytree(two, regions)
    for file in (regions / "labelsTr").iterdir():
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(file)))
        label[:2] = 3
        write_volume(file, label, file)
    of_regions = {"labels": {"background": 0, "whole": [1, 2], "posterior": 2, "ignore": 3}}
    for dataset, labels in (
        (two, {"labels": {"background": 0, "anterior": 1, "posterior": 2}}),
        (regions, of_regions | {"regions_class_order": [1, 2]}),
    ):
        known = {"channel_names": {"0": "T1", "1": "smooth"}, "numTraining": 5, "file_ending": ".nii.gz"}
        description = known | labels | {"overwrite_image_reader_writer": "SimpleITKIO"}
        (dataset / "dataset.json").write_text(json.dumps(description, indent=1))


def write_volume(path: Path, voxels: np.ndarray, like: Path) -> None:
    """Write voxels where those of another file lie."""
    image = sitk.GetImageFromArray(voxels)
    image.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(image, str(path))
