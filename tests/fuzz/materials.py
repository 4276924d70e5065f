"""Good files that fuzzing starts from: small checkpoints, an exported file, and what holds of their masks."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from PIL import Image

import segzoo
from segzoo.checkpoints.names import WEIGHTS

SIDE = 32


@cache
def workshop() -> Path:
    """Return a folder for what is made once."""
    folder = Path(tempfile.mkdtemp(prefix="segzoo-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def checkpoint() -> Path:
    """Return an untrained CMUNeXt-S for images of 32 x 32."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s").eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(SIDE, SIDE))
    return model.save_pretrained(workshop() / "tiny-images")


@cache
def volume_checkpoint() -> Path:
    """Return an untrained MedNeXt of two channels, for volumes of one."""
    torch.manual_seed(0)
    model = segzoo.create_model("mednext", num_classes=3, width=2)
    model.class_names = ("background", "anterior", "posterior")
    return model.save_pretrained(workshop() / "tiny-volumes")


@cache
def exported() -> Path:
    """Return the first checkpoint as ONNX."""
    file = workshop() / "tiny.onnx"
    from segzoo.cli import main

    assert main(["export", str(checkpoint()), str(file)]) == 0
    return file


def copy_checkpoint(source: Path, target: Path) -> Path:
    """Copy a checkpoint; its weights, which nothing is to change, are a second name of the same file."""
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target.joinpath(file.name).hardlink_to if file.name == WEIGHTS else _copier(target / file.name))(file)
    return target


def _copier(target: Path):
    return lambda source: shutil.copyfile(source, target)


# ---- pixels


def picture() -> np.ndarray:
    """Return grey values [20, 24] that are not the same everywhere."""
    rows, columns = np.mgrid[:20, :24]
    return ((rows * 11 + columns * 7) % 256).astype(np.uint8)


def voxels(shape: tuple[int, ...] = (6, 7, 8)) -> np.ndarray:
    """Return intensities of a volume."""
    return (np.arange(np.prod(shape)).reshape(shape) % 97).astype(np.int16)


def require_mask(mask: Path, size: tuple[int, int], classes: int = 2) -> None:
    """Check that a picture's mask is whole, as large as the picture, and of classes that there are."""
    with Image.open(mask) as image:
        image.load()
        assert image.size == size, f"the mask is {image.size}, the picture {size}"
        assert np.asarray(image).max() < classes


def require_volume_mask(mask: Path, source: Path, classes: int = 3) -> None:
    """Check that a volume's mask is whole and on the volume's grid, as far as SimpleITK reads the volume."""
    found = sitk.ReadImage(str(mask))
    assert sitk.GetArrayViewFromImage(found).max() < classes
    try:
        given = sitk.ReadImage(str(source))
    except RuntimeError:
        return
    assert found.GetSize() == given.GetSize()[:3], f"the mask is {found.GetSize()}, the volume {given.GetSize()}"
    # without an orientation, and where sform and qform differ, nibabel and we read NIfTI otherwise than SimpleITK does
    for fact in ("GetSpacing",) if ".nii" in source.name else ("GetSpacing", "GetOrigin", "GetDirection"):
        ours, theirs = np.array(getattr(found, fact)()), np.array(getattr(given, fact)())
        if ours.shape == theirs.shape:
            assert np.allclose(ours, theirs, rtol=1e-3, atol=1e-3), f"{fact} is {ours}, of the volume {theirs}"
