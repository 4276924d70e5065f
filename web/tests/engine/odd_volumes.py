"""Odd NIfTI files, made in a folder; those that segzoo reads are named on stdout, as JSON, with how many warnings."""

import gzip
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from segzoo.errors import SegzooError
from segzoo.imaging.nifti import NIFTI_HEADER, WRITTEN
from segzoo.imaging.volumes import read_volume

RNG = np.random.default_rng(0)
VOXELS = (RNG.integers(-200, 900, (11, 13, 9)) + np.linspace(0, 700, 9)).astype(np.int16)  # [D, H, W]
KINDS = {**{kind.str[1:]: code for kind, code in WRITTEN.items()}, "i2": (4, 16), "i4": (8, 32), "f8": (64, 64)}
PLAIN = [[1.5, 0, 0, -20], [0, 1, 0, 5], [0, 0, 2, 30]]


def main(folder: Path) -> None:
    """Make the files and read them."""
    make(folder)
    found = {}
    for path in sorted(folder.iterdir()):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                read_volume(path)
            except SegzooError:
                found[str(path)] = None
            else:
                found[str(path)] = len(said)
    json.dump(found, sys.stdout)


def nifti(voxels: np.ndarray, order: str = "<", **fields: Any) -> bytes:
    """Return a NIfTI file of voxels [..., D, H, W], in a byte order, some fields of its header changed."""
    header = np.zeros((), NIFTI_HEADER.newbyteorder(order))
    sides = voxels.shape[::-1]
    header["sizeof_hdr"], header["vox_offset"], header["magic"] = 348, 352, b"n+1"
    header["dim"] = [len(sides), *sides, *[1] * (7 - len(sides))]
    header["datatype"], header["bitpix"] = KINDS[voxels.dtype.str[1:]]
    header["pixdim"], header["xyzt_units"], header["scaling"] = [1, 1.5, 1, 2, 0, 0, 0, 0], 2, (1, 0)
    header["sform_code"], header["srow"] = 1, PLAIN
    for name, value in fields.items():
        header[name] = value
    return header.tobytes().ljust(352, b"\0") + voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()


def turned(degrees: float, skew: float = 0) -> np.ndarray:
    """Return rows of an affine that turns the plain one about the third axis."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle) + skew, 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turn @ np.array(PLAIN)


def make(folder: Path) -> None:
    """Make volumes of all kinds that people have."""
    mirrored = [[-1.5, 0, 0, 20], [0, -1, 0, 5], [0, 0, -2, 30]]
    lying = [[0, 0, -2, 20], [1.5, 0, 0, 5], [0, -1, 0, 30]]
    half_turn = {"sform_code": 0, "qform_code": 1, "quaternion": [0, 0, 1], "offset": [3, 4, 5]}
    broken = VOXELS.astype(np.float32)
    broken[3, 4, 5] = np.nan
    files = {
        "plain": nifti(VOXELS),
        "mirrored": nifti(VOXELS, srow=mirrored),
        "lying": nifti(VOXELS, srow=lying),
        "oblique": nifti(VOXELS, srow=turned(25)),
        "far-oblique": nifti(VOXELS, srow=turned(65)),
        "quaternion": nifti(VOXELS, **{**half_turn, "quaternion": [0.1, 0.2, 0.9]}),
        "half-turn": nifti(VOXELS, **half_turn),
        "mirrored-quaternion": nifti(VOXELS, **half_turn, pixdim=[-1, 1.5, 1, 2, 0, 0, 0, 0]),
        "no-form": nifti(VOXELS, sform_code=0),
        "other-bytes": nifti(VOXELS, ">"),
        "scaled": nifti(VOXELS, scaling=(0.25, -17)),
        "metres": nifti(VOXELS, xyzt_units=1),
        "bytes": nifti((VOXELS // 8 + 40).clip(0, 255).astype(np.uint8)),
        "fractions": nifti(VOXELS.astype(np.float32) / 7),
        "doubles": nifti(VOXELS.astype(np.float64) / 7, scaling=(3, 1)),
        "one-of-four": nifti(VOXELS[None]),
        "small": nifti(VOXELS[:5, :6, :7].copy()),
        "four": nifti(np.stack([VOXELS, VOXELS])),
        "flat": nifti(VOXELS[0].copy()),
        "no-numbers": nifti(broken),
        "skewed": nifti(VOXELS, srow=turned(0, skew=0.2)),
        "two-sizes": nifti(VOXELS, pixdim=[1, 3, 1, 2, 0, 0, 0, 0]),
        "no-size": nifti(VOXELS, pixdim=[1, 0, 1, 2, 0, 0, 0, 0]),
        "no-slope": nifti(VOXELS, scaling=(0, 5)),
        "no-sides": nifti(VOXELS, dim=[3, 9, 0, 11, 1, 1, 1, 1]),
        "huge": nifti(VOXELS, dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]),
        "wrong-bits": nifti(VOXELS, bitpix=8),
        "second-format": nifti(VOXELS, sizeof_hdr=540),
        "cut": nifti(VOXELS)[:1000],
        "cut-header": nifti(VOXELS)[:90],
        "words": b"no volume",
    }
    for name, content in files.items():
        (folder / f"{name}.nii").write_bytes(content)
    packed = gzip.compress(files["mirrored"])
    (folder / "packed.nii.gz").write_bytes(packed)
    (folder / "cut-packed.nii.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "packed-inside.nii").write_bytes(packed)
    (folder / "not-packed.nii.gz").write_bytes(files["plain"])


main(Path(sys.argv[1]))
