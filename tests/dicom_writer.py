"""Files of DICOM as scanners write them, made of the arrays that tests have, and with what can be wrong with them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from segzoo.imaging.geometry import Geometry

CT, MR, ENHANCED_MR = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "4", "4.1"))
ULTRASOUND, ULTRASOUND_FILM, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("6.1", "3.1", "7"))
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
PATIENT = "Grabowski^Eleonore"  # who nothing may tell


def dataset(kind: str, series: str, number: int | None, instance: int, **elements: Any) -> Dataset:
    """The elements of one file, but for its pixels."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.PatientName, made.PatientID, made.PatientBirthDate = PATIENT, "PID-4711", "19440229"
    made.PatientSex, made.StudyDate, made.StudyTime, made.AccessionNumber = "F", "20240101", "101112", "A1"
    made.StudyID, made.ReferringPhysicianName = "1", "Doctor^Who"
    made.SOPClassUID, made.SOPInstanceUID = kind, generate_uid(entropy_srcs=[series, str(instance)])
    made.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    made.SeriesInstanceUID = series
    made.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    made.SeriesDescription = f"brain of {PATIENT}"
    made.SeriesNumber, made.InstanceNumber = number, instance
    made.Manufacturer = "segzoo's tests"
    made.PositionReferenceIndicator = None
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def with_pixels(made: Dataset, pixels: np.ndarray, *, colours: bool = False) -> Dataset:
    """Add the pixels of a frame or of several."""
    made.SamplesPerPixel = 3 if colours else 1
    made.PhotometricInterpretation = "RGB" if colours else getattr(made, "PhotometricInterpretation", "MONOCHROME2")
    if colours:
        made.PlanarConfiguration = 0
    grid = pixels.shape[:-1] if colours else pixels.shape
    if len(grid) == 3:
        made.NumberOfFrames = grid[0]
    made.Rows, made.Columns = grid[-2:]
    bits = 8 * pixels.dtype.itemsize
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    raw = np.ascontiguousarray(pixels).tobytes()
    made.PixelData = raw + b"\0" * (len(raw) % 2)
    made["PixelData"].VR = "OB" if bits == 8 else "OW"
    return made


def place_of(geometry: Geometry) -> tuple[np.ndarray, np.ndarray, list[float], list[float]]:
    """Origin and step from slice to slice, as DICOM has them, directions of rows and columns, and pixel spacing."""
    affine = LPS_TO_RAS @ geometry.affine[:3]
    depth, height, width = affine[:, :3].T
    sides = [float(np.linalg.norm(height)), float(np.linalg.norm(width))]
    directions = [float(round(number, 12)) for number in (*(width / sides[1]), *(height / sides[0]))]
    return affine[:, 3], depth, directions, sides


def write_series(
    folder: Path,
    array: np.ndarray,
    geometry: Geometry,
    *,
    number: int | None = 3,
    order: Sequence[int] | None = None,
    change: Callable[[int, Dataset], Dataset | None] = lambda index, made: made,
    syntax: str | None = None,
    kind: str = MR,
    uid: str = "",
    name: str = "IM{:04}",
    **elements: Any,
) -> list[Path]:
    """Write a volume [D, H, W] slice by slice.

    Args:
        folder: to write into.
        array: 8 or 16 bits.
        geometry: of its grid.
        number: of the series.
        order: in which the files are called and numbered; from the first slice to the last.
        change: makes another file of that of a slice; None leaves it out.
        syntax: transfer syntax to compress by.
        kind: of image.
        uid: of the series.
        name: of the files.
        **elements: of all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    origin, step, directions, sides = place_of(geometry)
    series = uid or generate_uid(entropy_srcs=[str(folder.name), str(number)])
    files = []
    for position, index in enumerate(order if order is not None else range(len(array))):
        made = dataset(kind, series, number, position + 1, Modality="CT" if kind == CT else "MR")
        made.ImagePositionPatient = [float(f"{value:.10g}") for value in origin + index * step]
        made.ImageOrientationPatient = [float(f"{value:.10g}") for value in directions]
        made.PixelSpacing = [float(f"{side:.10g}") for side in sides]
        made.SliceThickness = float(f"{np.linalg.norm(step):.6g}")
        with_pixels(made, array[index])
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        changed = change(index, made)
        if changed is not None:
            files.append(write(folder / name.format(position), changed, syntax))
    return files


def write(path: Path, made: Dataset, syntax: str | None = None) -> Path:
    """Write a file, compressed where that is asked for."""
    if syntax is not None:
        made.compress(UID(syntax), generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def write_enhanced(path: Path, array: np.ndarray, geometry: Geometry, slopes: Sequence[float] | None = None) -> Path:
    """Write a volume [D, H, W] as the frames of one file, the last slice first."""
    origin, step, directions, sides = place_of(geometry)
    made = dataset(ENHANCED_MR, generate_uid(entropy_srcs=["enhanced", path.name]), 7, 1, Modality="MR")
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = Items([Dataset()])
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(f"{value:.10g}") for value in directions]
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PixelMeasuresSequence[0].PixelSpacing = [float(f"{side:.10g}") for side in sides]
    for index in reversed(range(len(array))):
        frame = Dataset()
        frame.PlanePositionSequence = Items([Dataset()])
        frame.PlanePositionSequence[0].ImagePositionPatient = [float(f"{x:.10g}") for x in origin + index * step]
        if slopes is not None:
            frame.PixelValueTransformationSequence = Items([Dataset()])
            frame.PixelValueTransformationSequence[0].RescaleSlope = slopes[index]
            frame.PixelValueTransformationSequence[0].RescaleIntercept = 0
        frames.append(frame)
    made.SharedFunctionalGroupsSequence = Items([shared])
    made.PerFrameFunctionalGroupsSequence = Items(frames)
    return write(path, with_pixels(made, array[::-1]))


def reread(path: Path) -> Dataset:
    """All of a file."""
    return pydicom.dcmread(path)
