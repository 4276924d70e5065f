"""Volume files (NIfTI, NRRD, MHA) <-> arrays with their place in the body.

SimpleITK reads and writes, once nifti.py and packed.py have found a file to be whole.
"""

import errno
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.geometry import Geometry, check_directions, check_spacing, not_finite, skewed, unreadable
from segzoo.imaging.nifti import check_nifti
from segzoo.imaging.packed import check_packed

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # SimpleITK's coordinates lead left and posterior
_NO_MEMORY = "bad_alloc|Failed to allocate|nifti_image_load failed"  # the last of a file that was found whole before
_NOTE = "ITK_FileNotes"  # which ITK keeps in all formats; in NIfTI it is called descrip


@dataclass
class Volume:
    """Volume and where it lies.

    Attributes:
        array: float32 intensities ``[C, D, H, W]``.
        geometry: of its grid.
    """

    array: npt.NDArray[np.float32]
    geometry: Geometry


class VolumeFile:
    """Volume file as an input, and as a mask; see :class:`segzoo.imaging.readers.Reader`."""

    folders: ClassVar[bool] = False
    large: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stem = volume_stem(path)
        self.mask_name = path.name

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a file's name is that of a volume."""
        return is_volume(path)

    def for_images(self, channels: int, intensity_range: tuple[float, float] | None = None) -> Volume:
        """Read it for a model of images, to which its slices are grey, also where the model takes RGB."""
        return read_volume(self.path, 1 if channels == 3 else channels)

    def for_volumes(self, channels: int) -> Volume:
        """Read it for a model of volumes."""
        return read_volume(self.path, channels)

    def note(self) -> str | None:
        """Return the note that it was written with, as `read_volume_note` does."""
        return read_volume_note(self.path)


def no_volume(what: object) -> SegzooError:
    """Return the error that this is an image where a model takes volumes."""
    return SegzooError(f"This model segments volumes ({', '.join(VOLUME_SUFFIXES)}), and {what} is none.")


def is_volume(path: str | Path) -> bool:
    """Return whether a file's name is that of a volume."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def volume_stem(path: str | Path) -> str:
    """Return a volume file's name without its suffix: "a.nii.gz" -> "a"."""
    name = Path(path).name
    return name[: -len(volume_suffix(name))]


def volume_suffix(path: str | Path) -> str:
    """Return the suffix of a volume file as it is written: "a.NII.gz" -> ".NII.gz".

    Raises:
        SegzooError: If the name is not that of a volume.
    """
    name = Path(path).name
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix):
            return name[-len(suffix) :]
    raise SegzooError(f"{path} is not named as a volume is: the name must end in {', '.join(VOLUME_SUFFIXES)}.")


def read_volume(path: str | Path, channels: int = 1) -> Volume:
    """Read a volume's intensities and grid.

    Args:
        path: NIfTI, NRRD or MHA. Channels are a fourth axis or the components of each voxel.
        channels: How many channels it must have.

    Returns:
        float32 array ``[channels, D, H, W]`` with its geometry.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it cannot be decoded, is cut short, is not 3D, has another number of channels, holds NaN or
            infinite voxels, or its spacing or directions make no grid.
        MemoryError: If it does not fit.
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
        raise not_finite(path)
    return Volume(array, geometry)


def read_volume_mask(path: str | Path) -> tuple[npt.NDArray[np.integer[Any]], Geometry]:
    """Read a mask's class indices and grid.

    Returns:
        Integer array ``[D, H, W]`` and its geometry.

    Raises:
        MissingFileError: If there is no such file.
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
    """Return a volume's grid as its header states it, without reading the voxels (which may be cut short).

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If the header cannot be read, or its spacing or directions make no grid.
    """
    path = Path(path)
    plain = _checked(path, whole=False)
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
        MemoryError: If there is too little to write it.
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
        except (RuntimeError, SegzooError) as error:
            _refuse_want_of_memory(path, error)
            written = False
        if not written:
            if shutil.disk_usage(draft).free < image.GetNumberOfPixels() * image.GetSizeOfPixelComponent():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OSError("it came out damaged: is the disk full?")
        os.replace(file, path)


def read_volume_note(path: str | Path) -> str | None:
    """Return a mask's note, an empty one where it has none; None where it is not a readable volume."""
    with _simpleitk() as sitk:
        try:
            reader = _reader(sitk, Path(path))
        except (RuntimeError, SegzooError):
            return None
        return str(reader.GetMetaData(_NOTE)) if reader.HasMetaDataKey(_NOTE) else ""


# ---- how SimpleITK reads


class _Quiet:
    """Switch for SimpleITK's warnings. It is one for all threads: the first one in turns it, the last one out back."""

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
    """Yield SimpleITK, its warnings off: what matters of them is an error here."""
    import SimpleITK as sitk

    with _quiet(sitk):
        yield sitk


def _read(path: Path) -> tuple[npt.NDArray[Any], Geometry]:
    """Return voxels [C, D, H, W] as stored (any real dtype) and their geometry."""
    plain = _checked(path, whole=True)
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


def _checked(path: Path, *, whole: bool) -> npt.NDArray[np.float64] | None:
    """Return the affine, where a header says it plainly, of an undamaged file (``whole``: its voxels, too)."""
    suffix = volume_suffix(path).lower()
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")
    if suffix in (".nii", ".nii.gz"):
        return check_nifti(path, whole=whole)
    if whole:
        check_packed(path)
    return None


def _opened(sitk: Any, path: Path) -> tuple[Any, npt.NDArray[np.float64]]:
    """Return a reader that has read a file's header, and the affine as SimpleITK found it."""
    reader = _reader(sitk, path)
    return reader, _affine(path, reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin())


def _reader(sitk: Any, path: Path) -> Any:
    """Return a reader that has read a file's header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(_file_name(path))
    if path.suffix.lower() == ".mha":  # of which it knows the small letters only
        reader.SetImageIO("MetaImageIO")
    reader.ReadImageInformation()
    return reader


def _file_name(path: Path) -> str:
    """Return a name for SimpleITK, which ends the process at one that is not UTF-8, and knows no ``.Nii.gz``."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise SegzooError(f"The name of {os.fsencode(path)!r} is not UTF-8; rename the file.") from None
    suffix = volume_suffix(path)
    if ".nii" in suffix.lower() and suffix not in (suffix.lower(), suffix.upper()):
        raise SegzooError(f"{path} ends in small and capital letters; rename it to end in {suffix.lower()}.")
    return str(path)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turn what SimpleITK raises into one sentence."""
    try:
        yield
    except SegzooError:
        raise
    except (RuntimeError, ValueError) as error:  # the latter of a header that makes no array
        _refuse_want_of_memory(path, error)
        if "orthonormal" in str(error):
            raise skewed(path) from None
        raise unreadable(path) from error


def _refuse_want_of_memory(path: Path, error: Exception) -> None:
    """Raise what SimpleITK has no kind of its own for: the file may be a good one."""
    if re.search(_NO_MEMORY, str(error)):
        raise MemoryError(f"there is not enough memory for {path}") from error


def _affine(
    path: Path, spacing: Sequence[float], direction: Sequence[float], origin: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Convert SimpleITK's terms (file's axes, LPS) to ours (axes in reverse, RAS)."""
    dimensions = len(spacing)
    if dimensions < 3:
        raise SegzooError(f"{path} is {dimensions}D where a 3D volume is expected.")
    check_spacing(path, spacing[:3])
    affine = np.eye(4)
    directions = np.reshape(direction, (dimensions, dimensions))[:3, :3]
    affine[:3, :3] = _LPS_TO_RAS @ (directions * spacing[:3])[:, ::-1]
    affine[:3, 3] = _LPS_TO_RAS @ origin[:3]
    check_directions(path, affine)
    return affine
