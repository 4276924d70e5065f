"""NRRD and MHA files by SimpleITK, in a state in which it reads and writes them right.

It is the whole process's state: ITK's warnings are off, for what matters of them is an error here, and numbers have a
point, for ITK writes and reads "1,75" or cuts "1.75" to 1 where the C library's locale has a comma. The whole locale is
put back: GDCM's encoder of JPEG leaves the C library's plain one, by which Python would take text for ASCII.
"""

import locale
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry, check_directions, check_spacing, skewed, too_flat, unreadable

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # SimpleITK's coordinates lead left and posterior
NO_MEMORY = "bad_alloc|Failed to allocate"  # the last of a file that was found whole before
NOTE = "ITK_FileNotes"  # which ITK keeps in all formats; in NIfTI it is called descrip


# ---- state


class _State:
    """State of the process while SimpleITK works: the first thread in sets it, the last one out puts it back."""

    def __init__(self) -> None:
        self.lock, self.inside, self.shown, self.locale = threading.Lock(), 0, True, ""

    @contextmanager
    def __call__(self, sitk: Any) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.shown = sitk.ProcessObject.GetGlobalWarningDisplay()
                sitk.ProcessObject.SetGlobalWarningDisplay(False)
                self.locale = locale.setlocale(locale.LC_ALL)
                if locale.localeconv()["decimal_point"] != ".":  # else other threads' numbers are left alone
                    locale.setlocale(locale.LC_NUMERIC, "C")
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    sitk.ProcessObject.SetGlobalWarningDisplay(self.shown)
                    if self.locale != locale.setlocale(locale.LC_ALL):
                        locale.setlocale(locale.LC_ALL, self.locale)


_state = _State()


@contextmanager
def simpleitk() -> Iterator[Any]:
    """Yield SimpleITK, in the state that it needs."""
    import SimpleITK as sitk

    with _state(sitk):
        yield sitk


# ---- read


def read_itk(path: Path, image_io: str) -> tuple[npt.NDArray[Any], Geometry]:
    """Return voxels [C, D, H, W] as stored (any real dtype) and their grid.

    Args:
        path: of a file that was found to be whole.
        image_io: what reads it, of ITK, which would else choose by the content.

    Raises:
        SegzooError: it cannot be read, or makes no grid.
        MemoryError: it does not fit.
    """
    with simpleitk() as sitk, clear_errors(path):
        reader = _reader(sitk, path, image_io)
        affine = _affine(path, reader)
        image = reader.Execute()
        if "complex" in image.GetPixelIDTypeAsString():
            raise SegzooError(f"{path} holds complex numbers; save their magnitude first.")
        voxels = sitk.GetArrayFromImage(image)
    # [..., D, H, W] or, where a voxel has components, [D, H, W, C]
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    voxels = voxels.reshape(-1, *voxels.shape[-3:])
    return voxels, Geometry(voxels.shape[1:], affine)


def read_itk_geometry(path: Path, image_io: str) -> Geometry:
    """Return the grid that a header states; see `read_itk`."""
    with simpleitk() as sitk, clear_errors(path):
        reader = _reader(sitk, path, image_io)
        width, height, depth = (*reader.GetSize(), 1, 1)[:3]
        return Geometry((depth, height, width), _affine(path, reader))


def read_itk_channels(path: Path, image_io: str) -> int:
    """Return the number of channels that a header states; see `read_itk`."""
    with simpleitk() as sitk, clear_errors(path):
        reader = _reader(sitk, path, image_io)
        return int(reader.GetNumberOfComponents()) * math.prod(reader.GetSize()[3:])


def _reader(sitk: Any, path: Path, image_io: str) -> Any:
    """Return a reader that has read a file's header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(image_io)
    reader.ReadImageInformation()
    return reader


def _affine(path: Path, reader: Any) -> npt.NDArray[np.float64]:
    """Convert SimpleITK's terms (file's axes, LPS) to ours (axes in reverse, RAS)."""
    spacing: Sequence[float] = reader.GetSpacing()
    dimensions = len(spacing)
    if dimensions < 3:
        raise too_flat(path, dimensions)
    check_spacing(path, spacing[:3])
    affine = np.eye(4)
    directions = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine[:3, :3] = LPS_TO_RAS @ (directions * spacing[:3])[:, ::-1]
    affine[:3, 3] = LPS_TO_RAS @ reader.GetOrigin()[:3]
    check_directions(path, affine)
    return affine


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn what SimpleITK raises into one sentence."""
    try:
        yield
    except SegzooError:
        raise
    except (RuntimeError, ValueError) as error:  # the latter of a header that makes no array
        refuse_want_of_memory(path, error)
        if "orthonormal" in str(error):
            raise skewed(path) from None
        raise unreadable(path) from error


def refuse_want_of_memory(path: Path, error: Exception) -> None:
    """Raise what SimpleITK has no kind of its own for: the file may be a good one."""
    if re.search(NO_MEMORY, str(error)):
        raise MemoryError(f"there is not enough memory for {path}") from error


# ---- write


def write_itk(file: Path, values: npt.NDArray[np.integer[Any]], geometry: Geometry, note: str) -> None:
    """Write integers [D, H, W] on a grid, compressed.

    Raises:
        RuntimeError: SimpleITK's, of many kinds.
    """
    with simpleitk() as sitk:
        image = sitk.GetImageFromArray(values)
        spacing = np.array(geometry.spacing)
        directions = LPS_TO_RAS @ (geometry.affine[:3, :3] / spacing)  # the matrix is its own inverse
        image.SetSpacing(spacing[::-1].tolist())
        image.SetDirection(directions[:, ::-1].ravel().tolist())
        image.SetOrigin((LPS_TO_RAS @ geometry.affine[:3, 3]).tolist())
        if note:
            image.SetMetaData(NOTE, note)
        sitk.WriteImage(image, str(file), useCompression=True)
