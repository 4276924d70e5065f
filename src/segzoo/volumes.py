"""Volume files (NIfTI, NRRD, MHA) <-> arrays with their place in the body.

Arrays are ``[D, H, W]``, the file's axes in reverse, as PyTorch has them; affines lead from their indices to
millimetres towards the patient's right, anterior and superior (RAS). SimpleITK reads and writes. It guesses where a
NIfTI file is wrong (it fills a truncated one with zeros and takes a spacing of 0 for 1) and gives what is left of a
damaged MHA or NRRD file, so those are checked here.
"""

import gzip
import itertools
import os
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingError, SegzooError

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
OPPOSITES = ("LR", "PA", "IS")  # where an axis may lead

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_CHUNK = 1 << 20
_NOTE = "ITK_FileNotes"  # which ITK keeps in all formats; in NIfTI it is called descrip

_HEADER_LINES = 1000  # at most

_NIFTI_BYTES = 348
_NIFTI_HEADER = np.dtype(  # what is checked of it
    {
        "names": [
            "sizeof_hdr",
            "dim",
            "datatype",
            "bitpix",
            "pixdim",
            "vox_offset",
            "xyzt_units",
            "qform_code",
            "sform_code",
            "srow",
        ],
        "formats": ["i4", "8i2", "i2", "i2", "8f4", "f4", "u1", "i2", "i2", "(3,4)f4"],
        "offsets": [0, 40, 70, 72, 76, 108, 123, 252, 254, 280],
        "itemsize": _NIFTI_BYTES,
    }
)
_NIFTI_FLOATS = {16: "f4", 64: "f8"}  # by the header's datatype
_NIFTI_2_BYTES = 540
_NIFTI_MILLIMETRES = {1: 1000.0, 3: 0.001}  # in a metre and in a micrometre, by the lowest three bits of xyzt_units


@dataclass(eq=False)  # not frozen: Lightning moves no frozen ones to a device
class Geometry:
    """Where a volume's voxels lie.

    Attributes:
        shape: ``(D, H, W)``.
        affine: float64 ``[4, 4]``, from voxel indices ``[d, h, w, 1]`` to RAS millimetres.
    """

    shape: tuple[int, int, int]
    affine: npt.NDArray[np.float64]

    @classmethod
    def along_axes(
        cls, shape: Sequence[int], spacing: Sequence[float] = (1.0, 1.0, 1.0), orientation: str = "SAR"
    ) -> "Geometry":
        """The grid of a volume that was not read from a file: voxel ``[0, 0, 0]`` at the origin."""
        depth, height, width = shape
        affine = np.eye(4)
        affine[:3, :3] = 0
        for axis, letter in enumerate(orientation):
            positive = letter in "RAS"
            affine["RAS".index(letter if positive else _OPPOSITE[letter]), axis] = spacing[axis] * (
                1 if positive else -1
            )
        return cls((depth, height, width), affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along ``(d, h, w)``."""
        depth, height, width = (float(side) for side in np.linalg.norm(self.affine[:3, :3], axis=0))
        return depth, height, width

    @property
    def orientation(self) -> str:
        """The direction of the body nearest to each axis: "SAR" leads to superior, anterior and right."""
        directions = self.affine[:3, :3] / self.spacing
        closeness = np.abs(directions)
        best = max(itertools.permutations(range(3)), key=lambda axes: closeness[axes, range(3)].sum())
        letters = ["RAS"[axis] for axis in best]
        return "".join(
            letter if directions[axis, column] > 0 else _OPPOSITE[letter]
            for column, (axis, letter) in enumerate(zip(best, letters, strict=True))
        )


@dataclass
class Volume:
    """A volume and where it lies.

    Attributes:
        array: float32 intensities ``[C, D, H, W]``.
        geometry: of its grid.
    """

    array: npt.NDArray[np.float32]
    geometry: Geometry


def is_volume(path: str | Path) -> bool:
    """Whether a file's name is that of a volume."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def volume_stem(path: str | Path) -> str:
    """A volume file's name without its suffix: "a.nii.gz" -> "a"."""
    name = Path(path).name
    return name[: -len(volume_suffix(name))]


def volume_suffix(path: str | Path) -> str:
    """The suffix of a volume file as it is written: "a.NII.gz" -> ".NII.gz".

    Raises:
        SegzooError: If the name is not that of a volume.
    """
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[-len(suffix) :]
    raise SegzooError(f"{path} is not named as a volume is: the name must end in {', '.join(VOLUME_SUFFIXES)}.")


def volume_files(folder: str | Path) -> list[Path]:
    """The volumes directly inside a folder, sorted by name; hidden files (``._x.nii.gz`` of macOS) are left out."""
    return sorted(path for path in Path(folder).iterdir() if is_volume(path) and not path.name.startswith("."))


def read_volume(path: str | Path, channels: int = 1) -> Volume:
    """Read a volume's intensities and grid.

    Args:
        path: NIfTI, NRRD or MHA. Channels are a fourth axis or the components of each voxel.
        channels: How many channels it must have.

    Returns:
        float32 array ``[channels, D, H, W]`` with its geometry.

    Raises:
        MissingError: If there is no such file.
        SegzooError: If it cannot be decoded, is cut short, is not 3D, has another number of channels, holds NaN or
            infinite voxels, or its spacing or directions make no grid.
    """
    path = Path(path)
    stored, geometry = _read(path)
    if stored.shape[0] != channels:
        if channels == 1 and stored.shape[0] > 1:
            found = " x ".join(map(str, (*reversed(stored.shape[1:]), stored.shape[0])))
            raise SegzooError(f"{path} is 4D ({found}) where a 3D volume is expected; save the one to use by itself.")
        raise SegzooError(f"{path} has {stored.shape[0]} channels where {channels} are needed.")
    with np.errstate(over="ignore"):  # what overflows float32 is refused below
        array = stored.astype(np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise _not_finite(path)
    return Volume(array, geometry)


def read_volume_mask(path: str | Path) -> tuple[npt.NDArray[np.integer[Any]], Geometry]:
    """Read a mask's class indices and grid.

    Returns:
        Integer array ``[D, H, W]`` and its geometry.

    Raises:
        MissingError: If there is no such file.
        SegzooError: As `read_volume`, and if it holds fractions or negative values.
    """
    path = Path(path)
    stored, geometry = _read(path)
    if stored.shape[0] != 1:
        raise SegzooError(f"Mask {path} has {stored.shape[0]} channels; save it as one 3D volume of class indices.")
    values = stored[0]
    if values.dtype.kind == "f":
        if not np.array_equal(values, np.round(values)):  # also refuses NaN
            raise SegzooError(f"Mask {path} holds fractions; save it as class indices.")
        if np.abs(values).max() > np.iinfo(np.int32).max:
            raise SegzooError(f"Mask {path} holds values up to {np.abs(values).max():g}, which are no class indices.")
        values = values.astype(np.int32)
    if values.min() < 0:
        raise SegzooError(f"Mask {path} holds negative values (down to {values.min()}); class indices start at 0.")
    return np.array(values), geometry


def read_geometry(path: str | Path) -> Geometry:
    """A volume's grid as its header states it, without reading the voxels (nor noticing where those are cut short).

    Raises:
        MissingError: If there is no such file.
        SegzooError: If the header cannot be read, or its spacing or directions make no grid.
    """
    path = Path(path)
    plain = _checked_nifti(path, whole=False)
    with _simpleitk() as sitk, _clear_errors(path):
        reader, affine = _opened(sitk, path)
        width, height, depth = reader.GetSize()[:3]
    return Geometry((depth, height, width), affine if plain is None else plain)


def write_volume_mask(path: str | Path, mask: npt.ArrayLike, geometry: Geometry, note: str = "") -> None:
    """Write class indices on a volume's grid, compressed, in 8 bits, or 16 where a value exceeds 255.

    Args:
        path: The file, in the format that its suffix says; its folder is made where missing. An older file is replaced
            once the new one is complete.
        mask: Integer (or boolean) array ``[D, H, W]`` of values 0..65535.
        geometry: Its grid.
        note: Up to 79 characters for `read_volume_note`.

    Raises:
        SegzooError: If the suffix is not a volume's, or the mask is of another shape or holds other values.
        OSError: If it cannot be written whole.
    """
    path = Path(path)
    suffix = volume_suffix(path)
    values = np.asarray(mask)
    if values.shape != geometry.shape or values.dtype.kind not in "biu":
        raise SegzooError(
            f"The mask must be integers of shape {list(geometry.shape)}, not {values.dtype} of shape "
            f"{list(values.shape)}."
        )
    if values.min() < 0 or values.max() > 65535:
        raise SegzooError(f"A mask file holds values 0..65535, not {values.min()}..{values.max()}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _simpleitk() as sitk, TemporaryDirectory(prefix=".writing-", dir=path.parent) as draft:
        image = sitk.GetImageFromArray(values.astype(np.uint16 if values.max() > 255 else np.uint8))
        spacing = np.array(geometry.spacing)
        directions = _LPS_TO_RAS @ (geometry.affine[:3, :3] / spacing)  # the matrix is its own inverse
        image.SetSpacing(spacing[::-1].tolist())
        image.SetDirection(directions[:, ::-1].ravel().tolist())
        image.SetOrigin((_LPS_TO_RAS @ geometry.affine[:3, 3]).tolist())
        if note:
            image.SetMetaData(_NOTE, note)
        file = Path(draft) / f"mask{suffix.lower()}"  # SimpleITK knows no others
        try:
            sitk.WriteImage(image, str(file), useCompression=True)
            written = np.array_equal(_read(file)[0][0], values)  # it says nothing of a NIfTI file that a full disk cut
        except (RuntimeError, SegzooError):
            written = False
        if not written:
            raise OSError("it came out damaged: is the disk full?")
        os.replace(file, path)


def read_volume_note(path: str | Path) -> str:
    """The note that a mask was written with; an empty one where it has none, or is no readable volume."""
    with _simpleitk() as sitk:
        try:
            reader = _reader(sitk, Path(path))
        except (RuntimeError, SegzooError):
            return ""
        return str(reader.GetMetaData(_NOTE)) if reader.HasMetaDataKey(_NOTE) else ""


def same_grid(one: Geometry, other: Geometry) -> bool:
    """Whether two grids have the same shape and no voxel is more than a twentieth of a voxel elsewhere."""
    if one.shape != other.shape:
        return False
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, side - 1) for side in one.shape))])
    apart = np.linalg.norm(corners @ (one.affine - other.affine).T, axis=1)
    return bool(apart.max() <= 0.05 * min(one.spacing))


# ---- how SimpleITK reads


class _Quiet:
    """SimpleITK's warnings off. The switch is one for all threads: the first one in turns it, the last one out back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.shown = threading.Lock(), 0, True

    @contextmanager
    def __call__(self, sitk: Any) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.shown = sitk.ProcessObject.GetGlobalWarningDisplay()
                sitk.ProcessObject.SetGlobalWarningDisplay(False)
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    sitk.ProcessObject.SetGlobalWarningDisplay(self.shown)


_quiet = _Quiet()


@contextmanager
def _simpleitk() -> Iterator[Any]:
    """SimpleITK, its warnings off: what matters of them is an error here."""
    import SimpleITK as sitk

    with _quiet(sitk):
        yield sitk


def _read(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Voxels [C, D, H, W] as stored (any real dtype) and their geometry."""
    plain = _checked_nifti(path, whole=True)
    if path.suffix.lower() in (".mha", ".nrrd"):
        _check_packed(path)
    with _simpleitk() as sitk, _clear_errors(path):
        reader, affine = _opened(sitk, path)
        image = reader.Execute()
        if "complex" in image.GetPixelIDTypeAsString():
            raise SegzooError(f"{path} holds complex numbers; save their magnitude first.")
        voxels = sitk.GetArrayFromImage(image)
    # [..., D, H, W] or, where a voxel has components, [D, H, W, C]
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    voxels = voxels.reshape(-1, *voxels.shape[-3:])
    return voxels, Geometry(voxels.shape[1:], affine if plain is None else plain)


def _opened(sitk: Any, path: Path) -> tuple[Any, npt.NDArray[np.float64]]:
    """A reader that has read a file's header, and the affine as SimpleITK found it."""
    reader = _reader(sitk, path)
    return reader, _affine(path, reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin())


def _reader(sitk: Any, path: Path) -> Any:
    """A reader that has read a file's header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(_file_name(path))
    if path.suffix == ".MHA":  # of which it knows the small letters only
        reader.SetImageIO("MetaImageIO")
    reader.ReadImageInformation()
    return reader


def _file_name(path: Path) -> str:
    """As SimpleITK takes it, which ends the whole process at a name that is not UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise SegzooError(f"The name of {os.fsencode(path)!r} is not UTF-8; rename the file.") from None
    return str(path)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """What SimpleITK raises, in one sentence."""
    try:
        yield
    except SegzooError:
        raise
    except (RuntimeError, ValueError) as error:  # the latter of a header that makes no array
        if "orthonormal" in str(error):
            raise _skewed(path) from None
        raise _unreadable(path) from error


def _affine(
    path: Path, spacing: Sequence[float], direction: Sequence[float], origin: Sequence[float]
) -> npt.NDArray[np.float64]:
    """From SimpleITK's terms (file's axes, LPS) to ours (axes in reverse, RAS)."""
    dimensions = len(spacing)
    if dimensions < 3:
        raise SegzooError(f"{path} is {dimensions}D where a 3D volume is expected.")
    _check_spacing(path, spacing[:3])
    affine = np.eye(4)
    directions = np.reshape(direction, (dimensions, dimensions))[:3, :3]
    affine[:3, :3] = _LPS_TO_RAS @ (directions * spacing[:3])[:, ::-1]
    affine[:3, 3] = _LPS_TO_RAS @ origin[:3]
    _check_directions(path, affine)
    return affine


def _check_spacing(path: Path, spacing: Sequence[float]) -> None:
    if not all(0 < side < np.inf for side in spacing):
        found = " x ".join(f"{side:g}" for side in spacing)
        raise SegzooError(f"{path} has a spacing of {found} mm; every side of a voxel must be above 0.")


def _check_directions(path: Path, affine: npt.NDArray[np.float64]) -> None:
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.abs(directions.T @ directions - np.eye(3)).max() < 1e-3:  # also refuses NaN
        raise _skewed(path)


def _not_finite(path: Path) -> SegzooError:
    return SegzooError(f"{path} holds NaN or infinite voxels; replace them first.")


def _unreadable(path: Path) -> SegzooError:
    return SegzooError(f"Cannot read {path} as a volume: it is damaged, cut short or not of the format its name says.")


def _skewed(path: Path) -> SegzooError:
    return SegzooError(f"The axes of {path} are not at right angles to each other; resample it to a grid whose are.")


# ---- what SimpleITK does not check


def _check_packed(path: Path) -> None:
    """Unpack the voxels of an MHA or NRRD file once: of a damaged stream SimpleITK gives what it likes."""
    with path.open("rb") as file:
        if not _announces_packed(_header(file)):
            return
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # as zlib or as gzip has it
        try:
            while chunk := file.read(_CHUNK):
                unpacking.decompress(chunk)
        except zlib.error as error:
            raise _unreadable(path) from error
        if not unpacking.eof:
            raise _unreadable(path)


def _header(file: BufferedIOBase) -> dict[bytes, bytes]:
    """The fields of an MHA or NRRD file's header, in small letters; the file is left where the voxels start."""
    fields: dict[bytes, bytes] = {}
    for line in itertools.islice(file, _HEADER_LINES):
        name, _, value = line.replace(b":", b"=", 1).partition(b"=")
        fields[name.strip().lower()] = value.strip().lower()
        if not line.strip() or line.startswith(b"ElementDataFile"):  # the last line of NRRD, and of MHA
            break
    return fields


def _announces_packed(fields: dict[bytes, bytes]) -> bool:
    """Whether nothing but compressed voxels follows a header."""
    if b"elementdatafile" in fields:
        return fields[b"elementdatafile"] == b"local" and fields.get(b"compresseddata") == b"true"
    elsewhere = {b"data file", b"datafile", b"line skip", b"lineskip", b"byte skip", b"byteskip"} & fields.keys()
    return not elsewhere and fields.get(b"encoding") in (b"gzip", b"gz")


def _checked_nifti(path: Path, *, whole: bool) -> npt.NDArray[np.float64] | None:
    """The affine in our terms, where a NIfTI header says it plainly; ``whole``: once all voxels are found good."""
    suffix = volume_suffix(path).lower()
    if not path.is_file():
        raise MissingError(f"There is no file {path}.")
    if suffix not in (".nii", ".nii.gz"):
        return None
    try:
        with gzip.open(path) if _is_gzipped(path) else path.open("rb") as file:
            header = _nifti_header(path, file.read(_NIFTI_BYTES))
            if whole:
                _check_nifti_voxels(path, file, header)
    except SegzooError:
        raise
    except (OverflowError, ValueError) as error:  # of an offset that no file has
        raise _unreadable(path) from error
    except (EOFError, OSError, zlib.error) as error:
        raise SegzooError(f"Cannot read {path}: the gzip file is cut short or damaged; fetch it again.") from error
    return _nifti_affine(path, header) if header["dim"][0] >= 3 else None


def _is_gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _nifti_header(path: Path, raw: bytes) -> Any:
    """The fields of a header in either byte order."""
    raw = raw.ljust(_NIFTI_BYTES, b"\0")
    for layout in (_NIFTI_HEADER, _NIFTI_HEADER.newbyteorder()):
        header = np.frombuffer(raw, layout)[0]
        if header["sizeof_hdr"] == _NIFTI_BYTES and 1 <= header["dim"][0] <= 7 and 0 <= header["vox_offset"] < np.inf:
            return header
        if header["sizeof_hdr"] == _NIFTI_2_BYTES:
            raise SegzooError(f"{path} is in the NIfTI-2 format, which SimpleITK does not read; save it as NIfTI-1.")
    raise _unreadable(path)


def _check_nifti_voxels(path: Path, file: BufferedIOBase, header: Any) -> None:
    """Read all there is (gzip compares its checksum at the end): SimpleITK fills what is cut off, and makes NaN 0."""
    start = max(_NIFTI_BYTES, int(header["vox_offset"]))
    length, finite = file.seek(start), True
    kind = _NIFTI_FLOATS.get(int(header["datatype"]))
    while chunk := file.read(_CHUNK):
        length += len(chunk)
        if kind is not None:
            dtype = np.dtype(kind).newbyteorder(header.dtype["datatype"].byteorder)
            finite &= bool(np.isfinite(np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)).all())
    voxels = int(np.prod(header["dim"][1 : header["dim"][0] + 1].astype(np.int64)))
    expected = start + voxels * int(header["bitpix"]) // 8
    if length < expected:
        raise SegzooError(f"{path} is cut short: it holds {length} bytes where its header announces {expected}.")
    if not finite:
        raise _not_finite(path)


def _nifti_affine(path: Path, header: Any) -> npt.NDArray[np.float64] | None:
    """As readers of NIfTI agree: the sform, else the qform (None: SimpleITK's to work out), else the voxel sizes."""
    unit = _NIFTI_MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    _check_spacing(path, unit * header["pixdim"][1:4])
    affine = np.eye(4)
    if header["sform_code"] > 0:
        affine[:3] = unit * header["srow"].astype(np.float64)
        _check_spacing(path, np.linalg.norm(affine[:3, :3], axis=0).tolist())
        affine = affine[:, [2, 1, 0, 3]]
        _check_directions(path, affine)
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


def axes_between(source: str, target: str) -> tuple[list[int], list[int]]:
    """For each target axis the source axis it is, and the target axes that lead the other way."""
    kind = {letter: pair for pair in OPPOSITES for letter in pair}
    kinds = [kind[letter] for letter in source]
    axes = [kinds.index(kind[letter]) for letter in target]
    return axes, [axis for axis, letter in enumerate(target) if letter not in source]
