"""Folder in which a page's commands are run: it holds the real samples under the names that the pages give to them."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from pages import ROOT
from PIL import Image

import segzoo
from dicom_writer import write_series
from layouts import small_pairs, write, write_layouts, write_nnunet
from segzoo.imaging.volumes import read_volume

SAMPLES = ROOT / "tests" / "samples"


def lay_out(folder: Path) -> None:
    """Fill a folder."""
    for name in ("benchmarks", "tests", "model_cards"):  # what a clone has
        (folder / name).symlink_to(ROOT / name)
    for name in ("BUSI", "Task04_Hippocampus"):
        shutil.copytree(SAMPLES / name, folder / "data" / name)
    images = sorted(SAMPLES.glob("BUSI/*/*/*[0-9]).png"))
    shutil.copy(images[-1], folder / "scan.png")
    write_nnunet(folder / "data", SAMPLES)
    (folder / "volumes").mkdir()
    volume = next(SAMPLES.glob("Task04_Hippocampus/imagesTr/*"))
    shutil.copy(volume, folder / "volumes")
    scan = read_volume(volume)
    write_series(folder / "studies" / "one" / "mr", scan.array[0].astype(np.uint16), scan.geometry)
    for name, some in (("scans", images[:2]), ("new_scans", images[2:4])):
        (folder / name).mkdir()
        for image in some:
            shutil.copy(image, folder / name)
    write_layouts(folder / "data", SAMPLES)
    (folder / "data" / "mine").rename(folder / "mine")
    tested = segzoo.data.Folder(folder / "mine").split_ids["test"]
    (folder / "theirs.csv").write_text("id,dice\n" + "".join(f"{name},0.5\n" for name in tested))
    groups = "".join(f"{file.name},{file.stem}\n" for file in (folder / "mine" / "images").iterdir())
    (folder / "patients.csv").write_text(f"image,group\n{groups}")
    annotate(folder, images[:2])
    weights = segzoo.create_model("cmunext_s").state_dict()  # named as the original names them, or as we do
    torch.save({"state_dict": {f"module.{key}": value for key, value in weights.items()}}, folder / "original.pth")
    for number, (image, lesion) in enumerate(small_pairs(SAMPLES)):
        left = np.arange(lesion.shape[1]) < lesion.shape[1] // 2
        write(folder / "classes" / "images" / f"{number}.png", image)
        write(
            folder / "classes" / "masks" / f"{number}.png", Image.fromarray(np.where(left, 1, 2).astype("u1") * lesion)
        )
        write(folder / "overlapping" / "images" / f"{number}.png", image)
        for name, mask in (("cyst", lesion), ("tumour", lesion & left)):
            mask_file = folder / "overlapping" / "masks" / name / f"{number}.png"
            write(mask_file, Image.fromarray(mask * np.uint8(255)))


def annotate(folder: Path, images: list[Path]) -> None:
    """Write a triangle on each image, in a file of COCO's, one a part, and in one of LabelMe's."""
    (folder / "pictures").mkdir()
    (folder / "labelled").mkdir()
    (folder / "annotations").mkdir()
    for part, file in zip(("train", "val"), images, strict=True):
        width, height = Image.open(shutil.copy(file, folder / "pictures")).size
        points = [[10, 10], [60, 10], [10, 60]]
        one = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [np.ravel(points).tolist()]}
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
