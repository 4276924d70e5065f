"""Volumes of odd shapes, types, values and places, written well, and then packed or cut badly."""

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st
from tests.fuzz.edits import BytesEdit, bytes_edits, edit_bytes
from tests.fuzz.headers import order
from tests.fuzz.materials import voxels
from tests.fuzz.oracle import Order

TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64", "complex64")
NUMBERS = (0.0, 1.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), float("-inf"), 255.0, 65535.0, 1e9)
TRAILS = ("", "zeros", "member", "garbage", "bomb")


@dataclass(frozen=True)
class OddVolume:
    """``segzoo predict`` on one volume.

    Attributes:
        suffix: of the file.
        shape: of its voxels, or of its voxels and channels.
        type: of the numbers.
        values: what a few of the voxels are set to, all of them where `constant`.
        constant: all voxels have the first value.
        spacing: of the grid.
        turn: of the first axis towards the second, in degrees.
        vector: whether the last axis holds the components of each voxel.
        edits: of the bytes of the file.
        trail: of a .nii.gz, what follows.
    """

    suffix: str = ".nii.gz"
    shape: tuple[int, ...] = (6, 7, 8)
    type: str = "int16"
    values: tuple[float, ...] = ()
    constant: bool = False
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    turn: float = 0.0
    vector: bool = False
    edits: tuple[BytesEdit, ...] = ()
    trail: str = ""

    def lay(self, folder: Path) -> Order:
        path = folder / f"scan{self.suffix}"
        with np.errstate(all="ignore"):
            array = voxels(self.shape).astype(self.type)
            for number, value in enumerate(self.values):
                with_value = np.nan_to_num(value) if np.dtype(self.type).kind in "iu" else value
                array.flat[slice(None) if self.constant else number * 37 % array.size] = np.array(
                    with_value, "float64"
                ).astype(self.type)
        image = sitk.GetImageFromArray(array, isVector=self.vector and self.type != "complex64")
        if image.GetDimension() == 3:
            image.SetSpacing(self.spacing)
            cosine, sine = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
            image.SetDirection([cosine, -sine, 0, sine, cosine, 0, 0, 0, 1])
        try:
            sitk.WriteImage(image, str(path))
        except RuntimeError:  # there is no such file in this format
            sitk.WriteImage(sitk.GetImageFromArray(voxels()), str(path))
        content = edit_bytes(path.read_bytes(), self.edits)
        if self.suffix == ".nii.gz":
            content += {
                "": b"",
                "zeros": bytes(700),
                "member": gzip.compress(b"more"),
                "garbage": b"more of it",
                "bomb": gzip.compress(bytes(2**24)),
            }[self.trail]
        path.write_bytes(content)
        return order(path.name)


plain = st.sampled_from([".nii.gz", ".nii", ".nrrd", ".mha"])
shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 9]), min_size=2, max_size=4).map(tuple)
spacings = st.tuples(*[st.sampled_from([1.0, 0.5, 3.0, 0.01, 30.0, 1e-6, 1e4])] * 3)
cases = st.one_of(
    st.builds(
        OddVolume,
        plain,
        shapes,
        st.sampled_from(TYPES),
        st.lists(st.sampled_from(NUMBERS), max_size=3).map(tuple),
        st.booleans(),
        spacings,
        st.sampled_from([0.0, 0.0, 0.03, 10.0, 45.0, 90.0, 180.0]),
        st.booleans(),
    ),
    st.builds(OddVolume, plain, edits=bytes_edits(), trail=st.sampled_from(TRAILS)),
)
