"""DICOM files: which paths are some, and what their headers say of the images.

Of a header only what is listed here is read, so that no name of a patient is ever in memory, in a log or in an error.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segzoo import limits
from segzoo.errors import MissingFileError, MissingPackageError, SegzooError
from segzoo.imaging.names import is_hidden
from segzoo.paths import require_file

MAGIC, PREAMBLE = b"DICM", 128  # and the bytes before it, of which none means anything
SUFFIXES = (".dcm", ".dicom", ".ima")  # of files that may lack them
OTHERS = (  # that are not opened to look for them
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".gz", ".nrrd", ".mha", ".npy", ".npz", ".zip"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".safetensors"),
    *(".txt", ".csv", ".json", ".yaml", ".xml", ".html", ".htm", ".md", ".py", ".pdf", ".onnx", ".pt"),
)
DIRECTORY = "1.2.840.10008.1.3.10"  # the class of a DICOMDIR
DEFLATED = b"1.2.840.10008.1.2.1.99"
SUMMARY = (  # what series are told by
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber", "Modality", "ImageType"),
    *("SeriesDescription", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient"),
)
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
PLACE = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "SequenceOfUltrasoundRegions", *GROUPS)
PIXELS = (
    *("PhotometricInterpretation", "PlanarConfiguration", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
)
_LOCK = threading.RLock()


@dataclass(frozen=True)
class Header:
    """Summary of what a DICOM file says of its image, or of its frames.

    Attributes:
        path: of the file.
        kind: UID of its SOP class.
        uid: of the instance.
        series: UID of its series.
        number: of the series; None where it has none.
        instance: number of the instance, likewise.
        modality: "CT", "US", ...
        image_type: such as ("DERIVED", "SECONDARY").
        description: of the series.
        shape: rows and columns; None of what is not an image.
        samples: 1 of grey, 3 of colours.
        frames: in the file.
        placed: whether every frame says where in the body it lies.
    """

    path: Path
    kind: str
    uid: str
    series: str
    number: int | None
    instance: int | None
    modality: str
    image_type: tuple[str, ...]
    description: str
    shape: tuple[int, int] | None
    samples: int
    frames: int
    placed: bool


# ---- find


def is_dicom(path: Path) -> bool:
    """Return whether a path leads to a DICOM file, by its first bytes or, of old ones, which lack them, by its name.

    Example:
        >>> from pathlib import Path
        >>> from segzoo.imaging.dicom_files import is_dicom
        >>> is_dicom(Path("scan.png")), is_dicom(Path("no-such-file.dcm"))
        (False, False)
    """
    suffix = path.suffix.lower()
    if suffix in OTHERS or not os.path.isfile(path):
        return False
    try:
        with path.open("rb") as file:
            return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC or suffix in SUFFIXES
    except OSError:
        return False


def holds_dicom(folder: Path) -> bool:
    """Return whether a DICOM file lies directly in a folder."""
    return folder.is_dir() and any(is_dicom(path) for path in sorted(folder.iterdir()) if not is_hidden(path))


def dicom_files(given: Path) -> list[Path]:
    """Return the DICOM files that a path means: itself, those that a DICOMDIR lists, or all below a folder, by name.

    Raises:
        SegzooError: a DICOMDIR leads out of its folder, or there are more files than is taken.
    """
    if is_dicom(given):
        return listed_files(given) if given.name.upper() == "DICOMDIR" else [given]
    found = [path for path in files_below(given) if path.name.upper() != "DICOMDIR" and is_dicom(path)]
    limits.DICOM_FILES.check(len(found), f"{given} holds")
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and in those below it, also where links lead, but nowhere twice."""
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(files) if real not in seen and not name.startswith("."))
        seen.add(real)


def listed_files(directory: Path) -> list[Path]:
    """Return the files that a DICOMDIR lists, all of which lie below its folder.

    Raises:
        SegzooError: it is damaged, leads elsewhere, or lists what is not there.
    """
    with opened(directory, ("DirectoryRecordSequence",)) as content:
        names = [record.get("ReferencedFileID") for record in content.get("DirectoryRecordSequence") or ()]
    found = []
    root = Path(os.path.realpath(directory.parent))
    for name in filter(None, names):
        parts = [name] if isinstance(name, str) else [str(part) for part in name]
        file = directory.parent.joinpath(*parts)
        file = file if file.exists() else directory.parent.joinpath(*(part.lower() for part in parts))
        if not Path(os.path.realpath(file)).is_relative_to(root):
            raise SegzooError(f"{directory} lists a file outside of its folder, which is not opened; give the folder")
        if not file.is_file():
            raise MissingFileError(f"{directory} lists files that are not there; copy the whole disc, or give a folder")
        found.append(file)
    limits.DICOM_FILES.check(len(found), f"{directory} lists")
    return found


# ---- read


@contextmanager
def opened(path: Path, keywords: Sequence[str]) -> Iterator[Any]:
    """Yield some elements of a DICOM file, as pydicom has them.

    Args:
        path: of the file.
        keywords: of what is read; nothing else is.

    Raises:
        MissingPackageError: pydicom is not installed.
        MissingFileError: there is no such file.
        SegzooError: it cannot be read as DICOM.
    """
    require_file(path)
    pixels = "PixelData" in keywords
    with quiet() as pydicom:
        try:
            refuse_deflated(path)
            limits.require_memory(path.stat().st_size if pixels else 0, path)
            yield pydicom.dcmread(
                path,
                specific_tags=[*keywords],
                stop_before_pixels=not pixels,
                force=path.suffix.lower() in SUFFIXES,
            )
        except (SegzooError, MemoryError):
            raise
        except Exception as error:  # of many kinds, and with values of the file in their words
            if isinstance(error, OSError) and error.errno is not None:
                raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
            raise unreadable(path) from None


@contextmanager
def quiet() -> Iterator[Any]:
    """Yield pydicom without its warnings of odd values, which quote patients' names and dates; one thread at a time.

    Raises:
        MissingPackageError: it is not installed.
    """
    pydicom = imported()
    with _LOCK, pydicom.config.disable_value_validation():
        yield pydicom


def imported() -> Any:
    """Return pydicom.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import pydicom
        import pydicom.pixels
    except ImportError as error:
        raise MissingPackageError("DICOM needs pydicom to be read: pip install pydicom") from error
    return pydicom


def unreadable(path: Path) -> SegzooError:
    """Say that a file is not DICOM, or is damaged."""
    return SegzooError(f"Cannot read {path} as DICOM: it is damaged, cut short or of another format; fetch it again.")


def refuse_deflated(path: Path) -> None:
    """Refuse a file that is packed as a whole: how large it unpacks to nobody says before it has."""
    with path.open("rb") as file:
        if DEFLATED in file.read(2048):
            raise SegzooError(f"{path} is deflated as a whole, which is not read; store it in another transfer syntax")


def of_frames(content: Any, frames: int, group: str, keyword: str) -> list[Any]:
    """Return an element for every frame: of the frame, of what all share, or of the file; None where it is nowhere.

    Args:
        content: as `opened` yields it.
        frames: their number.
        group: keyword of the functional group that holds the element.
        keyword: of the element.
    """
    each = content.get("PerFrameFunctionalGroupsSequence") or ()
    shared = [*(content.get("SharedFunctionalGroupsSequence") or ())][:1]
    found = []
    for frame in range(frames):
        groups = [place.get(group) for place in (*each[frame : frame + 1], *shared)]
        values = [inner[0].get(keyword) for inner in groups if inner]
        found.append(next((value for value in values if value is not None), content.get(keyword)))
    return found


def read_header(path: Path) -> Header:
    """Read what a DICOM file says of its image.

    Raises:
        SegzooError: it cannot be read as DICOM.
    """
    with opened(path, SUMMARY) as found:
        if not found.get("SOPClassUID"):
            raise unreadable(path)
        frames = int(found.get("NumberOfFrames") or 1)
        if frames < 1:
            raise unreadable(path)
        rows, columns = int(found.get("Rows") or 0), int(found.get("Columns") or 0)
        header = Header(
            path,
            str(found.SOPClassUID),
            str(found.get("SOPInstanceUID") or ""),
            str(found.get("SeriesInstanceUID") or ""),
            number(found.get("SeriesNumber")),
            number(found.get("InstanceNumber")),
            str(found.get("Modality") or ""),
            words(found.get("ImageType")),
            str(found.get("SeriesDescription") or ""),
            (rows, columns) if rows > 0 and columns > 0 else None,
            int(found.get("SamplesPerPixel") or 1),
            frames,
            bool(found.get("ImagePositionPatient") and found.get("ImageOrientationPatient")),
        )
    limits.DICOM_FRAMES.check(frames, f"{path} has")
    return replace(header, placed=has_places(path, frames)) if frames > 1 else header


def has_places(path: Path, frames: int) -> bool:
    """Return whether each of several frames has a place of its own in the body."""
    with opened(path, GROUPS) as found:
        positions = of_frames(found, frames, "PlanePositionSequence", "ImagePositionPatient")
        directions = of_frames(found, frames, "PlaneOrientationSequence", "ImageOrientationPatient")
        return all(positions) and all(directions)


def number(value: Any) -> int | None:
    """Return a whole number of a header; None where there is none."""
    return None if value in (None, "") else int(value)


def words(value: Any) -> tuple[str, ...]:
    """Return one or several words of a header."""
    return () if not value else (str(value),) if isinstance(value, str) else tuple(map(str, value))
