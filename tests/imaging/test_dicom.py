"""DICOM against NIfTI twins, SimpleITK and what was written: place, values, pictures, films, and which case is what."""

import itertools
import locale
import logging
import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.pixels import apply_color_lut
from pydicom.sequence import Sequence as Items
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

import dicom_writer as writer
from segzoo.cli.command import main
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.dicom import DicomCase
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.itk import simpleitk
from segzoo.imaging.readers import Reader, reader_of
from segzoo.imaging.volumes import Volume, read_volume, read_volume_mask, write_volume_mask
from segzoo.prediction.plan import find_inputs, plan
from segzoo.prediction.resume import SOURCE, unfinished
from segzoo.preprocessing.image import Preprocessing, Slices

TILTED = np.linalg.qr([[0.9, 0.3, -0.2], [-0.25, 0.95, 0.15], [0.2, -0.1, 0.97]])[0]


@pytest.fixture(scope="module")
def whole(samples: Path) -> Volume:
    """A hippocampus of the Decathlon, whose intensities are whole numbers."""
    return read_volume(samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz")


@pytest.fixture(scope="module")
def hippocampus(whole: Volume) -> Volume:
    """A part of it."""
    affine = whole.geometry.affine.copy()
    affine[:3, 3] = (affine @ [10, 12, 8, 1])[:3]
    array = np.ascontiguousarray(whole.array[:, 10:22, 12:27, 8:18])
    return Volume(array, Geometry(array.shape[1:], affine))


def cut(volume: Volume, axis: int, *, backwards: bool, spacing: float = 1.0, turn: Any = None) -> tuple[Any, Geometry]:
    """A volume as slices across an axis, stacked one way or the other: 16-bit [D, H, W], and its grid."""
    order = [axis, *(other for other in range(3) if other != axis)]
    array, affine = volume.array[0].transpose(order), volume.geometry.affine[:, [*order, 3]].copy()
    affine[:3, 0] *= spacing
    if turn is not None:
        affine[:3] = turn @ affine[:3]
    if backwards:
        array, affine[:3, 3] = array[::-1], affine[:3, 3] + (len(array) - 1) * affine[:3, 0]
        affine[:3, 0] *= -1
    return np.round(array).astype(np.uint16), Geometry(array.shape, affine)


def along(volume: Volume, other: Geometry) -> Volume:
    """A volume with its slices in the order that another grid has them."""
    if volume.geometry.affine[:3, 0] @ other.affine[:3, 0] > 0:
        return volume
    affine = volume.geometry.affine.copy()
    affine[:3, 3] += (volume.geometry.shape[0] - 1) * affine[:3, 0]
    affine[:3, 0] *= -1
    return Volume(volume.array[:, ::-1], Geometry(volume.geometry.shape, affine))


def cases(*given: Path, names: str = "folder") -> list[DicomCase]:
    """What there is to segment."""
    found, _, refused = find_inputs(given, names)
    assert refused == []
    return found


# ---- volumes


@pytest.mark.parametrize(("axis", "backwards"), [*itertools.product(range(3), (False, True))])
@pytest.mark.parametrize("way", ["straight", "oblique", "anisotropic"])
def test_a_series_is_the_volume_that_nifti_holds(tmp_path, hippocampus, axis, backwards, way):
    spacing, turn = (3.3 if way == "anisotropic" else 1.0), (TILTED if way == "oblique" else None)
    array, geometry = cut(hippocampus, axis, backwards=backwards, spacing=spacing, turn=turn)
    shuffled = np.random.default_rng(axis).permutation(len(array)).tolist()
    writer.write_series(tmp_path / "mr", array, geometry, order=shuffled)
    write_volume_mask(tmp_path / "twin.nii.gz", array, geometry)
    twin, found = read_volume(tmp_path / "twin.nii.gz"), reader_of(tmp_path / "mr").for_volumes(1)
    same = along(found, twin.geometry)
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(same.array, twin.array)
    np.testing.assert_allclose(same.geometry.affine, twin.geometry.affine, atol=2e-5)
    assert same.geometry.orientation == twin.geometry.orientation
    # the very voxels and the very place that SimpleITK reads
    files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "mr"))
    by_itk = sitk.ReadImage(files, imageIO="GDCMImageIO")
    np.testing.assert_array_equal(found.array[0], sitk.GetArrayFromImage(by_itk))
    index = np.array([5, 4, 3])
    place = writer.LPS_TO_RAS @ by_itk.TransformIndexToPhysicalPoint(index[::-1].tolist())
    np.testing.assert_allclose((found.geometry.affine @ [*index, 1])[:3], place, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "Task09_Spleen_crop/ct_scan/sub-spleen2/ct/sub-spleen2_ct.nii.gz",
        "vertebrae_TPTBox/sample_ct/sub-ct_label-22_ct.nii.gz",
        "spinalcord_sct/t2/t2.nii.gz",
        "pyradiomics_cases/breast1_image.nrrd",
    ],
)
def test_volumes_of_other_scanners(shared, tmp_path, name):
    volume = read_volume(shared / "data" / name)
    first = volume.geometry.shape[0] // 2
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = (affine @ [first, 0, 0, 1])[:3]
    array = np.round(volume.array[0, first : first + 8]).astype(np.int16)
    geometry = Geometry(array.shape, affine)
    writer.write_series(tmp_path / "ct", array, geometry, kind=writer.CT)
    found = along(reader_of(tmp_path / "ct").for_volumes(1), geometry)
    np.testing.assert_array_equal(found.array[0], array)
    np.testing.assert_allclose(found.geometry.affine, affine, atol=1e-4)
    assert found.geometry.orientation == geometry.orientation


def test_a_mask_of_a_series_is_that_of_its_nifti_twin(tmp_path, whole, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array, geometry = cut(whole, 1, backwards=True, turn=TILTED)
    writer.write_series(Path("study/mr"), array, geometry)
    writer.write_series(Path("study/bad"), array, geometry, change=lambda index, made: made if index != 9 else None)
    write_volume_mask("twin.nii.gz", array, geometry)
    model = Path(__file__).parents[2] / "model_cards" / "mednext-s-k3-hippocampus"

    def predict(*words: str, status: int) -> str:
        """What the command says."""
        assert main(["predict", str(model), *words, "--device", "cpu", "--overlap", "0"]) == status
        return "".join(capfd.readouterr())

    said = predict("study", "twin.nii.gz", "--output", "out", status=2)
    assert "study/mr/series 3 -> out/mr_3.nii.gz" in said
    assert "study/bad/series 3" in said
    found, place = read_volume_mask("out/mr_3.nii.gz")
    twin, other = read_volume_mask("out/twin.nii.gz")
    one = along(Volume(found[None].astype(np.float32), place), other)
    assert len(np.unique(found)) == 3
    np.testing.assert_array_equal(one.array[0], twin)
    np.testing.assert_allclose(one.geometry.affine, other.affine, atol=2e-5)
    assert "2 of 2 were done before" in predict("study/mr", "twin.nii.gz", "--output", "out", status=0)
    for name in ("Grabowski", "Eleonore", "4711"):
        assert name not in said
        assert not any(name.encode() in path.read_bytes() or name in path.name for path in Path("out").iterdir())
    # the same as DICOM SEG, which a NIfTI file cannot have
    segs = ["study/mr", "twin.nii.gz", "--output", "segs", "--format", "dicom-seg"]
    assert "twin.nii.gz is not DICOM" in predict(*segs, status=2)
    content = writer.reread(Path("segs/mr_3.dcm"))
    assert (content.PatientName, content.Modality) == (writer.PATIENT, "SEG")
    segments = [one.SegmentLabel for one in content.SegmentSequence]
    assert segments == ["Anterior", "Posterior"]
    assert content.pixel_array.sum() == (found > 0).sum()
    assert "1 of 1 were done before" in predict(*segs, status=2)


def test_what_was_done_is_done_again_where_a_slice_has_changed(tmp_path, hippocampus):
    array, geometry = cut(hippocampus, 0, backwards=False)
    files = writer.write_series(tmp_path / "mr", array, geometry)

    def note() -> str:
        (job,) = unfinished(plan(cases(tmp_path), tmp_path / "out", overlay=False), {}, None)
        return job.note

    before = note()
    assert note() == before
    os.utime(files[5], (0, 0))
    assert note() != before
    assert note()[:SOURCE] == before[:SOURCE]  # where it lies


@pytest.mark.parametrize("high", [11, 15])
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_hounsfield_units_and_12_bits_of_16(tmp_path, hippocampus, high, syntax):
    array, geometry = cut(hippocampus, 0, backwards=False)
    array, geometry = array[:4], Geometry((4, *array.shape[1:]), geometry.affine)
    beside = 0xA000 if high == 11 else 0x000A  # as of an old overlay in the bits that are not used

    def scanner(index: int, made: Dataset) -> Dataset:
        made.BitsStored, made.HighBit, made.RescaleSlope, made.RescaleIntercept = 12, high, 2, -1024
        made.PixelData = (array[index] << (high - 11) | np.uint16(beside)).tobytes()
        return made

    writer.write_series(tmp_path / "ct", array, geometry, kind=writer.CT, change=scanner, syntax=syntax)
    np.testing.assert_array_equal(reader_of(tmp_path / "ct").for_volumes(1).array[0], array * 2.0 - 1024)


def test_signed_numbers_and_slopes_that_differ_from_slice_to_slice(tmp_path, hippocampus):
    array, geometry = cut(hippocampus, 0, backwards=False)
    signed = array.astype(np.int16) - 50

    def scanner(index: int, made: Dataset) -> Dataset:
        made.RescaleSlope, made.RescaleIntercept, made.PhotometricInterpretation = index + 1, 0, "MONOCHROME1"
        return made

    writer.write_series(tmp_path / "pet", signed, geometry, change=scanner)
    expected = signed * np.arange(1, len(array) + 1, dtype=np.float32)[:, None, None]  # and nothing turned round
    np.testing.assert_array_equal(reader_of(tmp_path / "pet").for_volumes(1).array[0], expected)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, "JPEG", "JPEG2000"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
def test_compressed_slices(tmp_path, hippocampus, syntax, kind):
    array, geometry = cut(hippocampus, 0, backwards=True)
    array = (array[:4].astype(np.int32) - (0 if kind is np.uint16 else 60)).astype(kind)
    geometry = Geometry(array.shape, geometry.affine)
    folder, before = tmp_path / "mr", locale.setlocale(locale.LC_ALL)
    if syntax in ("JPEG", "JPEG2000"):  # which GDCM writes
        folder.mkdir()
        for file in writer.write_series(tmp_path / "raw", array, geometry):
            with simpleitk():
                save = sitk.ImageFileWriter()
                save.SetImageIO("GDCMImageIO")
                save.KeepOriginalImageUIDOn()
                save.UseCompressionOn()
                save.SetCompressor(syntax)
                save.SetFileName(str(folder / f"{file.name}.dcm"))
                save.Execute(sitk.ReadImage(str(file), imageIO="GDCMImageIO"))
    else:
        writer.write_series(folder, array, geometry, syntax=syntax)
    first = next(folder.iterdir())
    assert writer.reread(first).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(np.sort(reader_of(folder).for_volumes(1).array, 1), np.sort(array[None], 1))
    assert locale.setlocale(locale.LC_ALL) == before  # by which Python decodes what other programs say


def test_frames_of_one_file_each_with_its_slope(tmp_path, hippocampus):
    array, geometry = cut(hippocampus, 2, backwards=False)
    slopes = np.linspace(0.5, 2, len(array)).round(3)
    file = writer.write_enhanced(tmp_path / "x" / "enhanced", array, geometry, slopes.tolist())
    case = reader_of(file)
    found = along(case.for_volumes(1), geometry)
    assert case.mask_name == "x_7.nii.gz"
    np.testing.assert_allclose(found.array[0], array * slopes[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(found.geometry.affine, geometry.affine, atol=1e-5)


def test_a_model_of_images_sees_slices_as_those_of_nifti(tmp_path, hippocampus):
    array, geometry = cut(hippocampus, 0, backwards=False)
    writer.write_series(tmp_path / "mr", array, geometry)
    case = reader_of(tmp_path / "mr")
    assert isinstance(case, Reader)
    np.testing.assert_array_equal(case.for_images(3).array, case.for_volumes(1).array)


# ---- pictures and films


def picture(
    path: Path,
    pixels: np.ndarray,
    *,
    colours: bool = False,
    kind: str = writer.ULTRASOUND,
    uid: str = "1.2",
    **more: Any,
) -> Path:
    """A file of ultrasound, or of what lies in no body."""
    made = writer.with_pixels(writer.dataset(kind, uid, 5, 2, Modality="US"), pixels, colours=colours)
    for keyword, value in more.items():
        setattr(made, keyword, value)
    return writer.write(path, made)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)


def seen(path: Path, channels: int = 1, *stated: tuple[float, float]) -> np.ndarray:
    """What a model of images is given."""
    return reader_of(path).for_images(channels, *stated)


def test_a_picture_is_what_a_person_sees(tmp_path, grey):
    path = picture(tmp_path / "us" / "a", grey)
    assert (reader_of(path).mask_name, reader_of(path).path) == ("us_5_2.png", tmp_path / "us" / "series 5 image 2")
    np.testing.assert_array_equal(seen(path)[..., 0], grey)
    np.testing.assert_array_equal(seen(path, 3)[..., 2], grey)
    whole = picture(tmp_path / "b", grey, WindowCenter=128, WindowWidth=256)
    np.testing.assert_array_equal(seen(whole)[..., 0], grey)
    turned = picture(tmp_path / "c", grey, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(seen(turned)[..., 0], 255 - grey)
    colours = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    np.testing.assert_array_equal(seen(picture(tmp_path / "d", colours, colours=True), 3), colours)


def test_more_bits_are_seen_through_a_window_a_table_or_whole(tmp_path, grey):
    deep = grey.astype(np.uint16) * 16  # 12 bits
    twelve = {"BitsStored": 12, "HighBit": 11, "Modality": "DX", "kind": "1.2.840.10008.5.1.4.1.1.1.1"}
    whole = seen(picture(tmp_path / "a", deep, **twelve))[..., 0]
    assert np.abs(whole.astype(int) - grey).max() <= 1
    centre, width = 2000.0, 1000.0
    linear = np.clip(((deep - (centre - 0.5)) / (width - 1) + 0.5) * 255, 0, 255).round()
    window = {"WindowCenter": [centre, 40], "WindowWidth": [width, 80]}
    np.testing.assert_array_equal(seen(picture(tmp_path / "b", deep, **twelve, **window))[..., 0], linear)
    sigmoid = (255 / (1 + np.exp(-4 * (deep - centre) / width))).round()
    curved = seen(picture(tmp_path / "c", deep, **twelve, **window, VOILUTFunction="SIGMOID"))[..., 0]
    assert np.abs(curved - sigmoid).max() <= 1
    units = picture(tmp_path / "d", deep, **twelve, **window, RescaleSlope=1, RescaleIntercept=-1000)
    ranged = np.clip((deep - 2000.0) / 1000 * 255, 0, 255).round()
    np.testing.assert_array_equal(seen(units, 1, (1000, 2000))[..., 0], ranged)  # stated, in units of the modality
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = ((255 - np.arange(4096, dtype=np.uint16) // 16) * 257).tobytes()
    table["LUTData"].VR = "OW"
    by_table = seen(picture(tmp_path / "e", deep, **twelve, VOILUTSequence=Items([table])))[..., 0]
    np.testing.assert_array_equal(by_table, 255 - grey)


def test_a_palette_and_a_jpeg_in_colours(tmp_path, grey):
    ramp = np.arange(256, dtype=np.uint16) * 257
    palette: dict[str, Any] = {}
    for shift, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = np.roll(ramp, 40 * shift).tobytes()
    path = picture(tmp_path / "a", grey, PhotometricInterpretation="PALETTE COLOR", **palette)
    np.testing.assert_array_equal(seen(path, 3), apply_color_lut(grey, writer.reread(path)) >> 8)
    ramps = np.meshgrid(np.arange(32) * 8, np.arange(24) * 10)
    smooth = np.stack([*ramps, np.full((24, 32), 90)], axis=-1).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95)
    made = writer.with_pixels(writer.dataset(writer.ULTRASOUND, "1.2.3", 5, 1, Modality="US"), smooth, colours=True)
    made.PhotometricInterpretation, made.PixelData = "YBR_FULL_422", encapsulate([file.getvalue()])
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    made["PixelData"].is_undefined_length = True
    found = seen(writer.write(tmp_path / "b", made), 3)
    assert np.abs(found.astype(int) - np.asarray(Image.open(file).convert("RGB"))).max() <= 4


def test_a_film_is_a_volume_of_pictures(tmp_path):
    film = np.random.default_rng(2).integers(0, 256, (5, 20, 30, 3), np.uint8)
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3  # centimetres
    region.PhysicalDeltaX, region.PhysicalDeltaY = 0.02, 0.03
    regions = {"SequenceOfUltrasoundRegions": Items([region])}
    path = picture(tmp_path / "us" / "film", film, colours=True, kind=writer.ULTRASOUND_FILM, **regions)
    case = reader_of(path)
    found = case.for_images(3)
    assert case.mask_name == "us_5_2.nii.gz"
    assert found.geometry.spacing == pytest.approx((1, 0.3, 0.2))
    np.testing.assert_array_equal(found.array, np.moveaxis(film, -1, 0))
    contract = Preprocessing(image_size=(16, 16))
    batch = next(iter(Slices(contract, found.array)))  # frame by frame what the picture would be
    np.testing.assert_array_equal(batch[3], contract(film[3]))
    with pytest.raises(SegzooError, match="series 5 image 2"):
        case.for_volumes(1)


# ---- which case is what


def test_every_series_is_a_case_named_by_folder_and_number(tmp_path, hippocampus, monkeypatch):
    array, geometry = cut(hippocampus, 0, backwards=False)
    array, geometry = array[:3], Geometry((3, *array.shape[1:]), geometry.affine)
    for folder, number, uid in (("a/ct", 1, "1.1"), ("a/ct", 2, "1.2"), ("b/ct", 1, "2.1"), ("b/none", None, "2.9")):
        writer.write_series(tmp_path / folder, array, geometry, number=number, uid=uid, name=f"{number}-{{}}")
    (tmp_path / "a" / "ct" / "preview.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("nothing")
    found = cases(tmp_path)
    names = sorted(case.mask_name for case in found)
    assert [re.sub("_[0-9a-f]{6}[.]", "_HASH.", name) for name in names] == [
        *("ct_1_HASH.nii.gz", "ct_1_HASH.nii.gz", "ct_2.nii.gz", "none.nii.gz")
    ]
    assert names[0] != names[1]
    assert sorted(case.path for case in found)[0] == tmp_path / "a" / "ct" / "series 1"
    assert all(case.slices == 3 for case in found)
    assert [case.mask_name for case in cases(tmp_path / "b")] == ["ct_1.nii.gz", "none.nii.gz"]
    # one by one, as a shell gives them, it is one series, too
    assert [case.slices for case in cases(*sorted((tmp_path / "b" / "none").iterdir()))] == [3]
    by_dicom = [case.mask_name for case in cases(tmp_path / "b", names="dicom")]
    assert by_dicom == ["brain-of-Grabowski-Eleonore_2.1.nii.gz", "brain-of-Grabowski-Eleonore_2.9.nii.gz"]
    with pytest.raises(SegzooError, match=r"2 series.*series 1, series 2"):
        reader_of(tmp_path / "a" / "ct")
    monkeypatch.chdir(tmp_path / "b" / "ct")
    assert [case.stem for case in cases(Path())] == ["ct_1"]


def test_a_disc_is_read_by_its_directory_and_does_not_lead_elsewhere(tmp_path, hippocampus, refused):
    array, geometry = cut(hippocampus, 0, backwards=False)
    files = writer.write_series(tmp_path / "mr", array[:3], Geometry((3, *array.shape[1:]), geometry.affine))
    disc = FileSet()
    for file in files:
        disc.add(file)
    disc.write(tmp_path / "disc")
    directory = tmp_path / "disc" / "DICOMDIR"
    assert [case.slices for case in cases(directory)] == [case.slices for case in cases(tmp_path / "disc")] == [3]
    content = pydicom.dcmread(directory)
    listed = [one for one in content.DirectoryRecordSequence if "ReferencedFileID" in one]
    listed[1].ReferencedFileID = ["..", "mr", "IM0001"]
    content.save_as(directory)
    with refused(SegzooError):
        find_inputs([directory])
    listed[1].ReferencedFileID = ["IM0009"]
    content.save_as(directory)
    with refused(MissingError):
        find_inputs([directory])


def test_what_is_derived_or_no_image_is_left_out_by_name(tmp_path, hippocampus, caplog):
    array, geometry = cut(hippocampus, 0, backwards=False)
    array, geometry = array[:3], Geometry((3, *array.shape[1:]), geometry.affine)
    study = tmp_path / "study"
    writer.write_series(study / "ct", array, geometry, number=1, kind=writer.CT)
    writer.write_series(study / "mpr", array, geometry, number=2, ImageType=["DERIVED", "SECONDARY", "MPR"])
    writer.write_series(study / "scout", array, geometry, number=3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    screen = np.zeros((20, 30, 3), np.uint8)
    picture(study / "dose" / "x", screen, colours=True, kind=writer.CAPTURE, Modality="CT", uid="1.9")
    report = writer.dataset("1.2.840.10008.5.1.4.1.1.88.11", "1.10", 9, 1, Modality="SR")
    writer.write(study / "report" / "x", report)
    with caplog.at_level(logging.INFO, "segzoo"):
        assert [case.mask_name for case in cases(study)] == ["ct_1.nii.gz"]
    for place in ("mpr/series 2", "scout/series 3", "dose/series 5 image 2", "1 SR"):
        assert place in caplog.text
    assert "Grabowski" not in caplog.text
    assert [case.mask_name for case in cases(study / "mpr")] == ["mpr_2.nii.gz"]  # asked for by itself
    assert [case.mask_name for case in cases(study / "dose")] == ["dose_5_2.png"]
    (tmp_path / "only").mkdir()
    writer.write(tmp_path / "only" / "x", report)
    with pytest.raises(MissingError):
        find_inputs([tmp_path / "only"])


def test_copies_are_read_once(tmp_path, hippocampus):
    array, geometry = cut(hippocampus, 0, backwards=False)
    for folder in ("one", "two"):
        writer.write_series(tmp_path / folder, array, geometry, uid="1.2.3.4")
    (case,) = cases(tmp_path)
    np.testing.assert_array_equal(case.for_volumes(1).array[0], array)
