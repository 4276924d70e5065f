"""DICOM as an input: series of slices as volumes, pictures and films as images.

Which files make a case is said in dicom_series.py, where slices lie in dicom_place.py, and what their pixels mean in
dicom_pixels.py.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import SegzooError, one_line
from segzoo.imaging.dicom_files import PIXELS, PLACE, SUMMARY, holds_dicom, is_dicom, opened
from segzoo.imaging.dicom_pixels import PALETTE, intensities, pictures, stored
from segzoo.imaging.dicom_place import Plane, pixel_spacing, planes_of, stacked
from segzoo.imaging.dicom_series import Named, Names, find_series, only_series
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import as_image, brightness
from segzoo.imaging.volumes import Volume, no_volume

ALL = (*SUMMARY, *PLACE, *PIXELS)


class DicomCase:
    """Series of slices, a picture or a film as an input; see :class:`segzoo.imaging.readers.Reader`.

    Args:
        path: of a file, or of a folder with one series.
        found: the case, where it is known already.

    Attributes:
        path: what people are told: the folder and the number of the series, which is no file.
        headers: of its files.
        slices: number of its slices, or of its frames.
        mask_name: of slices and films a volume's, of a picture a picture's.

    Raises:
        MissingFileError: there is none.
        SegzooError: it holds several, or cannot be read.
    """

    folders: ClassVar[bool] = True
    large: ClassVar[bool] = True

    def __init__(self, path: Path, found: Named | None = None) -> None:
        series, self.stem, self.path = found or only_series(path)
        self.headers = series.headers
        self.slices = sum(header.frames for header in self.headers)
        self.mask_name = f"{self.stem}{'.png' if self.slices == 1 else '.nii.gz'}"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether this is a DICOM file, or a folder in which one lies."""
        return is_dicom(path) or holds_dicom(path)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it is read from."""
        return tuple(header.path for header in self.headers)

    # ---- read

    def for_images(
        self, channels: int, intensity_range: tuple[float, float] | None = None
    ) -> npt.NDArray[np.uint8] | Volume:
        """Read it for a model of images: a picture [H, W, channels]; of slices or a film a volume.

        Slices are intensities, as in any volume; the frames of a film are 8 bits, as a picture is.
        """
        with named(self.path):
            if self.headers[0].placed and self.slices > 1:
                return self.volume(1 if channels == 3 else channels)
            frames, spacing = self.frames(intensity_range)
            if self.slices == 1:
                return as_image(frames[0], channels)
            place = Geometry.along_axes(frames.shape[:3], (1.0, *(spacing or (1.0, 1.0))), "SPL")
            return Volume(np.ascontiguousarray(np.moveaxis(frames, -1, 0)), place)

    def for_volumes(self, channels: int) -> Volume:
        """Read it for a model of volumes."""
        with named(self.path):
            if not self.headers[0].placed:
                raise no_volume(f"{self.path}, which does not say where its pictures lie in the body,")
            if self.slices == 1:
                raise SegzooError("is a single slice where a model of volumes needs a series; give its folder")
            return self.volume(channels)

    def note(self) -> str | None:
        """Return that it is not one of our masks."""
        return ""

    @property
    def film(self) -> bool:
        """True of frames that follow each other in time, not in the body."""
        return self.slices > 1 and not self.headers[0].placed

    def intensities(self) -> npt.NDArray[Any]:
        """Return the intensities [H, W] of a picture, as what the modality measures; of colours their brightness."""
        with named(self.path):
            header = self.headers[0]
            with opened(header.path, ALL) as content:
                pixels = stored(content, header.frames)
                if pixels.ndim == 4 or content.PhotometricInterpretation == PALETTE:
                    return brightness(pictures(pixels, content, None, self.path)[0])
                return next(intensities(pixels, content))

    def pixel_spacing(self) -> tuple[float, float] | None:
        """Return the millimetres between a picture's rows and between its columns; None where it does not say them."""
        with named(self.path), opened(self.headers[0].path, ALL) as content:
            return pixel_spacing(content)

    def frames(self, stated: tuple[float, float] | None) -> tuple[npt.NDArray[np.uint8], tuple[float, float] | None]:
        """Return what a person sees [F, H, W, C], and the millimetres between rows and between columns."""
        header = self.headers[0]
        assert header.shape is not None  # of an image
        limits.IMAGE_PIXELS.check(math.prod(header.shape), "has")
        with opened(header.path, ALL) as content:
            return pictures(stored(content, header.frames), content, stated, self.path), pixel_spacing(content)

    def volume(self, channels: int) -> Volume:
        """Return intensities [1, D, H, W] and their grid."""
        if channels != 1:
            raise SegzooError(f"has one channel where {channels} are needed; give a volume of {channels} channels")
        if any(header.samples > 1 for header in self.headers):
            raise SegzooError("holds colours, which are no intensities; give the series that it was made of")
        ordered, geometry = stacked(self.planes(), self.path)
        limits.VOXELS.check(math.prod(geometry.shape), "has")
        limits.require_memory(4 * math.prod(geometry.shape), self.path)
        array = np.empty(geometry.shape, np.float32)
        depths = {(plane.file, plane.frame): depth for depth, plane in enumerate(ordered)}
        for file, header in enumerate(self.headers):
            with opened(header.path, ALL) as content:
                for frame, values in enumerate(intensities(stored(content, header.frames), content)):
                    array[depths[file, frame]] = values
        if not np.isfinite([array.min(), array.max()]).all():
            raise SegzooError("holds NaN or infinite voxels; replace them first")
        return Volume(array[None], geometry)

    def planes(self) -> list[Plane]:
        """Return all slices, in the order of the files."""
        found = []
        for number, header in enumerate(self.headers):
            with opened(header.path, (*SUMMARY, *PLACE)) as content:
                found += planes_of(content, number, header)
        return found


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Begin what is wrong by the name of the case; sentences that begin with a capital name a file of it."""
    try:
        yield
    except SegzooError as error:
        said = str(error)
        raise error if path.name in said or said[:1].isupper() else type(error)(f"{path} {said}") from error


def dicom_cases(
    inputs: Mapping[Path, Sequence[Path]], names: Names = "folder"
) -> tuple[list[DicomCase], list[SegzooError]]:
    """Return the cases that DICOM files make, and why others cannot be had; what is left out is logged.

    Args:
        inputs: as of `segzoo.imaging.dicom_series.find_series`.
        names: likewise.
    """
    found = find_series(inputs, names)
    for one in found.left_out:
        logging.getLogger("segzoo").info("segzoo: left out: %s", one_line(one))
    return [DicomCase(one[2], one) for one in found.series], found.refused
