"""What is checked of a volume's file before SimpleITK reads it.

It guesses where a NIfTI file is wrong (it fills a truncated one with zeros and takes a spacing of 0 for 1) and gives
what is left of a damaged MHA or NRRD file.
"""

import gzip
import itertools
import warnings
import zlib
from collections.abc import Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.geometry import Geometry

CHUNK = 1 << 20
HEADER_LINES = 1000  # at most

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


def is_gzipped(path: Path) -> bool:
    """Whether a file is packed, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def nifti_header(path: Path, raw: bytes) -> Any:
    """The fields of a header in either byte order."""
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
    """As readers of NIfTI agree: the sform, else the qform (None: SimpleITK's to work out), else the voxel sizes."""
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


def check_packed(path: Path) -> None:
    """Unpack the voxels of an MHA or NRRD file once: of a damaged stream SimpleITK gives what it likes."""
    with path.open("rb") as file:
        if not announces_packed(text_header(file)):
            return
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # as zlib or as gzip has it
        try:
            while chunk := file.read(CHUNK):
                unpacking.decompress(chunk)
        except zlib.error as error:
            raise unreadable(path) from error
        if not unpacking.eof:
            raise unreadable(path)


def text_header(file: BufferedIOBase) -> dict[bytes, bytes]:
    """The fields of an MHA or NRRD file's header, in small letters; the file is left where the voxels start."""
    fields: dict[bytes, bytes] = {}
    for line in itertools.islice(file, HEADER_LINES):
        name, _, value = line.replace(b":", b"=", 1).partition(b"=")
        fields[name.strip().lower()] = value.strip().lower()
        if not line.strip() or line.startswith(b"ElementDataFile"):  # the last line of NRRD, and of MHA
            break
    return fields


def announces_packed(fields: dict[bytes, bytes]) -> bool:
    """Whether nothing but compressed voxels follows a header."""
    if b"elementdatafile" in fields:
        return fields[b"elementdatafile"] == b"local" and fields.get(b"compresseddata") == b"true"
    elsewhere = {b"data file", b"datafile", b"line skip", b"lineskip", b"byte skip", b"byteskip"} & fields.keys()
    return not elsewhere and fields.get(b"encoding") in (b"gzip", b"gz")


def check_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Refuse voxels without a size."""
    if not all(0 < side < np.inf for side in spacing):
        found = " x ".join(f"{side:g}" for side in spacing)
        raise SegzooError(f"{path} has a spacing of {found} mm; every side of a voxel must be above 0.")


def check_directions(path: Path, affine: npt.NDArray[np.float64]) -> None:
    """Refuse axes that are not at right angles."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.abs(directions.T @ directions - np.eye(3)).max() < 1e-3:  # also refuses NaN
        raise skewed(path)


def not_finite(path: Path) -> SegzooError:
    """What is said of NaN."""
    return SegzooError(f"{path} holds NaN or infinite voxels; replace them first.")


def unreadable(path: Path) -> SegzooError:
    """What is said of a file that is no volume."""
    return SegzooError(f"Cannot read {path} as a volume: it is damaged, cut short or not of the format its name says.")


def skewed(path: Path) -> SegzooError:
    """What is said of a sheared grid."""
    return SegzooError(f"The axes of {path} are not at right angles to each other; resample it to a grid whose are.")
