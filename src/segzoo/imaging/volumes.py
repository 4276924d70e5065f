"""Volume files (NIfTI, NRRD, MHA) <-> arrays with their place in the body.

NIfTI is read in nifti.py. NRRD and MHA are SimpleITK's, once text_headers.py has found a file to be whole.
"""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry, not_finite
from segzoo.imaging.itk import (
    NOTE,
    read_itk,
    read_itk_channels,
    read_itk_geometry,
    refuse_want_of_memory,
    write_itk,
)
from segzoo.imaging.nifti import (
    Form,
    keeps_place,
    read_nifti,
    read_nifti_channels,
    read_nifti_geometry,
    read_nifti_note,
    read_nifti_voxels,
    write_nifti,
)
from segzoo.imaging.seals import note_of_sealed, sealed
from segzoo.imaging.text_headers import TextHeader, check_voxels, read_text_header, warn_of_text_header
from segzoo.paths import require_file

VOLUME_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha")


@dataclass
class Volume:
    """Volume and where it lies.

    Attributes:
        array: float32 intensities ``[C, D, H, W]``.
        geometry: of its grid.
    """

    array: npt.NDArray[np.float32]
    geometry: Geometry

    def __repr__(self) -> str:
        """Return its size and spacing: the array says little in print."""
        size = " x ".join(map(str, self.array.shape))
        return f"<segzoo.volumes.Volume: {size}, {' x '.join(f'{side:g}' for side in self.geometry.spacing)} mm>"


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


def read_volume(path: str | Path, channels: int = 1, *, geometry: Form | None = None) -> Volume:
    """Read a volume's intensities and grid.

    Args:
        path: NIfTI, NRRD or MHA. Channels are a fourth axis or the components of each voxel.
        channels: How many channels it must have.
        geometry: Form that says where a NIfTI file's voxels lie, "sform" or "qform", where its header has both and they
            disagree; None refuses one whose sform makes voxels of another size than the header says.

    Returns:
        float32 array ``[channels, D, H, W]`` with its geometry.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it cannot be decoded, is cut short, is not 3D, has another number of channels, holds NaN or
            infinite voxels, or its spacing or directions make no grid.
        MemoryError: If it does not fit.
    """
    path = Path(path)
    stored, grid = _read(path, geometry)
    if stored.shape[0] != channels:
        if channels == 1 and stored.shape[0] > 1:
            found = " x ".join(map(str, (*reversed(stored.shape[1:]), stored.shape[0])))
            raise SegzooError(f"{path} is 4D ({found}) where a 3D volume is expected; save the one to use by itself.")
        raise SegzooError(f"{path} has {stored.shape[0]} channels where {channels} are needed.")
    with np.errstate(over="ignore"):  # what overflows float32 is refused below
        array = stored.astype(np.float32, copy=False)
    if not np.isfinite([array.min(), array.max()]).all():
        raise not_finite(path)
    return Volume(array, grid)


def read_volume_mask(
    path: str | Path, *, geometry: Form | None = None
) -> tuple[npt.NDArray[np.integer[Any]], Geometry]:
    """Read a mask's class indices and grid; arguments as of `read_volume`.

    Returns:
        Integer array ``[D, H, W]`` and its geometry.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: As `read_volume`, and if it holds fractions or negative values.
    """
    path = Path(path)
    stored, grid = _read(path, geometry)
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
    return np.array(values), grid


def read_geometry(path: str | Path, *, geometry: Form | None = None) -> Geometry:
    """Return a volume's grid as its header states it, without reading the voxels (which may be cut short).

    Arguments as of `read_volume`.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If the header cannot be read, or its spacing or directions make no grid.
    """
    path = Path(path)
    _require_readable(path)
    if _is_nifti(path):
        return read_nifti_geometry(path, geometry)
    warn_of_text_header(path, _text_header(path))
    return read_itk_geometry(path, _image_io(path))


def read_channel_count(path: str | Path) -> int:
    """Return the number of channels that a volume's header states, without reading the voxels.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If the header cannot be read.
    """
    path = Path(path)
    _require_readable(path)
    return read_nifti_channels(path) if _is_nifti(path) else read_itk_channels(path, _image_io(path))


def write_volume_mask(path: str | Path, mask: npt.ArrayLike, geometry: Geometry, note: str = "") -> None:
    """Write class indices on a volume's grid, compressed, in 8 bits, or 16 where a value exceeds 255.

    Args:
        path: The file, in the format that its suffix says; its folder is made where missing. An older file is replaced
            once the new one is complete.
        mask: Integer (or boolean) array ``[D, H, W]`` of values 0..65535.
        geometry: Its grid.
        note: Up to 47 characters for `read_volume_note`, stored with a digest of the values.

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
    values = values.astype(np.uint16 if values.max() > 255 else np.uint8)
    with TemporaryDirectory(prefix=".writing-", dir=path.parent) as draft:
        file = Path(draft) / f"mask{suffix.lower()}"  # SimpleITK knows no others
        try:
            if _is_nifti(file) and geometry.nifti is not None and keeps_place(geometry):
                write_nifti(file, values, geometry.nifti, sealed(note, values))
            else:
                write_itk(file, values, geometry, sealed(note, values))
            written = np.array_equal(_voxels(file)[0], values)  # it says nothing of a NIfTI file that a full disk cut
        except (RuntimeError, SegzooError) as error:
            refuse_want_of_memory(path, error)
            written = False
        if not written:
            if shutil.disk_usage(draft).free < values.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OSError("it came out damaged: is the disk full?")
        os.replace(file, path)


def read_volume_note(path: str | Path) -> str | None:
    """Return a mask's note, "" where it has none or other values than it was written with; None where it is damaged."""
    path = Path(path)
    try:
        _require_readable(path)
        stored = read_nifti_note(path) if _is_nifti(path) else _text_header(path).fields.get(NOTE.lower(), "")
        return note_of_sealed(stored, lambda: _voxels(path)[0])
    except SegzooError:
        return None


# ---- formats


def _is_nifti(path: Path) -> bool:
    """Return whether a volume's name is that of a NIfTI file."""
    return volume_suffix(path).lower() in (".nii", ".nii.gz")


def _text_header(path: Path) -> TextHeader:
    """Return the checked header of an NRRD or MHA file."""
    return read_text_header(path, nrrd=path.suffix.lower() == ".nrrd")


def _image_io(path: Path) -> str:
    """Return what reads an NRRD or MHA file, which SimpleITK finds by small letters only."""
    return "NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO"


def _read(path: Path, form: Form | None) -> tuple[npt.NDArray[Any], Geometry]:
    """Return voxels [C, D, H, W] as stored (any real dtype) and their grid."""
    _require_readable(path)
    if _is_nifti(path):
        return read_nifti(path, form)
    header = _text_header(path)
    check_voxels(path, header)
    warn_of_text_header(path, header)
    return read_itk(path, _image_io(path))


def _voxels(path: Path) -> npt.NDArray[Any]:
    """Return a mask's voxels [C, D, H, W], wherever they lie."""
    if _is_nifti(path):
        return read_nifti_voxels(path)
    check_voxels(path, _text_header(path))
    return read_itk(path, _image_io(path))[0]


def _require_readable(path: Path) -> None:
    """Refuse what is no file, and names that SimpleITK ends the process at, or would not write a mask by."""
    suffix = volume_suffix(path)
    require_file(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise SegzooError(f"The name of {os.fsencode(path)!r} is not UTF-8; rename the file.") from None
    if ".nii" in suffix.lower() and suffix not in (suffix.lower(), suffix.upper()):
        raise SegzooError(f"{path} ends in small and capital letters; rename it to end in {suffix.lower()}.")
