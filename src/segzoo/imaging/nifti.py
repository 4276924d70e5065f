"""Checks of a NIfTI file before SimpleITK reads it.

It guesses where a NIfTI file is wrong (it fills a truncated one with zeros and takes a spacing of 0 for 1) and gives
what is left of a damaged MHA or NRRD file.
"""

import gzip
import warnings
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry, check_directions, check_spacing, not_finite, unreadable
from segzoo.imaging.packed import CHUNK, is_gzipped

NIFTI_BYTES = 348
NIFTI_HEADER = np.dtype(  # what is checked of it
    {
        "names": [
            "sizeof_hdr",
            "dim",
            "datatype",
            "bitpix",
            "pixdim",
            "vox_offset",
            "scaling",
            "xyzt_units",
            "qform_code",
            "sform_code",
            "srow",
        ],
        "formats": ["i4", "8i2", "i2", "i2", "8f4", "f4", "2f4", "u1", "i2", "i2", "(3,4)f4"],
        "offsets": [0, 40, 70, 72, 76, 108, 112, 123, 252, 254, 280],
        "itemsize": NIFTI_BYTES,
    }
)
NIFTI_FLOATS = {16: "f4", 64: "f8"}  # by the header's datatype
NIFTI_BITS = {  # of a voxel, likewise
    **{2: 8, 4: 16, 8: 32, 16: 32, 32: 64, 64: 64, 128: 24, 256: 8, 512: 16, 768: 32},
    **{1024: 64, 1280: 64, 1536: 128, 1792: 128, 2048: 256, 2304: 32},
}
NIFTI_2_BYTES = 540
NIFTI_MILLIMETRES = {1: 1000.0, 3: 0.001}  # in a metre and in a micrometre, by the lowest three bits of xyzt_units


def check_nifti(path: Path, *, whole: bool) -> npt.NDArray[np.float64] | None:
    """Check a NIfTI file's header; ``whole``: and all of its voxels.

    Returns:
        The affine in our terms, where the header says it plainly.

    Raises:
        SegzooError: saying what is wrong.
    """
    try:
        packed = is_gzipped(path)
        named = path.suffix.lower() == ".gz"
        if packed != named and path.stat().st_size:  # SimpleITK reads others than its voxels, or none
            said, right = ("not ", ".nii.gz") if packed else ("", ".nii")
            raise SegzooError(
                f"Cannot read {path}: its name says that it is {said}a gzip file, which is wrong; rename it to end in "
                f"{right}, or fetch it again."
            )
        with gzip.open(path) if packed else path.open("rb") as file:
            header = nifti_header(path, file.read(NIFTI_BYTES))
            if whole:
                check_nifti_voxels(path, file, header)
    except SegzooError:
        raise
    except (OverflowError, ValueError) as error:  # of an offset that no file has
        raise unreadable(path) from error
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's: not allowed, no such share, ...
            raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
        raise SegzooError(f"Cannot read {path}: the gzip file is cut short or damaged; fetch it again.") from error
    return nifti_affine(path, header) if header["dim"][0] >= 3 else None


def nifti_header(path: Path, raw: bytes) -> Any:
    """Return the fields of a header in either byte order."""
    raw = raw.ljust(NIFTI_BYTES, b"\0")
    for layout in (NIFTI_HEADER, NIFTI_HEADER.newbyteorder()):
        header = np.frombuffer(raw, layout)[0]
        if header["sizeof_hdr"] == NIFTI_BYTES and 1 <= header["dim"][0] <= 7 and 0 <= header["vox_offset"] < np.inf:
            check_nifti_sizes(path, header)
            check_nifti_scaling(path, header)
            return header
        if header["sizeof_hdr"] == NIFTI_2_BYTES:
            raise SegzooError(f"{path} is in the NIfTI-2 format, which SimpleITK does not read; save it as NIfTI-1.")
    raise unreadable(path)


def check_nifti_sizes(path: Path, header: Any) -> None:
    """Refuse sides and sizes of voxels that contradict the rest: SimpleITK takes them for others, without a word."""
    sides = header["dim"][1 : header["dim"][0] + 1]
    if sides.min() < 1:
        found = " x ".join(map(str, sides))
        raise SegzooError(f"{path} has {found} voxels by its header, which is damaged; fetch it again.")
    kind, bits = int(header["datatype"]), int(header["bitpix"])
    if bits != NIFTI_BITS.get(kind):
        raise SegzooError(
            f"{path} has {bits} bits a voxel by its header, which its data type {kind} has not: it is damaged or of a "
            "kind that is not read; save it again."
        )


def check_nifti_scaling(path: Path, header: Any) -> None:
    """Refuse an intercept without a slope, which SimpleITK adds and the standard does not, and the other way round."""
    slope, intercept = header["scaling"]
    scaled = slope != 0 and np.isfinite(slope)
    if not np.isfinite(intercept) if scaled else intercept != 0 and np.isfinite(intercept):
        raise SegzooError(
            f"{path} has an intercept of {intercept:g} to a slope of {slope:g} by its header, which readers take for "
            "different voxels; save it again with the intensities that are meant."
        )


def check_nifti_voxels(path: Path, file: BufferedIOBase, header: Any) -> None:
    """Read all there is (gzip compares its checksum at the end): SimpleITK fills what is cut off, and makes NaN 0."""
    start = max(NIFTI_BYTES, int(header["vox_offset"]))
    length, finite = file.seek(start), True
    kind = NIFTI_FLOATS.get(int(header["datatype"]))
    while chunk := file.read(CHUNK):
        length += len(chunk)
        if kind is not None:
            dtype = np.dtype(kind).newbyteorder(header.dtype["datatype"].byteorder)
            finite &= bool(np.isfinite(np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)).all())
    voxels = int(np.prod(header["dim"][1 : header["dim"][0] + 1].astype(np.int64)))
    expected = start + voxels * int(header["bitpix"]) // 8
    if length < expected:
        raise SegzooError(f"{path} is cut short: it holds {length} bytes where its header announces {expected}.")
    if not finite:
        raise not_finite(path)


def nifti_affine(path: Path, header: Any) -> npt.NDArray[np.float64] | None:
    """Return what readers agree on: the sform, else the qform (None: SimpleITK's to work out), else voxel sizes."""
    unit = NIFTI_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    check_spacing(path, unit * header["pixdim"][1:4])
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = unit * header["srow"].astype(np.float64)
        check_spacing(path, np.linalg.norm(affine[:3, :3], axis=0).tolist())
        affine = affine[:, [2, 1, 0, 3]]
        check_directions(path, affine)
        return affine
    if header["qform_code"] > 0:
        return None
    warnings.warn(
        f"{path} does not say how the patient lies: its first axis is taken to lead left, as ANALYZE had it.",
        stacklevel=2,
    )
    width, height, depth = unit * header["pixdim"][1:4].astype(np.float64)
    affine = Geometry.along_axes((1, 1, 1), (depth, height, width), "SAL").affine
    affine[:3, 3] = -affine[:3, :3] @ ((header["dim"][[3, 2, 1]] - 1) / 2)
    return affine
