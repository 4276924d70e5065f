"""Folder in which a page's commands are run: it holds the real samples under the names that the pages give to them."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import segzoo

from pages import ROOT

SAMPLES = ROOT / "tests" / "samples"
SIZE = (64, 48)  # of images to train on


def lay_out(folder: Path) -> None:
    """Fill a folder."""
    for name in ("benchmarks", "tests", "model_cards"):  # what a clone has
        (folder / name).symlink_to(ROOT / name)
    for name in ("BUSI", "Task04_Hippocampus"):
        shutil.copytree(SAMPLES / name, folder / "data" / name)
    images = sorted(SAMPLES.glob("BUSI/*/*/*[0-9]).png"))
    shutil.copy(images[-1], folder / "scan.png")
    shutil.copytree(SAMPLES / "Task04_Hippocampus" / "imagesTr", folder / "volumes")
    for name, some in (("scans", images[:2]), ("new_scans", images[2:4])):
        (folder / name).mkdir()
        for image in some:
            shutil.copy(image, folder / name)
    annotate(folder, images[:2])
    weights = segzoo.create_model("cmunext_s").state_dict()  # named as the original names them, or as we do
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, folder / "original.pth")
    for number, file in enumerate(images):
        image = Image.open(file).convert("RGB").resize(SIZE)
        masks = [Image.open(mask).convert("L") for mask in file.parent.glob(f"{file.stem}_mask*.png")]
        lesion = np.max([np.asarray(mask.resize(SIZE, Image.Resampling.NEAREST)) for mask in masks], axis=0) > 127
        middle = np.arange(SIZE[0]) < SIZE[0] // 2
        write_pair(folder / "mine", f"{number}.png", image, {"": lesion * np.uint8(255)})
        write_pair(folder / "classes", f"{number}.png", image, {"": lesion * np.where(middle, np.uint8(1), np.uint8(2))})
        both = {"cyst": lesion * np.uint8(255), "tumour": (lesion & middle) * np.uint8(255)}
        write_pair(folder / "overlapping", f"{number}.png", image, both)
        kvasir = folder / "data" / "Kvasir-SEG"
        write_pair(kvasir, f"{number}.jpg", image, {"": lesion * np.uint8(255)})


def write_pair(folder: Path, name: str, image: Image.Image, masks: dict[str, np.ndarray]) -> None:
    """Write an image and its masks, each by the folder below masks/ that it lies in."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    image.save(folder / "images" / name)
    for kind, mask in masks.items():
        (folder / "masks" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / kind / name)


def annotate(folder: Path, images: list[Path]) -> None:
    """Write a triangle on each image, in a file of COCO's, one a part, and in one of LabelMe's."""
    (folder / "pictures").mkdir()
    (folder / "labelled").mkdir()
    (folder / "annotations").mkdir()
    for part, file in zip(("train", "val"), images, strict=True):
        width, height = Image.open(shutil.copy(file, folder / "pictures")).size
        points = [[10, 10], [60, 10], [10, 60]]
        one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [sum(points, [])]}
        coco = {
            "images": [{"id": 1, "file_name": file.name, "width": width, "height": height}],
            "categories": [{"id": 1, "name": "lesion"}],
            "annotations": [one],
        }
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(coco))
        shutil.copy(file, folder / "labelled")
        shape = {"label": "lesion", "points": points, "shape_type": "polygon", "group_id": None, "flags": {}}
        drawn = {"shapes": [shape], "imagePath": file.name, "imageHeight": height, "imageWidth": width}
        text = json.dumps(drawn | {"version": "5.0.0", "flags": {}, "imageData": None})
        (folder / "labelled" / file.with_suffix(".json").name).write_text(text)
