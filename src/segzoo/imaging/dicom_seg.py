"""DICOM SEG: masks as archives and viewers of hospitals have them, with the slices that they were made of.

It is written by highdicom. It holds the patient's name and the study's, as the standard wants, so that an archive files
it beside its images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from segzoo.catalogue import Codes, Concept
from segzoo.errors import MissingPackageError, SegzooError
from segzoo.imaging.dicom import DicomCase, named
from segzoo.imaging.dicom_files import imported, quiet
from segzoo.imaging.dicom_place import stacked
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.overlay import COLOURS
from segzoo.imaging.seals import note_of_sealed, sealed
from segzoo.paths import require_file

SEG = b"1.2.840.10008.5.1.4.1.1.66.4\x02\x00"  # the class of segmentations of pixels, and what follows it in a file
GROUP, CREATOR, NOTE = 0x0071, "SEGZOO", 0x01  # of the private element that holds the note
LABEL = 64  # characters of a segment's label
SERIES_AFTER = 1000  # by which the number of its series follows that of the images
# what highdicom copies, and anonymised files may lack
IDENTITY = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")
SEXES = ("M", "F", "O", "")  # that the standard has


@dataclass(frozen=True)
class Algorithm:
    """Name, version and classes of a model, as a DICOM SEG states them.

    Attributes:
        name: of the checkpoint.
        version: of the checkpoint.
        software: version of segzoo.
        identity: what tells it from any other.
        codes: of each class but the background, in their order, by name.
    """

    name: str
    version: str
    software: str
    identity: str
    codes: dict[str, Codes]


class DicomMask:
    """DICOM SEG that lies where a mask is to be written; see :class:`segzoo.imaging.readers.Reader`.

    It is read for its note alone.
    """

    folders: ClassVar[bool] = False
    large: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path, self.stem, self.mask_name = path, path.stem, path.name

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a file is named like DICOM, and says that it is a SEG."""
        if path.suffix.lower() != ".dcm" or not path.is_file():
            return False
        with path.open("rb") as file:
            return SEG in file.read(1024)

    def for_images(self, channels: int, intensity_range: tuple[float, float] | None = None) -> Any:
        """Refuse it as an input."""
        raise no_image(self.path)

    def for_volumes(self, channels: int) -> Any:
        """Refuse it as an input."""
        raise no_image(self.path)

    def note(self) -> str | None:
        """Return the note that it was written with; "" where it has none or was changed, None where it is damaged."""
        try:
            require_file(self.path)
            with quiet() as pydicom:
                content = pydicom.dcmread(self.path)
                if 8 * len(content.PixelData) < content.NumberOfFrames * content.Rows * content.Columns:
                    return None  # cut short
                stored = str(content.private_block(GROUP, CREATOR)[NOTE].value)
            return note_of_sealed(stored, lambda: bits_of(content))
        except KeyError:
            return ""
        except Exception:  # of many kinds
            return None


def no_image(path: Path) -> SegzooError:
    """Say that a mask is given as an input."""
    return SegzooError(f"{path} is a DICOM SEG, a mask; give the series that it was made of")


def require_highdicom() -> None:
    """Refuse to go on where nothing writes DICOM SEG.

    Raises:
        MissingPackageError: saying so.
    """
    if find_spec("highdicom") is None:
        raise MissingPackageError("DICOM SEG needs highdicom to be written: pip install 'medsegzoo[dicom]'")


def write_seg(
    path: Path, mask: npt.NDArray[Any], case: DicomCase, algorithm: Algorithm, *, multilabel: bool, note: str = ""
) -> None:
    """Write the mask of a DICOM input as a DICOM SEG, in which every class is a segment.

    Args:
        path: of the file.
        mask: numbers of classes [D, H, W] or, of a picture, [H, W]; multi-label: 0 or 1 [K, D, H, W] or [K, H, W].
        case: that it was made of.
        algorithm: that made it.
        multilabel: whether every class has a mask of its own.
        note: for `DicomMask.note`.

    Raises:
        SegzooError: highdicom cannot describe this input.
        OSError: it cannot be written.
    """
    import highdicom
    from pydicom.sr.coding import Code

    with named(case.path), quiet():
        sources, order, geometry = sources_of(case)
        masks = mask.reshape(len(mask) if multilabel else 1, -1, *mask.shape[-2:])
        planes = np.moveaxis(masks, 0, -1)[order] if multilabel else masks[0][order]
        family = Code("123110", "DCM", "Artificial Intelligence")
        made_by = highdicom.AlgorithmIdentificationSequence(algorithm.name, family, algorithm.version, source="segzoo")
        measures = None if geometry is None else measured(sources, geometry)
        number = int(case.headers[0].number or 0)
        try:
            content = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=planes.astype(np.uint8 if len(algorithm.codes) < 256 else np.uint16),
                segmentation_type="BINARY",
                segment_descriptions=[
                    described(index, name, codes, made_by)
                    for index, (name, codes) in enumerate(algorithm.codes.items(), start=1)
                ],
                series_instance_uid=highdicom.UID(),
                series_number=min(number + SERIES_AFTER, 2**31 - 1),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="segzoo",
                manufacturer_model_name="segzoo",
                software_versions=algorithm.software,
                device_serial_number=hashlib.sha256(algorithm.identity.encode()).hexdigest()[:16],
                content_label="SEGMENTATION",
                pixel_measures=measures,
                series_description=f"segzoo {algorithm.name}"[:64],
            )
            content.ContentCreatorName = None  # which has to be there, if only empty
        except (AttributeError, ValueError, TypeError, KeyError) as error:  # with values of the file in their words
            raise SegzooError(
                "lacks what a DICOM SEG has to say of its source, or has frames that highdicom cannot refer to; write "
                "NIfTI (leave --format out)"
            ) from error
        if note:
            content.private_block(GROUP, CREATOR, create=True).add_new(NOTE, "LT", sealed(note, bits_of(content)))
        content.save_as(path)


def sources_of(case: DicomCase) -> tuple[list[Any], list[int], Geometry | None]:
    """Return what the files of a case say, for each frame the number of its slice in the mask, and its grid, if any.

    Raises:
        SegzooError: it is a film, or several files of several frames.
    """
    headers = case.headers
    if not headers[0].placed and case.slices > 1:
        raise SegzooError(
            "is a film, whose frames lie nowhere, and highdicom writes no DICOM SEG of it; leave --format out"
        )
    if len(headers) > 1 and any(header.frames > 1 for header in headers):
        raise SegzooError("has several files of several frames, to which no DICOM SEG can refer; leave --format out")
    if case.slices == 1:
        return [source(headers[0].path)], [0], None
    ordered, geometry = stacked(case.planes(), case.path)
    if len(headers) > 1:
        return [source(headers[plane.file].path) for plane in ordered], [*range(len(ordered))], geometry
    slice_of = {plane.frame: depth for depth, plane in enumerate(ordered)}
    return [source(headers[0].path)], [slice_of[frame] for frame in range(len(ordered))], geometry


def measured(sources: Sequence[Any], geometry: Geometry) -> Any:
    """Return the sizes of voxels as highdicom has them; sources that lack them, or a part, are given them, too."""
    import highdicom

    distance, *sides = geometry.spacing
    measures = highdicom.PixelMeasuresSequence(sides, slice_thickness=distance, spacing_between_slices=distance)
    for one in sources:
        if "SharedFunctionalGroupsSequence" in one:
            one.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = measures
        else:
            one.SliceThickness = one.get("SliceThickness") or distance
    return measures


def source(path: Path) -> Any:
    """Return all that a file says but its pixels, with nothing for what of the patient is missing or means nothing."""
    require_file(path)
    valuerep = imported().valuerep
    content = imported().dcmread(path, stop_before_pixels=True, force=True)
    for keyword in IDENTITY:
        if keyword not in content:
            setattr(content, keyword, "")
    for keyword, kind in {"PatientBirthDate": valuerep.DA, "StudyDate": valuerep.DA, "StudyTime": valuerep.TM}.items():
        try:
            kind(content.get(keyword))
            known = keyword in content
        except ValueError:
            known = False
        if not known:
            setattr(content, keyword, None)
    if content.get("PatientSex") not in SEXES:
        content.PatientSex = ""
    return content


def described(index: int, name: str, codes: Codes, made_by: Any) -> Any:
    """Return the description of a segment."""
    import highdicom

    description = highdicom.seg.SegmentDescription(
        segment_number=index,
        segment_label=name[:LABEL],
        segmented_property_category=coded(codes.category),
        segmented_property_type=coded(codes.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=made_by,
        display_color=highdicom.color.CIELabColor.from_rgb(*COLOURS[(index - 1) % len(COLOURS)]),
    )
    if codes.modifier is not None:
        types = description.SegmentedPropertyTypeCodeSequence
        types[0].SegmentedPropertyTypeModifierCodeSequence = [coded(codes.modifier)]
    return description


def coded(concept: Concept) -> Any:
    """Return a code as highdicom has it."""
    import highdicom

    return highdicom.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def bits_of(content: Any) -> npt.NDArray[np.uint8]:
    """Return the packed pixels of a SEG, for its seal."""
    return np.frombuffer(content.PixelData, np.uint8)
