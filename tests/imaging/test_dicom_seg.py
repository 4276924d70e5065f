"""DICOM SEG against highdicom's reading of it, dcmqi's and dicom3tools', and what it says of images and algorithm."""

import json
import shutil
import subprocess
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

import dicom_writer as writer
from segzoo.catalogue import CODES, SOMETHING, Codes, Concept
from segzoo.checkpoints.codes import codes_of, refuse_strange_codes
from segzoo.errors import MissingPackageError, SegzooError
from segzoo.hub.listing import list_checkpoints
from segzoo.imaging.dicom import DicomCase
from segzoo.imaging.dicom_seg import Algorithm, DicomMask, write_seg
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.readers import reader_of
from segzoo.imaging.volumes import read_volume, read_volume_mask
from segzoo.prediction.plan import find_inputs
from segzoo.prediction.seg import with_segs

PART = Codes(*CODES["nucleus"][:2], Concept("255549009", "SCT", "Anterior"))
ALGORITHM = Algorithm("tiny", "1.2", "0.1.0", "which one", {"lesion": CODES["lesion"], "part": PART})
TILTED = np.linalg.qr([[0.9, 0.3, -0.2], [-0.25, 0.95, 0.15], [0.2, -0.1, 0.97]])[0]


@pytest.fixture(scope="module")
def labelled(samples: Path) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """A hippocampus, its two classes, and where it would lie if it were oblique and anisotropic."""
    file = samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz"
    volume = read_volume(file)
    mask, _ = read_volume_mask(samples / "Task04_Hippocampus" / "labelsTr" / file.name)
    affine = volume.geometry.affine.copy()
    affine[:3, 0] *= 2.5
    affine[:3] = TILTED @ affine[:3]
    return volume.array[0].astype(np.uint16), mask, Geometry(mask.shape, affine)


def write(path: Path, mask: np.ndarray, case: DicomCase, **more: Any) -> Path:
    write_seg(path, mask, case, ALGORITHM, **{"multilabel": False, **more})
    return path


def on_grid(frames: dict[int, np.ndarray], affine: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Slices that lie somewhere, put in their places in a volume.

    Args:
        frames: number -> slice.
        affine: from numbers of slices, rows and columns to RAS.
        geometry: of the volume.
    """
    found = np.zeros(geometry.shape, np.uint8)
    for number, frame in frames.items():
        depth, row, column, _ = np.linalg.solve(geometry.affine, affine @ [number, 0, 0, 1])
        assert (row, column) == pytest.approx((0, 0), abs=1e-3)
        assert depth == pytest.approx(round(depth), abs=1e-3)
        found[round(depth)] = frame
    return found


def by_highdicom(path: Path, geometry: Geometry) -> np.ndarray:
    """The classes of a SEG as highdicom puts them in place."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True, allow_missing_positions=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    return on_grid(dict(enumerate(volume.array)), affine, geometry)


def by_dcmqi(path: Path, folder: Path, geometry: Geometry) -> np.ndarray:
    """The classes of a SEG as dcmqi puts them in place."""
    program = Path(sysconfig.get_path("scripts")) / "segimage2itkimage"
    if not program.is_file():
        pytest.skip("dcmqi has no wheel for this machine")
    options = ["--inputDICOM", path, "--outputDirectory", folder, "--prefix", "dcmqi", "-t", "nrrd", "--mergeSegments"]
    subprocess.run([program, *options], check=True, capture_output=True)
    image = sitk.ReadImage(str(folder / "dcmqi-1.nrrd"))
    array, affine = sitk.GetArrayFromImage(image), np.eye(4)
    directions = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, :3] = writer.LPS_TO_RAS @ directions[:, ::-1]
    affine[:3, 3] = writer.LPS_TO_RAS @ image.GetOrigin()
    return on_grid(dict(enumerate(array)), affine, geometry)


@pytest.mark.parametrize("kind", ["series", "frames of one file"])
def test_every_voxel_is_in_its_place(tmp_path, labelled, kind):
    array, mask, geometry = labelled
    if kind == "series":
        shuffled = np.random.default_rng(0).permutation(len(array)).tolist()
        writer.write_series(tmp_path / "mr", array, geometry, order=shuffled)
    else:
        writer.write_enhanced(tmp_path / "mr" / "x", array, geometry)
    case = reader_of(tmp_path / "mr")
    own = mask if np.allclose(case.for_volumes(1).geometry.affine, geometry.affine, atol=1e-3) else mask[::-1]
    path = write(tmp_path / "seg.dcm", own, case, note="a note")
    np.testing.assert_array_equal(by_highdicom(path, geometry), mask)
    np.testing.assert_array_equal(by_dcmqi(path, tmp_path, geometry), mask)
    assert reader_of(path).note() == "a note"
    checked_by_dicom3tools(path)


def checked_by_dicom3tools(path: Path) -> None:
    """Ask dciodvfy, where there is one, whether a file is as the standard wants it."""
    if program := shutil.which("dciodvfy"):
        done = subprocess.run([program, path], capture_output=True, text=True, check=False)
        assert "Error" not in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dicom3tools, a package of the system, is not installed")
def test_it_is_valid(tmp_path, labelled):
    array, mask, geometry = labelled
    writer.write_series(tmp_path / "mr", array, geometry)
    checked_by_dicom3tools(write(tmp_path / "seg.dcm", mask, reader_of(tmp_path / "mr")))


def test_it_says_what_it_was_made_of_and_by_what(tmp_path, labelled):
    array, mask, geometry = labelled
    files = writer.write_series(tmp_path / "mr", array[:3], Geometry((3, *mask.shape[1:]), geometry.affine))
    both = np.stack([mask[10:13] > 0, mask[10:13] == 2])  # which overlap
    path = write(tmp_path / "seg.dcm", both, reader_of(tmp_path / "mr"), multilabel=True)
    found, source = writer.reread(path), writer.reread(files[0])
    for same in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "AccessionNumber"):
        assert found[same] == source[same]
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    named = {one.ReferencedSOPInstanceUID for one in found.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert named == {writer.reread(file).SOPInstanceUID for file in files}
    assert [one.SegmentLabel for one in found.SegmentSequence] == ["lesion", "part"]
    first, second = found.SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "52988006"
    modifier = second.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Anterior"
    algorithm = first.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("tiny", "1.2")
    assert (first.SegmentAlgorithmType, found.SoftwareVersions) == ("AUTOMATIC", "0.1.0")
    segments = [highdicom.seg.segread(path).get_volume(segment_numbers=[number]).array[..., 0] for number in (1, 2)]
    for segment, expected in zip(segments, both, strict=True):
        assert segment.sum() == expected.sum() > 0


def test_odd_values_of_the_patient_are_not_quoted(tmp_path, labelled, recwarn):
    array, mask, geometry = labelled
    odd = {"PatientSex": "female", "PatientBirthDate": "in spring", "PatientID": "P" * 70}
    writer.write_series(tmp_path / "mr", array, geometry, **odd)
    recwarn.clear()  # of what was written
    warnings.simplefilter("always")
    path = write(tmp_path / "seg.dcm", mask, reader_of(tmp_path / "mr"), note="mine")
    assert reader_of(path).note() == "mine"
    assert [str(one.message) for one in recwarn] == []
    found = writer.reread(path)
    assert (found.PatientID, found.PatientSex, found.PatientBirthDate) == (odd["PatientID"], "", "")


def test_a_picture_and_an_empty_mask(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    made = writer.with_pixels(writer.dataset(writer.ULTRASOUND, "1.2", 5, 2, Modality="US"), picture)
    for keyword in ("PatientName", "PatientID", "StudyDate", "AccessionNumber"):  # as of an anonymised file
        delattr(made, keyword)
    case = reader_of(writer.write(tmp_path / "us" / "x", made))
    mask = (picture > 100).astype(np.uint8)
    for name, own in (("a.dcm", mask), ("b.dcm", 0 * mask)):
        frame = highdicom.seg.segread(write(tmp_path / name, own, case)).pixel_array
        np.testing.assert_array_equal(frame if frame.ndim == 2 else frame[0], own)


def test_a_film_and_what_is_not_dicom_have_none(tmp_path, refused, monkeypatch):
    film = np.zeros((4, 20, 30), np.uint8)
    made = writer.with_pixels(writer.dataset(writer.ULTRASOUND_FILM, "1.2", 5, 2, Modality="US"), film)
    case = reader_of(writer.write(tmp_path / "us" / "x", made))
    with refused(SegzooError):
        write(tmp_path / "film.dcm", film, case)
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "us" / "picture.png").touch()
    (found, _), _, _ = find_inputs([tmp_path])
    with refused(SegzooError):
        with_segs([found], [])
    segs, others = with_segs([found, case], [tmp_path / "b.mp4"])
    assert [one.mask_name for one in segs] == ["us_5_2.dcm"]
    assert [Path(str(one).split(" ")[0]).name for one in others] == ["b.mp4", "a.nii.gz"]
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingPackageError, match="dicom"):
        with_segs([case], [])


def test_a_seg_is_no_input_and_its_note_tells_of_changes(tmp_path, labelled, refused):
    array, mask, geometry = labelled
    writer.write_series(tmp_path / "mr", array, geometry)
    path = write(tmp_path / "mr" / "seg.dcm", mask, reader_of(tmp_path / "mr"), note="mine")
    found, _, _ = find_inputs([tmp_path])
    assert [one.slices for one in found] == [len(array)]
    for read in (reader_of(path).for_images, reader_of(path).for_volumes):
        with refused(SegzooError):
            read(1)
    content = writer.reread(path)
    content.PixelData = bytes(len(content.PixelData))
    content.save_as(path)
    assert DicomMask(path).note() == ""
    path.write_bytes(path.read_bytes()[:900])
    assert DicomMask(path).note() is None


def test_codes_are_those_stated_else_the_zoos_else_generic(refused):
    hippocampus = {"datasets": [{"dataset": "Task04_Hippocampus"}]}
    assert codes_of("Anterior", {}, hippocampus).modifier == Concept("255549009", "SCT", "Anterior")
    assert codes_of("Anterior", {}, {}) == codes_of("valve", {}, hippocampus) == SOMETHING
    stated = {"Anterior": {"category": ["1", "SCT", "one"], "type": ["2", "99X", "two"]}}
    assert codes_of("Anterior", stated, hippocampus) == Codes(Concept("1", "SCT", "one"), Concept("2", "99X", "two"))
    refuse_strange_codes("config.json", stated)
    for wrong in (
        [],
        {"Anterior": {"type": ["2", "SCT", "two"]}},
        {"Anterior": {"category": "1", "type": ["2", "S", 3]}},
    ):
        with refused(SegzooError):
            refuse_strange_codes("config.json", wrong)


def test_every_class_of_the_zoo_has_codes():
    cards = Path(__file__).parents[2] / "model_cards"
    for checkpoint in list_checkpoints():
        entries = json.loads((cards / checkpoint / "config.json").read_text(encoding="utf-8"))
        for name in entries["class_names"][1:]:
            assert codes_of(name, {}, entries["data"]) != SOMETHING


def test_datasets_that_lack_what_a_seg_needs(tmp_path, labelled, refused):
    array, mask, geometry = labelled

    def without_study(index: int, made: Dataset) -> Dataset:
        del made.StudyInstanceUID
        return made

    writer.write_series(tmp_path / "mr", array, geometry, change=without_study)
    with refused(SegzooError):
        write(tmp_path / "seg.dcm", mask, reader_of(tmp_path / "mr"))
