"""Probabilities as files on an input's own grid, and a volume's on the disk while they are computed.

A volume has a NIfTI file in float32 a class, an image a PNG in 16 bits a class, 0 to 65535 for 0 to 1. Or all classes
of either are one .npz file in float16, compressed. Each file holds a note with a digest of its values, as masks do.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import write_png
from segzoo.imaging.itk import write_itk
from segzoo.imaging.nifti import NIFTI_BYTES, keeps_place, write_nifti
from segzoo.imaging.readers import reader_of
from segzoo.imaging.seals import DIGITS, SEALED, sealed
from segzoo.imaging.segmentation import mask_paths
from segzoo.imaging.volumes import is_volume

FORMS = ("files", "npz")
WHITE = 65535  # of a PNG, where a probability is 1
PROBABILITIES, NAMES, MADE_FROM = "probabilities.npy", "class_names.npy", "note.npy"  # inside of an .npz file
HALF = np.dtype("<f2")
CHUNK = 2**24
DAMAGED = (OSError, EOFError, KeyError, ValueError, NotImplementedError, zipfile.BadZipFile, zlib.error)
FloatArray = npt.NDArray[np.float32]


def probability_paths(mask: Path, names: Sequence[str], form: str) -> tuple[Path, ...]:
    """Return the files that the probabilities of an input are written to.

    Args:
        mask: the file of its mask.
        names: of the channels.
        form: one of `FORMS`.

    Example:
        >>> from pathlib import Path
        >>> from segzoo.imaging.probabilities import probability_paths
        >>> [path.name for path in probability_paths(Path("a.png"), ("lesion",), "files")]
        ['a_lesion_probability.png']
        >>> [path.name for path in probability_paths(Path("ct.mha"), ("liver", "left lung"), "files")]
        ['ct_liver_probability.nii.gz', 'ct_left-lung_probability.nii.gz']
        >>> [path.name for path in probability_paths(Path("ct.mha"), ("liver", "left lung"), "npz")]
        ['ct_probabilities.npz']
    """
    stem = reader_of(mask).stem
    if form == "npz":
        return (mask.with_name(f"{stem}_probabilities.npz"),)
    suffix = ".nii.gz" if is_volume(mask) else ".png"
    return tuple(mask_paths(mask.with_name(stem + suffix), [f"{name}_probability" for name in names]))


def write_probabilities(
    files: Sequence[Path], found: Iterable[FloatArray], names: Sequence[str], geometry: Geometry | None, note: str
) -> None:
    """Write the probabilities of an input.

    Args:
        files: to write, with the names of `probability_paths`.
        found: of each channel in turn, float32 [*S].
        names: of the channels.
        geometry: of a volume.
        note: up to 47 characters that each file keeps.

    Raises:
        OSError: one cannot be written.
    """
    if files[0].suffix == ".npz":
        write_npz(files[0], found, names, note)
    elif geometry is None:
        for file, values in zip(files, found, strict=True):
            write_png(file, Image.fromarray(np.round(values * WHITE).astype(np.uint16)), note)
    else:
        place = place_of(geometry)
        for file, values in zip(files, found, strict=True):
            write_nifti(file, values, place, sealed(note, values))


def place_of(geometry: Geometry) -> bytes:
    """Return a NIfTI header of a grid: that of its file, or one that SimpleITK writes."""
    if geometry.nifti is not None and keeps_place(geometry):
        return geometry.nifti
    with TemporaryDirectory() as folder:
        file = Path(folder) / "place.nii"
        write_itk(file, np.zeros((1, 1, 1), np.uint8), geometry, "")
        return file.read_bytes()[:NIFTI_BYTES]


# ---- all in one file


def write_npz(file: Path, found: Iterable[FloatArray], names: Sequence[str], note: str) -> None:
    """Write the probabilities of all channels as one array [K, *S], channel by channel."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(PROBABILITIES, "w", force_zip64=True) as entry:
            for number, values in enumerate(found):
                half = np.ascontiguousarray(values, HALF)
                if number == 0:
                    shape = (len(names), *half.shape)
                    header = {"descr": HALF.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(entry, header)
                digest.update(half.data)
                entry.write(half.data)
        stored = f"{note}-{digest.hexdigest()[:DIGITS]}" if note else ""
        for name, text in ((NAMES, [*names]), (MADE_FROM, stored)):
            with archive.open(name, "w") as entry:
                np.lib.format.write_array(entry, np.array(text), allow_pickle=False)


def read_npz_note(file: Path) -> str | None:
    """Return a file's note; "" where it has none or other values than it was written with; None where it is damaged."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(file) as archive:
            with archive.open(MADE_FROM) as entry:
                stored = str(np.lib.format.read_array(entry, allow_pickle=False))
            with archive.open(PROBABILITIES) as entry:
                np.lib.format.read_magic(entry)
                shape, _, kind = np.lib.format.read_array_header_1_0(entry)
                left = prod(shape) * kind.itemsize
                while chunk := entry.read(CHUNK):
                    digest.update(chunk)
                    left -= len(chunk)
    except DAMAGED:
        return None
    match = SEALED.fullmatch(stored)
    return match[1] if match and match[2] == digest.hexdigest()[:DIGITS] and left == 0 else ""


# ---- on the disk while they are computed


class OnDisk:
    """Array [K, *S] of a volume's probabilities in a file without a name, which ends with the process.

    Parts are assigned to it once each, in any order; then it gives one channel after another, each in one piece.

    Args:
        folder: with room for it.
        shape: (K, *S).

    Raises:
        OSError: in all it does, that the disk is full.

    Example:
        >>> import numpy as np
        >>> from segzoo.imaging.probabilities import OnDisk
        >>> array = OnDisk(".", (2, 4, 3, 3))
        >>> array[..., 2:4, :, :] = np.ones((2, 2, 3, 3), np.float32)
        >>> array[..., 0:2, :, :] = np.zeros((2, 2, 3, 3), np.float32)
        >>> [channel.sum() for channel in array]
        [np.float32(18.0), np.float32(18.0)]
    """

    def __init__(self, folder: "str | Path", shape: tuple[int, ...]) -> None:
        self.shape, self.ndim = shape, len(shape)
        self.file = TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed when nobody has it any more
        self.parts: list[tuple[tuple[Any, ...], int, tuple[int, ...]]] = []  # places, where they are stored, and shapes
        self.end = 0

    def __setitem__(self, place: tuple[Any, ...], part: npt.NDArray[Any]) -> None:
        values = np.ascontiguousarray(part, np.float32)
        self.parts.append((place, self.end, values.shape))
        self.write(values.data.cast("B"))

    def write(self, left: memoryview) -> None:
        """Write all bytes, of which a full disk may take some."""
        self.file.seek(self.end)
        while left:
            count = self.file.write(left)
            self.end, left = self.end + count, left[count:]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, channel: int) -> FloatArray:
        if not 0 <= channel < len(self):
            raise IndexError(channel)
        found = np.empty((1, *self.shape[1:]), np.float32)
        for place, start, shape in self.parts:
            one = np.empty(shape[1:], np.float32)
            self.file.seek(start + channel * one.nbytes)
            self.file.readinto(one.data.cast("B"))
            found[place] = one
        return found[0]
