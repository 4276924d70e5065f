"""DICOM files -> cases: which files belong together, which are left out, and what a case is called.

The slices of a series are one case; a picture that lies nowhere in the body, such as one of ultrasound, is a case of
its own. Names are those of the folder and the series number, as descriptions and UIDs may tell who a patient is.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segzoo.errors import MissingFileError, SegzooError, attempt
from segzoo.imaging.dicom_files import Header, dicom_files, read_header

Names = Literal["folder", "dicom"]  # what cases are called by
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # how the classes of secondary captures begin
IN_SLICES = ("CT", "MR", "PT", "NM")  # modalities whose pictures without a place are screens and reports
NO_IMAGES = ("SEG", "RTDOSE", "PR", "SR", "KO", "REG", "DOC", "RWV")  # modalities, of which some have pixels
HASH = 6  # digits


@dataclass(frozen=True)
class Series:
    """Files that are one case.

    Attributes:
        headers: of its files.
        folder: where they lie; of several, the one above all.
        image: number of the picture in its series where it is a case of its own, else "".
    """

    headers: tuple[Header, ...]
    folder: Path
    image: str = ""

    @property
    def number(self) -> str:
        """Number of the series in words; "" where it has none."""
        number = self.headers[0].number
        return "" if number is None else str(number)

    @property
    def uid(self) -> str:
        """UID of the series, or of the picture."""
        return self.headers[0].uid if self.image else self.headers[0].series

    @property
    def place(self) -> Path:
        """Folder and number of the series, which people are told."""
        image = f" image {self.image}" if self.image else ""
        return self.folder / f"series {self.number or 'without a number'}{image}"

    @property
    def name(self) -> str:
        """Name of what is written, which others may have, too."""
        folder = self.folder.name or Path(os.path.realpath(self.folder)).name or "dicom"
        return "_".join(filter(None, (folder, self.number, self.image)))

    @property
    def named_by_dicom(self) -> str:
        """Description and UID, in letters that every file system takes."""
        return re.sub(r"[^\w.-]+", "-", "_".join(filter(None, (self.headers[0].description, self.uid)))).strip("-.")

    @property
    def digest(self) -> str:
        """Digits that tell it from others of its name, and say nothing of the patient."""
        return hashlib.sha256(f"{self.uid} {self.image}".encode()).hexdigest()[:HASH]

    @property
    def why_not(self) -> str:
        """Reason to leave it out where there are others; "" where there is none."""
        head = self.headers[0]
        if "LOCALIZER" in head.image_type:
            return "a localiser"
        captured = head.kind.startswith(CAPTURES) or not head.placed
        if captured and head.modality in IN_SLICES:
            return "a screen or a report, not slices"
        if head.placed and head.image_type[:1] == ("DERIVED",):
            return "derived from other images"
        return ""


Named = tuple[Series, str, Path]  # with what it is called, and what people are told it is


@dataclass(frozen=True)
class Found:
    """Outcome of a search.

    Attributes:
        series: to segment.
        left_out: what is not segmented, and why, for people.
        refused: why others cannot be.
    """

    series: list[Named]
    left_out: list[str]
    refused: list[SegzooError]


def find_series(inputs: Mapping[Path, Sequence[Path]], names: Names = "folder") -> Found:
    """Group DICOM files to cases.

    Args:
        inputs: what was asked for -> its DICOM files. What is derived, or a localiser, is left out where the same input
            has other images.
        names: of the cases: "folder" and series number, with some digits where two would be called alike; or "dicom",
            for description and UID.
    """
    owner = {file: given for given, files in reversed([*inputs.items()]) for file in files}
    headers, refused = read_headers(sorted(owner))
    series, no_images = grouped(headers)
    givers = {id(one): {owner[header.path] for header in one.headers} for one in series}
    complete = {given for one in series if not one.why_not for given in givers[id(one)]}
    aside = [one for one in series if one.why_not and givers[id(one)] & complete]
    left_out = [f"{one.place} is {one.why_not}; give it by itself to segment it" for one in aside]
    if no_images:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(no_images.items()))
        left_out.append(f"{sum(no_images.values())} of {len(headers)} DICOM files hold no images ({kinds})")
    if headers and not series:
        refused.append(MissingFileError(f"there is no image among the DICOM files of {next(iter(owner.values()))}"))
    return Found(named([one for one in series if one not in aside], names), left_out, refused)


def read_headers(paths: Iterable[Path]) -> tuple[list[Header], list[SegzooError]]:
    """Return what the files say, and why some cannot be read."""
    from tqdm import tqdm  # takes longer to import than an image to segment

    outcomes = [attempt(read_header, path) for path in tqdm([*paths], "DICOM headers", disable=None, delay=2)]
    return (
        [one for one in outcomes if isinstance(one, Header)],
        [one for one in outcomes if isinstance(one, SegzooError)],
    )


def grouped(headers: Sequence[Header]) -> tuple[list[Series], Counter[str]]:
    """Return the cases that files make, in the order of the files, and how many are no images, by modality."""
    no_images = Counter(one.modality or "no modality" for one in headers if not is_image(one))
    images: dict[str, Header] = {}
    for one in filter(is_image, headers):
        images.setdefault(one.uid or str(one.path), one)  # a copy is the same instance
    cases: dict[tuple[str, str], list[Header]] = defaultdict(list)
    for one in images.values():
        series = one.series or str(one.path.parent)
        cases[series, "" if one.placed else one.uid or str(one.path)].append(one)
    return [series_of(own) for own in cases.values()], no_images


def series_of(headers: Sequence[Header]) -> Series:
    """Return what is one case: the slices of a series, or a picture."""
    head = headers[0]
    folder = Path(os.path.commonpath([one.path.parent for one in headers]))
    image = "" if head.placed else head.path.stem if head.instance is None else str(head.instance)
    return Series(tuple(headers), folder, image)


def is_image(header: Header) -> bool:
    """Return whether a file holds pictures, and not what was drawn, planned or written of them."""
    return header.shape is not None and header.modality not in NO_IMAGES


def named(series: Sequence[Series], names: Names) -> list[Named]:
    """Return series with their names, each of which is another, and with what people are told."""
    calls = [one.named_by_dicom if names == "dicom" else one.name for one in series]
    often, places = Counter(call.lower() for call in calls), Counter(one.place for one in series)
    found = []
    for one, call in zip(series, calls, strict=True):
        place = one.place if places[one.place] == 1 else one.place.with_name(f"{one.place.name} ({one.digest})")
        found.append((one, call if often[call.lower()] == 1 else f"{call}_{one.digest}", place))
    return found


def only_series(path: Path) -> Named:
    """Return the one series that a path means.

    Raises:
        MissingFileError: it holds none.
        SegzooError: it holds several, or cannot be read.
    """
    found = find_series({path: dicom_files(path)})
    if not found.series:
        raise found.refused[0] if found.refused else MissingFileError(f"{path} holds no DICOM image")
    if len(found.series) > 1:
        places = ", ".join(place.name for _, _, place in found.series[:3])
        raise SegzooError(
            f"{path} holds {len(found.series)} series or pictures ({places}, ...); give one of them by itself, or all "
            "to segzoo predict"
        )
    return found.series[0]
