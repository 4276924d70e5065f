"""NIfTI files: headers checked and voxels read here, and masks written whose place is the input's to the bit.

Libraries guess where a file is wrong: SimpleITK fills a truncated one with zeros, takes a spacing of 0 for 1, and
refuses axes that are a thousandth from a right angle.
"""

import gzip
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry, check_directions, check_spacing, not_finite, too_flat, unreadable

Form = Literal["sform", "qform"]  # of the two places that a header may give

NIFTI_BYTES = 348
PLACE = ("pixdim", "xyzt_units", "qform_code", "sform_code", "quaternion", "offset", "srow")  # fields that masks keep
NIFTI_HEADER = np.dtype(  # what is used of it
    {
        "names": ["sizeof_hdr", "dim", "datatype", "bitpix", "vox_offset", "scaling", "descrip", "magic", *PLACE],
        "formats": [
            *("i4", "8i2", "i2", "i2", "f4", "2f4", "S80", "S4"),
            *("8f4", "u1", "i2", "i2", "3f4", "3f4", "(3,4)f4"),
        ],
        "offsets": [0, 40, 70, 72, 108, 112, 148, 344, 76, 123, 252, 254, 256, 268, 280],
        "itemsize": NIFTI_BYTES,
    }
)
NIFTI_TYPES: dict[int, str | tuple[str, int]] = {  # of a voxel, by the header's datatype
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 256: "i1", 512: "u2", 768: "u4"},
    **{1024: "i8", 1280: "u8", 1792: "c16", 128: ("u1", 3), 2304: ("u1", 4)},
}
NIFTI_2_BYTES = 540
NIFTI_MILLIMETRES = {1: 1000.0, 3: 0.001}  # in a metre and in a micrometre, by the lowest three bits of xyzt_units
WRITTEN = {np.dtype("u1"): (2, 8), np.dtype("u2"): (512, 16), np.dtype("f4"): (16, 32)}  # data type and bits
MASK_START = 352  # of the voxels: after the header and four bytes that announce no extension
AGREE = 1e-3  # relative difference between two sizes of a voxel above which they are two; rounding makes 1e-7
CHUNK = 1 << 20


# ---- read


def read_nifti(path: Path, form: Form | None = None) -> tuple[npt.NDArray[Any], Geometry]:
    """Return the voxels [C, D, H, W] of a NIfTI file, scaled as its header says, and their grid.

    Args:
        path: of a regular file.
        form: place to take where a header gives two, as it stands; None: the sform, whose voxels must be as large as
            the header says.

    Raises:
        SegzooError: saying what is wrong.
    """
    with opened(path) as file:
        header, raw = nifti_header(path, file.read(NIFTI_BYTES))
        geometry = nifti_geometry(path, header, raw, form)
        return nifti_voxels(path, file, header), geometry


def read_nifti_geometry(path: Path, form: Form | None = None) -> Geometry:
    """Return the grid that a NIfTI file's header states; see `read_nifti`."""
    with opened(path) as file:
        return nifti_geometry(path, *nifti_header(path, file.read(NIFTI_BYTES)), form)


def read_nifti_channels(path: Path) -> int:
    """Return the number of channels that a NIfTI file's header states."""
    with opened(path) as file:
        header, _ = nifti_header(path, file.read(NIFTI_BYTES))
    return math.prod([*nifti_sides(header)[3:], *np.dtype(NIFTI_TYPES[int(header["datatype"])]).shape])


def read_nifti_voxels(path: Path) -> npt.NDArray[Any]:
    """Return the voxels [C, D, H, W] alone, wherever they lie."""
    with opened(path) as file:
        return nifti_voxels(path, file, nifti_header(path, file.read(NIFTI_BYTES))[0])


def read_nifti_note(path: Path) -> str:
    """Return the description in a NIfTI file's header."""
    with opened(path) as file:
        header, _ = nifti_header(path, file.read(NIFTI_BYTES))
    return bytes(header["descrip"]).partition(b"\0")[0].decode("latin-1")


@contextmanager
def opened(path: Path) -> Iterator[BufferedIOBase]:
    """Open a NIfTI file, packed or not, and say in one sentence what goes wrong while it is read."""
    try:
        packed = is_gzipped(path)
        named = path.suffix.lower() == ".gz"
        if packed != named and path.stat().st_size:  # other programs read others than its voxels, or none
            said, right = ("not ", ".nii.gz") if packed else ("", ".nii")
            raise SegzooError(
                f"Cannot read {path}: its name says that it is {said}a gzip file, which is wrong; rename it to end in "
                f"{right}, or fetch it again."
            )
        with gzip.open(path) if packed else path.open("rb") as file:
            yield file
    except SegzooError:
        raise
    except (OverflowError, ValueError) as error:  # of an offset that no file has
        raise unreadable(path) from error
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's: not allowed, no such share, ...
            raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
        raise SegzooError(f"Cannot read {path}: the gzip file is cut short or damaged; fetch it again.") from error


def is_gzipped(path: Path) -> bool:
    """Return whether a file is packed, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


# ---- header


def nifti_header(path: Path, raw: bytes) -> tuple[Any, bytes]:
    """Return the fields of a header in either byte order, and its bytes."""
    raw = raw.ljust(NIFTI_BYTES, b"\0")
    for layout in (NIFTI_HEADER, NIFTI_HEADER.newbyteorder()):
        header = np.frombuffer(raw, layout)[0]
        if header["sizeof_hdr"] == NIFTI_BYTES and 1 <= header["dim"][0] <= 7 and 0 <= header["vox_offset"] < np.inf:
            check_nifti_sizes(path, header)
            check_nifti_scaling(path, header)
            return header, raw
        if header["sizeof_hdr"] == NIFTI_2_BYTES:
            raise SegzooError(f"{path} is in the NIfTI-2 format, which is not read; save it as NIfTI-1.")
    raise unreadable(path)


def check_nifti_sizes(path: Path, header: Any) -> None:
    """Refuse sides and sizes of voxels that contradict the rest: readers take them for others, without a word."""
    sides = nifti_sides(header)
    if min(sides) < 1:
        found = " x ".join(map(str, sides))
        raise SegzooError(f"{path} has {found} voxels by its header, which is damaged; fetch it again.")
    limits.VOXELS.check(math.prod(sides), f"{path} has")
    kind, bits = int(header["datatype"]), int(header["bitpix"])
    if kind not in NIFTI_TYPES or bits != 8 * np.dtype(NIFTI_TYPES[kind]).itemsize:
        raise SegzooError(
            f"{path} has {bits} bits a voxel by its header, which its data type {kind} has not: it is damaged or of a "
            "kind that is not read; save it again."
        )
    if len(sides) < 3:
        raise too_flat(path, len(sides))


def nifti_sides(header: Any) -> list[int]:
    """Return the sides that a header announces, those of channels and of time last."""
    return [int(side) for side in header["dim"][1 : header["dim"][0] + 1]]


def check_nifti_scaling(path: Path, header: Any) -> None:
    """Refuse an intercept without a slope, which some readers add and others do not, and the other way round."""
    slope, intercept = header["scaling"]
    scaled = slope != 0 and np.isfinite(slope)
    if not np.isfinite(intercept) if scaled else intercept != 0 and np.isfinite(intercept):
        raise SegzooError(
            f"{path} has an intercept of {intercept:g} to a slope of {slope:g} by its header, which readers take for "
            "different voxels; save it again with the intensities that are meant."
        )


# ---- place


def nifti_geometry(path: Path, header: Any, raw: bytes, form: Form | None) -> Geometry:
    """Return the grid that a header states, with the header itself, for the masks that will lie on it.

    Raises:
        SegzooError: it makes no grid, or two.
    """
    require_form(form)
    sizes = nifti_unit(header) * header["pixdim"][1:4].astype(np.float64)
    check_spacing(path, sizes.tolist())
    coded = {"sform": header["sform_code"] > 0, "qform": header["qform_code"] > 0}
    if not any(coded.values()):
        warnings.warn(
            f"{path} does not say how the patient lies: its first axis is taken to lead left, as ANALYZE had it.",
            stacklevel=2,
        )
    wanted = form or "sform"
    chosen: Form = wanted if coded[wanted] else "sform" if coded["sform"] else "qform"
    affine = nifti_affine(header, chosen)
    check_spacing(path, np.linalg.norm(affine[:3, :3], axis=0)[::-1].tolist())
    check_directions(path, affine)
    if chosen == "sform" != form:
        require_agreement(path, header, sizes)
    width, height, depth = nifti_sides(header)[:3]
    return Geometry((depth, height, width), affine, raw)


def require_form(form: str | None) -> None:
    """Refuse what is no form.

    Raises:
        SegzooError: saying so.
    """
    if form not in (None, "sform", "qform"):
        raise SegzooError(f"geometry must be 'sform' or 'qform', not {form!r}.")


def require_agreement(path: Path, header: Any, sizes: npt.NDArray[np.float64]) -> None:
    """Refuse a header whose sform makes other voxels than it says: programs disagree about which is meant."""
    by_form = np.linalg.norm(nifti_affine(header, "sform")[:3, 2::-1], axis=0)
    if (np.abs(by_form / sizes - 1) > AGREE).any():
        said, meant = (" x ".join(f"{side:g}" for side in lengths) for lengths in (sizes, by_form))
        named, other = ("pixdim and its qform", " or qform") if header["qform_code"] > 0 else ("pixdim", "")
        raise SegzooError(
            f"{path} has voxels of {meant} mm by its sform and of {said} mm by its {named}; look which is right and "
            f"say so by --geometry sform{other} (in Python, geometry=...), or correct the header."
        )


def nifti_affine(header: Any, form: Form) -> npt.NDArray[np.float64]:
    """Return a form's affine in our terms; of a header without forms that of voxel sizes alone, its middle at 0."""
    unit, affine = nifti_unit(header), np.eye(4)
    if form == "sform" and header["sform_code"] > 0:
        affine[:3] = unit * header["srow"].astype(np.float64)
        return affine[:, [2, 1, 0, 3]]
    sizes = unit * header["pixdim"][1:4].astype(np.float64)
    if header["qform_code"] > 0:
        affine[:3, :3] = rotation(header["quaternion"].astype(np.float64)) * sizes
        affine[:3, 2] *= -1 if header["pixdim"][0] < 0 else 1
        affine[:3, 3] = unit * header["offset"].astype(np.float64)
        return affine[:, [2, 1, 0, 3]]
    affine = Geometry.along_axes((1, 1, 1), sizes[::-1], "SAL").affine
    affine[:3, 3] = -affine[:3, :3] @ ((header["dim"][[3, 2, 1]] - 1) / 2)
    return affine


def nifti_unit(header: Any) -> float:
    """Return a header's unit of length in millimetres."""
    return NIFTI_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)


def rotation(imaginary: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the rotation of a unit quaternion, of which a header has the three imaginary parts."""
    length = float(imaginary @ imaginary)
    real = math.sqrt(max(0.0, 1 - length))
    if real**2 < 1e-7:  # half a turn, where rounding decides
        real, imaginary = 0.0, imaginary / math.sqrt(length)
    b, c, d = imaginary
    cross = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    return np.eye(3) + 2 * real * cross + 2 * cross @ cross


# ---- voxels


def nifti_voxels(path: Path, file: BufferedIOBase, header: Any) -> npt.NDArray[Any]:
    """Read all voxels, and what follows them, since gzip compares its checksum at the end."""
    start, sides = max(NIFTI_BYTES, int(header["vox_offset"])), nifti_sides(header)
    limits.HEADER_BYTES.check(start, f"{path} has")
    kind = np.dtype(NIFTI_TYPES[int(header["datatype"])])
    needed = math.prod(sides) * kind.itemsize
    slope, intercept = (float(number) for number in header["scaling"])
    scaled = slope != 0 and math.isfinite(slope) and (slope, intercept) != (1, 0)
    limits.require_memory(needed + math.prod(sides) * (8 if scaled else 4), path)
    raw = np.empty(needed, np.uint8)
    file.seek(start)
    found = fill(file, raw)
    if found < needed:
        raise SegzooError(
            f"{path} is cut short: it holds {start + found} bytes where its header announces {start + needed}."
        )
    if isinstance(file, gzip.GzipFile):
        check_tail(path, file)
    stored = raw.view(kind.base.newbyteorder(header.dtype["dim"].base.byteorder))
    voxels = stored.astype(kind.base, copy=False).reshape(*sides[::-1], *kind.shape)
    if voxels.dtype.kind == "c":
        raise SegzooError(f"{path} holds complex numbers; save their magnitude first.")
    if voxels.dtype.kind == "f" and not np.isfinite([voxels.min(), voxels.max()]).all():
        raise not_finite(path)
    if kind.shape:
        voxels = np.moveaxis(voxels, -1, 0)
    voxels = voxels.reshape(-1, *sides[2::-1])
    return rescaled(voxels, slope, intercept) if scaled else voxels


def fill(file: BufferedIOBase, target: npt.NDArray[np.uint8]) -> int:
    """Read bytes into an array and return how many there were."""
    view, found = target.data, 0
    while got := file.readinto(view[found : found + CHUNK]):
        found += got
    return found


def check_tail(path: Path, file: BufferedIOBase) -> None:
    """Read a packed file to its end, which some bytes after the voxels may delay."""
    tail = 0
    while chunk := file.read(CHUNK):
        tail += len(chunk)
        limits.TAIL_BYTES.check(tail, f"{path} has")


def rescaled(voxels: npt.NDArray[Any], slope: float, intercept: float) -> npt.NDArray[Any]:
    """Return intensities, plane by plane, since the sums are in 64 bits."""
    scaled = voxels.astype(np.float64 if voxels.dtype == np.float64 else np.float32)
    for plane in scaled.reshape(-1, *scaled.shape[-2:]):
        plane[:] = plane.astype(np.float64) * slope + intercept
    return scaled


# ---- write


def keeps_place(geometry: Geometry) -> bool:
    """Return whether a grid is the one of the NIfTI header that it was read with, and was not changed since."""
    if geometry.nifti is None:
        return False
    header, _ = nifti_header(Path(), geometry.nifti)
    forms: tuple[Form, ...] = ("sform", "qform")
    return any(np.array_equal(nifti_affine(header, form), geometry.affine) for form in forms)


def write_nifti(file: Path, values: npt.NDArray[Any], place: bytes, note: str) -> None:
    """Write class indices [D, H, W] of 8 or 16 bits, or float32, with the fields of a header that say where they lie.

    Raises:
        OSError: they cannot be written.
    """
    source, _ = nifti_header(file, place)
    header = np.zeros((), NIFTI_HEADER.newbyteorder("<"))
    for field in PLACE:
        header[field] = source[field]
    header["sizeof_hdr"], header["vox_offset"], header["magic"] = NIFTI_BYTES, MASK_START, b"n+1"
    header["dim"] = [3, *values.shape[::-1], 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = WRITTEN[values.dtype]
    header["scaling"], header["descrip"] = (1, 0), note.encode("ascii", "replace")
    packed = file.suffix == ".gz"
    level = 1 if values.dtype == np.float32 else 6  # more takes fractions many times as long, for little
    opening = gzip.GzipFile(file, "wb", level, mtime=0) if packed else file.open("wb")  # the same bytes every time
    with opening as target:
        target.write(header.tobytes().ljust(MASK_START, b"\0"))
        target.write(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data)
