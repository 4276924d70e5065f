"""Plan of a run: which files are segmented, and which files are written."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from segzoo.checkpoints.folder import DRAFT_END
from segzoo.errors import MissingError, MissingFileError, SegzooError, attempt
from segzoo.imaging.cases import Cases
from segzoo.imaging.dicom import DicomCase, dicom_cases
from segzoo.imaging.dicom_files import dicom_files, holds_dicom
from segzoo.imaging.dicom_seg import Algorithm
from segzoo.imaging.dicom_series import Names
from segzoo.imaging.pairing import apart, channel_of
from segzoo.imaging.readers import Reader, inputs_in, reader_of
from segzoo.imaging.segmentation import mask_paths, require_own_files
from segzoo.imaging.tables import cases_in, find_table, read_table
from segzoo.imaging.volume_files import CaseFiles, VolumeFile, case_of, channel_files

if TYPE_CHECKING:
    from segzoo.imaging.nifti import Form

DRAFT = ".segzoo-"  # how a folder's name begins that a process writes into
DRAFTS = f"{DRAFT}*{DRAFT_END}"


@dataclass(frozen=True)
class Job:
    """One input, and what is made of it.

    Attributes:
        file: an image or a volume.
        input: what reads it.
        mask: the file to write (multi-label: one a class, called after it).
        overlay: the picture to draw; None for none.
        note: what the written files depend on, which is stored in them; see `not_done`.
        taken: one of the files to write, where what is there was not made from this input.
        left: where an earlier run, with other options, may have left an overlay; None where one is drawn.
        geometry: form of a NIfTI header to take, as of `segzoo.imaging.volumes.read_volume`.
        reader: what reads it, where the path alone does not tell.
        algorithm: what a DICOM SEG says of the model; None where the mask is of another format.
        maps: the files to write probabilities to.
        old_maps: where an earlier run, with other options, may have written some; none of ``maps``.
        measure: the table that measurements are added to; None for none.
        report: likewise of doubts.
    """

    file: Path
    mask: Path
    overlay: Path | None = None
    note: str = ""
    taken: Path | None = None
    left: Path | None = None
    geometry: "Form | None" = None
    reader: Reader | None = field(default=None, compare=False, repr=False)
    algorithm: Algorithm | None = field(default=None, compare=False, repr=False)
    maps: tuple[Path, ...] = ()
    old_maps: tuple[Path, ...] = ()
    measure: Path | None = None
    report: Path | None = None
    input: Reader = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", self.reader or reader_of(self.file, geometry=self.geometry))


# ---- plan


def find_inputs(inputs: Iterable[Path], names: Names = "folder") -> tuple[list[Reader], list[Path], list[SegzooError]]:
    """List every image and volume to read; folders give all that are in them, but for masks.

    Args:
        inputs: files and folders.
        names: what DICOM cases are called by, as of `segzoo.imaging.dicom.dicom_cases`.

    Returns:
        Them; the masks that lie beside them; and why others cannot be had: they are not there, must not be looked into,
        or hold nothing to segment.

    Raises:
        SegzooError: nothing can be had.
    """
    found: list[Reader] = []
    masks: list[Path] = []
    refused: list[SegzooError] = []
    dicom: dict[Path, list[Path]] = {}  # all together, as a series may be given file by file
    for given in inputs:
        try:
            dicom[given] = dicom_files(given)
            own, beside = inputs_and_masks(given, dicom[given])
        except SegzooError as error:
            refused.append(error)
        except OSError as error:
            refused.append(SegzooError(f"{given} cannot be looked into ({error.strerror}); look at its permissions"))
        else:
            found += own
            masks += beside
    if any(dicom.values()):
        cases, failures = dicom_cases(dicom, names)
        found, refused = [*found, *cases], [*refused, *failures]
    if not found:
        raise refused[0]
    return found, masks, refused


def inputs_and_masks(given: Path, dicom: Sequence[Path] = ()) -> tuple[list[Reader], list[Path]]:
    """Return what there is to segment, of a folder that holds a dataset its images, and the masks beside them.

    Args:
        given: a file or a folder.
        dicom: its DICOM files, which are looked at elsewhere; pictures beside them show them.

    Raises:
        MissingFileError: it is not there, or holds nothing to segment.
        SegzooError: it holds a dataset, and what are its images cannot be told.
    """
    if dicom and (not given.is_dir() or holds_dicom(given)):
        return [], []
    try:
        found = inputs_in(given)
    except MissingFileError as error:
        if dicom:
            return [], []
        cases = attempt(cases_in, given) if given.is_dir() else error
        if isinstance(cases, MissingError) or (isinstance(cases, Cases) and not cases.cases):
            raise error from None
        if isinstance(cases, SegzooError):
            raise cases from None
        return [reader_of(case.image) for case in cases.cases], []
    if not given.is_dir():
        return found, []
    _, masks = apart({one.path: image_name(one) for one in found})
    table = attempt(find_table, given)
    if isinstance(table, Path) and isinstance(cases := attempt(read_table, table), Cases):
        masks = dict.fromkeys([*masks, *(mask for case in cases.cases for mask in case.masks)], "")
    return [one for one in found if one.path not in masks], [one.path for one in found if one.path in masks]


def image_name(given: Reader) -> str:
    """Return what the mask of an input may call it: of one channel of a case, the case."""
    channel = channel_of(given.stem) if isinstance(given, VolumeFile) else None
    return given.stem if channel is None else channel[0]


def plan(
    inputs: Iterable[Reader], output: Path, overlay: bool, geometry: "Form | None" = None, channels: int = 1
) -> list[Job]:
    """List what is to be done, each input once, with the files to write.

    Args:
        inputs: of `find_inputs`.
        output: folder to write to.
        overlay: draw pictures, too.
        geometry: as of `Job`.
        channels: that the model takes of a volume: files that hold one each are one input.

    Raises:
        SegzooError: a file would be written twice, or over an input.
    """
    jobs: dict[Path, Job] = {}  # by the mask
    makers: dict[Path, Path] = {}  # what is written -> what it is made from
    output_leads = leads_to(output)
    cases: set[Path] = set()  # of which one channel was met
    for given in inputs:
        case = given.path.with_name(f"{image_name(given)}{given.path.suffix}")
        if case in cases and image_name(given) != given.stem:
            continue  # another channel of it
        one = as_case(given, channels, geometry)
        if one is not given:
            cases.add(case)
        file, mask, picture = one.path, output / one.mask_name, output / f"{one.stem}_overlay.png"
        drawn, left = (picture, None) if overlay else (None, picture)
        known = one if isinstance(one, DicomCase | CaseFiles) else None
        job = Job(file, mask, overlay=drawn, left=left, geometry=geometry, reader=known)
        for written in filter(None, (job.mask, job.overlay)):
            first = makers.setdefault(written, file)
            if leads_to(first) != leads_to(file):
                raise written_twice(first, file, written)
        if output_leads in (leads_to(file).parent, leads_to(file.parent)):  # where it is, and where it is linked
            raise SegzooError(f"{file} lies in the output folder {output} and could be overwritten; write elsewhere")
        jobs.setdefault(job.mask, job)
    return list(jobs.values())


def as_case(given: Reader, channels: int, geometry: "Form | None") -> Reader:
    """Return an input or, where it is one channel of a case, the whole case; arguments as of `plan`."""
    if not isinstance(given, VolumeFile) or (case := case_of(given.path, channels)) is None:
        return given
    found = attempt(channel_files, given.path, channels)  # what is missing, reading it will tell
    return CaseFiles([given.path] if isinstance(found, SegzooError) else found, case, geometry)


def require_distinct(jobs: Iterable[Job], channels: Sequence[str] | None) -> None:
    """Refuse what `plan` cannot tell before the classes' names are known, which are in those of the files.

    Args:
        jobs: of `plan`.
        channels: the classes' names where each has a mask of its own (multi-label), else None.

    Raises:
        SegzooError: a file would be written twice.
    """
    require_own_files(channels or ())
    makers: dict[Path, Path] = {}
    for job in jobs:
        for written in written_files(job, channels):
            first = makers.setdefault(written, job.file)
            if first != job.file:
                raise written_twice(first, job.file, written)
        if job.overlay in mask_paths(job.mask, channels):
            raise SegzooError(f"{job.overlay} would be a mask and the overlay of {job.file}; leave --overlay out")


def written_twice(first: Path, second: Path, written: Path) -> SegzooError:
    """Return the error that two inputs would be written to one file."""
    return SegzooError(f"{first} and {second} would both be written to {written.name}; rename one of them")


def leads_to(path: Path) -> Path:
    """Return a path without links on the way; also of a link to itself, where ``Path.resolve`` raises."""
    return Path(os.path.realpath(path))


def require_writable(folder: Path) -> None:
    """Make the output folder, before hours go into what cannot be written there.

    Raises:
        SegzooError: it cannot be made, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SegzooError(f"nothing can be written in {folder} ({error.strerror}); name another --output") from error


# ---- resume


def written_files(job: Job, channels: Sequence[str] | None) -> list[Path]:
    """Return all files that a job writes."""
    return [*mask_paths(job.mask, channels), *filter(None, [job.overlay]), *job.maps]
