"""Table of inputs: what a path is, and so how it is read, and how its mask is called.

A new format is one class in a file of its own and one row here; a package adds one by an entry point of the group
``segzoo.readers``. A path may be a folder, such as one of a DICOM series, or the first of several files.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingFileError
from segzoo.extensions import Table
from segzoo.imaging.dicom import DicomCase
from segzoo.imaging.dicom_seg import DicomMask
from segzoo.imaging.images import ImageFile, is_folder_named_like_a_file
from segzoo.imaging.names import is_hidden
from segzoo.imaging.volume_files import VolumeFile

if TYPE_CHECKING:
    from segzoo.imaging.nifti import Form
    from segzoo.imaging.volumes import Volume


@runtime_checkable
class Reader(Protocol):
    """One input, or one mask, of one kind.

    Attributes:
        folders: whether its inputs are folders, such as those of DICOM series; else files.
        large: whether it takes so much memory that only the next one is read ahead.
        path: the file or folder; of one of several cases in a folder, the folder and what it is called there.
        stem: its name without what its kind adds, which the overlay is called after.
        mask_name: the name of its mask's file, in a format that masks are written in: PNG or a volume's.
    """

    folders: ClassVar[bool]
    large: ClassVar[bool]
    path: Path
    stem: str
    mask_name: str

    def __init__(self, path: Path) -> None: ...

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a path is of this kind, by its name or, of a folder, by what is in it."""

    def for_images(
        self, channels: int, intensity_range: tuple[float, float] | None = None
    ) -> "npt.NDArray[np.uint8] | Volume":
        """Return an image [H, W, channels], or a volume to go through slice by slice, for a model of images.

        Args:
            channels: of the model.
            intensity_range: the stored values that become 0 and 255, of images of more than 8 bits; None where the
                model says nothing of it, and then not given.

        Raises:
            MissingError: it is not there.
            SegzooError: it cannot be read, or has another number of channels.
        """

    def for_volumes(self, channels: int) -> "Volume":
        """Return a volume for a model of volumes.

        Raises:
            MissingError: it is not there.
            SegzooError: it cannot be read, has another number of channels, or is not a volume.
        """

    def note(self) -> str | None:
        """Return a mask's note; "" where it has none or was changed since, None where it is damaged."""


READERS: Table[type[Reader]] = Table(
    "readers", {"volumes": VolumeFile, "images": ImageFile, "masks": DicomMask, "dicom": DicomCase}
)


def reader_of(path: "str | os.PathLike[str]", *, geometry: "Form | None" = None) -> Reader:
    """Return what reads a path: the first kind that accepts it, else an image, of whatever suffix.

    Args:
        path: of a file or a folder.
        geometry: for volume files, as of `segzoo.imaging.volumes.read_volume`.

    Example:
        >>> from segzoo.imaging.readers import reader_of
        >>> reader_of("scans/liver.nii.gz").mask_name, reader_of("scans/lesion.jpg").mask_name
        ('liver.nii.gz', 'lesion.png')
    """
    path = Path(path)
    kind = next((kind for kind in READERS.usable() if kind.accepts(path)), ImageFile)
    return VolumeFile(path, geometry) if kind is VolumeFile else kind(path)


def inputs_in(given: Path) -> list[Reader]:
    """Return a file itself, or what there is to segment directly inside a folder, by name.

    Hidden files (``._x.png`` of macOS) are left out, and folders that are named like a file, with a warning.

    Raises:
        MissingFileError: it is not there, or holds nothing to segment.
    """
    try:
        given.lstat()  # of a link that leads nowhere reading it tells
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"there is no file or folder {given} to segment") from None
    if not os.path.isdir(given) or any(kind.folders and kind.accepts(given) for kind in READERS.usable()):
        return [reader_of(given)]
    found = [reader_of(path) for path in sorted(given.iterdir()) if is_listed(path)]
    if not found:
        raise MissingFileError(
            f"the folder {given} holds no image (png, jpg, tif, bmp), volume (nii, nrrd, mha) or DICOM"
        )
    return found


def is_listed(path: Path) -> bool:
    """Return whether what lies in a folder is to be segmented: it is not hidden, and some kind accepts it.

    DICOM is not listed here, as a file is but a part of a case: `segzoo.imaging.dicom.dicom_cases` finds those. A
    folder that is named like a file is passed over, with a warning.
    """
    if is_hidden(path):
        return False
    kinds = [kind for kind in READERS.usable() if kind is not DicomCase and kind.accepts(path)]
    return any(kind.folders for kind in kinds) or (bool(kinds) and not is_folder_named_like_a_file(path))
