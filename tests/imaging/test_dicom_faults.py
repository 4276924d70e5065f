"""What is wrong with a DICOM series ends in one sentence that names it by folder and number, and stops no other."""

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, HTJ2KLossless, JPEG2000Lossless, generate_uid

import dicom_writer as writer
from segzoo.errors import MissingError, MissingPackageError, SegzooError
from segzoo.imaging.dicom_files import is_dicom
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.readers import reader_of
from segzoo.limits import DICOM_FILES, DICOM_FRAMES, VOXELS
from segzoo.prediction.plan import find_inputs

PLACE = Geometry.along_axes((8, 6, 5), (2.5, 0.7, 0.7), "SPL")
Change = Callable[[int, Dataset], Dataset | None]


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 1000, PLACE.shape).astype(np.int16)


def moved(index: int, made: Dataset, by: tuple[float, float, float]) -> Dataset:
    """A slice that lies elsewhere."""
    made.ImagePositionPatient = [float(here) + step for here, step in zip(made.ImagePositionPatient, by, strict=True)]
    return made


def changed(index: int, made: Dataset, **elements: Any) -> Dataset:
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


FAULTS: dict[str, Change] = {
    "a slice is missing": lambda index, made: None if index == 4 else made,
    "slices at uneven distances": lambda index, made: moved(index, made, (0, 0, index**2 / 10)),
    "two stacks in one": lambda index, made: moved(index, made, (0, 0, -10 if index > 3 else 0)),
    "the first slice lies askew": lambda index, made: moved(index, made, (3.0 * (index == 4), 0, 0)),
    "a tilted gantry": lambda index, made: moved(index, made, (0, 0.5 * index, 0)),
    "several directions": lambda index, made: changed(
        index, made, ImageOrientationPatient=[1, 0, 0, 0, 1, 0] if index % 2 else [0, 1, 0, 0, 0, -1]
    ),
    "directions that are none": lambda index, made: changed(index, made, ImageOrientationPatient=[0, 0, 0, 0, 1, 0]),
    "axes that are not at right angles": lambda index, made: changed(
        index, made, ImageOrientationPatient=[1, 0, 0, 0.28, 0.96, 0]
    ),
    "several sizes": lambda index, made: writer.with_pixels(made, np.zeros((4 + index % 2, 5), np.int16)),
    "several sizes of pixels": lambda index, made: changed(index, made, PixelSpacing=[0.7 + index, 0.7]),
    "no size of pixels": lambda index, made: changed(index, made, PixelSpacing=None),
    "pixels without a size": lambda index, made: changed(index, made, PixelSpacing=[0, 0]),
    "colours": lambda index, made: writer.with_pixels(made, np.zeros((6, 5, 3), np.uint8), colours=True),
    "a slope of nothing": lambda index, made: changed(index, made, RescaleSlope=0, RescaleIntercept=0),
    "pixels cut short": lambda index, made: changed(
        index, made, PixelData=made.PixelData[: 40 if index == 3 else None]
    ),
    "a transfer syntax that is not read": lambda index, made: other_syntax(made, HTJ2KLossless),
    "damage": lambda index, made: other_syntax(made, JPEG2000Lossless),
}


def other_syntax(made: Dataset, syntax: str) -> Dataset:
    """A file that says that it is compressed, and holds nothing of the kind."""
    made.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
    made.file_meta.TransferSyntaxUID = syntax
    return made


@pytest.mark.parametrize("fault", FAULTS)
def test_a_series_is_right_or_refused(tmp_path, array, refused, fault):
    writer.write_series(tmp_path / "study" / "ct", array, PLACE, change=FAULTS[fault])
    with refused(SegzooError) as caught:
        reader_of(tmp_path / "study" / "ct").for_volumes(1)
    assert f"{tmp_path / 'study' / 'ct' / 'series 3'}" in str(caught.value)
    assert not any(word in str(caught.value) for word in ("Grabowski", "4711", "1.2.826"))


def test_slices_twice_or_at_several_times_are_refused(tmp_path, array, refused):
    for time in (0, 1):
        writer.write_series(
            *(tmp_path / "dce", array + time, PLACE),
            uid="1.2.3",
            name=f"{time}-{{}}",
            change=lambda index, made: changed(index, made, SOPInstanceUID=generate_uid()),
        )
    with refused(SegzooError):
        reader_of(tmp_path / "dce").for_volumes(1)


def test_a_slice_alone_a_picture_and_a_screen_are_no_volumes(tmp_path, array, refused):
    writer.write_series(tmp_path / "one", array[:1], PLACE)
    picture = writer.with_pixels(writer.dataset(writer.ULTRASOUND, "1", 4, 9, Modality="US"), array[0])
    writer.write(tmp_path / "us" / "a", picture)
    for folder in ("one", "us"):
        with refused(SegzooError):
            reader_of(tmp_path / folder).for_volumes(1)
    writer.write_series(tmp_path / "mr", array, PLACE)
    for ask in (reader_of(tmp_path / "mr").for_volumes, reader_of(tmp_path / "mr").for_images):
        with refused(SegzooError):
            ask(2)


def test_files_that_are_damaged_are_named_and_stop_no_other(tmp_path, array, refused):
    good, bad = tmp_path / "good", tmp_path / "bad"
    writer.write_series(good, array, PLACE)
    files = writer.write_series(bad, array, PLACE)
    for path, content in (
        (bad / "cut", files[0].read_bytes()[:300]),
        (bad / "garbled", files[0].read_bytes()[:140] + os.urandom(999)),
        (bad / "other.dcm", b"no DICOM"),
        (bad / "empty.dcm", b""),
    ):
        path.write_bytes(content)
    for file in files:
        file.unlink()
    found, _, errors = find_inputs([tmp_path])
    assert [case.mask_name for case in found] == ["good_3.nii.gz"]
    assert len(errors) == 4
    for name in ("cut", "garbled", "other.dcm", "empty.dcm"):
        assert sum(str(bad / name) in str(error) for error in errors) == 1
    (good / "IM0003").unlink()  # after it was found
    with refused(MissingError):
        found[0].for_volumes(1)


def test_a_file_that_is_packed_as_a_whole_is_not_unpacked(tmp_path, array, refused):
    (file, *_) = writer.write_series(tmp_path / "mr", array[:1], PLACE)
    made = writer.reread(file)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    writer.write(file, made)
    with refused(SegzooError):
        reader_of(file)


def test_pipes_and_links_that_go_in_a_ring(tmp_path, array):
    writer.write_series(tmp_path / "mr", array, PLACE)
    os.mkfifo(tmp_path / "mr" / "pipe")
    (tmp_path / "mr" / "ring").symlink_to(tmp_path)
    (tmp_path / "mr" / "nowhere").symlink_to(tmp_path / "nothing")
    found, _, errors = find_inputs([tmp_path])
    assert [(case.slices, case.mask_name) for case in found] == [(8, "mr_3.nii.gz")]
    assert errors == []
    assert not is_dicom(tmp_path / "mr" / "pipe")


@pytest.mark.parametrize("limit", [DICOM_FILES, VOXELS], ids=lambda limit: limit.name)
def test_more_than_a_limit_is_refused(tmp_path, array, monkeypatch, limit):
    writer.write_series(tmp_path / "mr", array, PLACE)
    monkeypatch.setenv(limit.variable, "7")
    with pytest.raises(SegzooError, match=limit.variable):
        reader_of(tmp_path / "mr").for_volumes(1)


def test_frames_have_a_limit(tmp_path, array, monkeypatch):
    file = writer.write_enhanced(tmp_path / "x", array, PLACE)
    monkeypatch.setenv(DICOM_FRAMES.variable, "7")
    with pytest.raises(SegzooError, match=DICOM_FRAMES.variable):
        reader_of(file)


def test_without_pydicom_a_sentence_says_how_to_get_it(tmp_path, array, monkeypatch):
    writer.write_series(tmp_path / "mr", array, PLACE)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackageError, match="pip install"):
        reader_of(tmp_path / "mr")
