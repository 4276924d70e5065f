"""Volume files and their geometry, on real ones and with nibabel as an independent reader."""

import errno
import gzip
import itertools
import os
import shutil
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.geometry import Geometry, same_grid
from segzoo.imaging.readers import inputs_in
from segzoo.imaging.volume_files import VolumeFile
from segzoo.imaging.volumes import (
    is_volume,
    read_geometry,
    read_volume,
    read_volume_mask,
    read_volume_note,
    volume_stem,
    volume_suffix,
    write_volume_mask,
)

# a file below shared/data, and where its array's axes (d, h, w) lead to: the file's own, in reverse
REAL = {
    "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz": "SAR",
    "Task09_Spleen_crop/ct_scan/sub-spleen2/ct/sub-spleen2_ct.nii.gz": "SAR",
    "vertebrae_TPTBox/sample_ct/sub-ct_label-22_ct.nii.gz": "RIP",
    "spinalcord_sct/t2/t2.nii.gz": "RSP",
    "spinalcord_sct/t2s/t2s_uncropped.nii.gz": "SAL",
    "pyradiomics_cases/brain1_image.nrrd": "SAL",
    "pyradiomics_cases/breast1_image.nrrd": "SPL",
}


@pytest.fixture(scope="module")
def scan(samples: Path) -> Path:
    """A hippocampus of the Decathlon."""
    return samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz"


def same_place(one: Path, other: Path) -> None:
    """Two files agree in shape, affine and orientation, as SimpleITK and nibabel read them."""
    first, second = sitk.ReadImage(str(one)), sitk.ReadImage(str(other))
    assert first.GetSize() == second.GetSize()
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        np.testing.assert_allclose(read(first), read(second), atol=1e-5)
    if ".nii" in one.name:
        nibabel = pytest.importorskip("nibabel")
        first, second = nibabel.load(one), nibabel.load(other)
        assert first.shape == second.shape
        np.testing.assert_allclose(first.affine, second.affine, atol=1e-5)
        assert nibabel.aff2axcodes(first.affine) == nibabel.aff2axcodes(second.affine)


# ---- real volumes


def test_a_volume_is_what_nibabel_reads(scan):
    nibabel = pytest.importorskip("nibabel")
    volume, expected = read_volume(scan), nibabel.load(scan)
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array[0], expected.get_fdata().transpose())
    np.testing.assert_allclose(volume.geometry.affine, expected.affine[:, [2, 1, 0, 3]], atol=1e-6)
    assert volume.geometry.shape == expected.shape[::-1]
    assert volume.geometry.spacing == pytest.approx(expected.header.get_zooms()[::-1])
    assert volume.geometry.orientation == "SAR"
    assert read_geometry(scan).shape == volume.geometry.shape
    np.testing.assert_array_equal(read_geometry(scan).affine, volume.geometry.affine)


def test_masks_are_read_as_stored(scan):
    mask, geometry = read_volume_mask(scan.parents[1] / "labelsTr" / scan.name)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1, 2}
    assert same_grid(geometry, read_geometry(scan))


@pytest.mark.parametrize("name", REAL)
def test_masks_lie_where_the_volume_lies(shared, tmp_path, name):
    file = shared / "data" / name
    volume = read_volume(file)
    assert volume.geometry.orientation == REAL[name]
    direction = sitk.ReadImage(str(file)).GetDirection()
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction) == REAL[name][::-1]
    bright = volume.array[0] > np.median(volume.array)
    written = tmp_path / file.name
    write_volume_mask(written, bright.astype(np.int64), volume.geometry)
    same_place(file, written)
    found, geometry = read_volume_mask(written)
    np.testing.assert_array_equal(found, bright)
    np.testing.assert_allclose(geometry.affine, volume.geometry.affine, atol=1e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(written))), bright)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".nrrd", ".Nrrd", ".mha", ".MHA", ".Mha"])
def test_every_format_keeps_values_and_place(tmp_path, suffix):
    turned = np.array([[0.0, -0.6, 2.4], [0.0, 0.8, 1.8], [-1.5, 0.0, 0.0]])  # oblique, spacing 1.5 x 1 x 3
    geometry = Geometry((4, 5, 6), np.block([[turned, np.array([[10.0], [-20.0], [30.5]])], [np.zeros(3), 1.0]]))
    mask = np.random.default_rng(0).integers(0, 300, (4, 5, 6))
    path = tmp_path / "new" / f"case.1{suffix}"
    write_volume_mask(path, mask, geometry)
    found, place = read_volume_mask(path)
    assert found.dtype == np.uint16  # for values above 255
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_allclose(place.affine, geometry.affine, atol=1e-5)
    assert place.spacing == pytest.approx((1.5, 1.0, 3.0))
    assert same_grid(place, geometry)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no draft stays behind
    write_volume_mask(path, mask > 100, geometry)
    assert read_volume_mask(path)[0].dtype == np.uint8


def test_names(refused):
    assert [is_volume(name) for name in ("a.nii", "a.NII.gz", "b/a.nrrd", "a.mha", "a.gz", "a.png", "nii")] == [
        *[True] * 4,
        *[False] * 3,
    ]
    assert (volume_stem("x/a.b.nii.gz"), volume_suffix("x/a.b.NII.gz")) == ("a.b", ".NII.gz")
    with refused(SegzooError):
        volume_stem("a.png")


def test_volumes_of_a_folder(tmp_path):
    for name in ("b.nii.gz", "a.nrrd", "._a.nrrd", "c.png"):
        (tmp_path / name).touch()
    assert [given.path.name for given in inputs_in(tmp_path) if isinstance(given, VolumeFile)] == ["a.nrrd", "b.nii.gz"]


@pytest.mark.parametrize("letters", ["".join(x) for x in itertools.product("SI", "AP", "RL")])
def test_orientation_is_read_off_the_affine(letters):
    for order in itertools.permutations(letters):
        orientation = "".join(order)
        geometry = Geometry.along_axes((2, 3, 4), (1, 2, 3), orientation)
        assert geometry.orientation == orientation
        assert geometry.spacing == (1, 2, 3)
        # a rotation by less than 45 degrees does not change the nearest directions
        cosine, sine = np.cos(0.6), np.sin(0.6)
        rotation = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        assert Geometry((2, 3, 4), rotation @ geometry.affine).orientation == orientation


def test_same_grid():
    grid = Geometry.along_axes((10, 20, 30), (3, 1, 1))
    for change, same in ((0.04, True), (0.06, False)):  # of the shortest side of a voxel
        moved = grid.affine.copy()
        moved[0, 3] += change
        assert same_grid(grid, Geometry(grid.shape, moved)) is same
    stretched = Geometry.along_axes((10, 20, 30), (3, 1, 1.01))  # adds up to 0.29 mm at the far end
    assert not same_grid(grid, stretched)
    assert not same_grid(grid, Geometry((10, 20, 31), grid.affine))


# ---- channels


def test_channels_are_a_fourth_axis_or_components(tmp_path, refused):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    parts = [sitk.GetImageFromArray(part) for part in array]
    for part in parts:
        part.SetSpacing((1, 2, 3))
    sitk.WriteImage(sitk.JoinSeries(parts), str(tmp_path / "series.nii.gz"))
    for name in ("vector.nrrd", "vector.mha", "vector.nii"):
        sitk.WriteImage(sitk.Compose(parts), str(tmp_path / name))
    for file in (given.path for given in inputs_in(tmp_path)):
        volume = read_volume(file, channels=3)
        np.testing.assert_array_equal(volume.array, array)
        assert volume.geometry.spacing == pytest.approx((3, 2, 1))
        with refused(SegzooError):
            read_volume(file, channels=2)
        with refused(SegzooError):
            read_volume(file)
        with refused(SegzooError):
            read_volume_mask(file)


def test_one_channel_where_more_are_needed(scan, refused):
    with refused(SegzooError):
        read_volume(scan, channels=4)


def test_a_fourth_axis_of_one_is_none(scan, tmp_path):
    image = sitk.ReadImage(str(scan))
    sitk.WriteImage(sitk.JoinSeries([image]), str(tmp_path / "a.nii"))
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, read_volume(scan).array)


# ---- masks that are none


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 1.5],
        [0.0, np.nan],
        [0.0, 1e20],
        np.array([0, -1], np.int16),
        [0.0, -3.0],
    ],
)
def test_masks_hold_class_indices(tmp_path, values, refused):
    sitk.WriteImage(sitk.GetImageFromArray(np.reshape(values, (1, 1, 2))), str(tmp_path / "a.nii.gz"))
    with refused(SegzooError):
        read_volume_mask(tmp_path / "a.nii.gz")


def test_whole_floats_are_class_indices(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.array([[[0.0, 7.0]]])), str(tmp_path / "a.nrrd"))
    mask, _ = read_volume_mask(tmp_path / "a.nrrd")
    assert mask.dtype.kind == "i"
    np.testing.assert_array_equal(mask, [[[0, 7]]])


@pytest.mark.parametrize(
    ("mask", "name"),
    [
        (np.zeros((2, 3, 4)), "a.nii"),
        (np.zeros((4, 3, 2), int), "a.nii"),
        (np.full((2, 3, 4), -1), "a.nii"),
        (np.full((2, 3, 4), 65536), "a.nii"),
        (np.zeros((2, 3, 4), int), "a.png"),
    ],
)
def test_what_is_not_written_leaves_the_older_file(tmp_path, mask, name, refused):
    (tmp_path / name).write_text("older")
    with refused(SegzooError):
        write_volume_mask(tmp_path / name, mask, Geometry.along_axes((2, 3, 4)))
    assert (tmp_path / name).read_text() == "older"


# ---- bad files

Edit = Callable[[bytearray], Any]


def edited(path: Path, target: Path, edit: Edit) -> Path:
    """A NIfTI file with other bytes."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    edit(raw)
    target.write_bytes(gzip.compress(raw, 1) if target.suffix == ".gz" else raw)
    return target


def field(offset: int, kind: str, *values: float) -> Edit:
    """Overwrite a field of a NIfTI-1 header."""
    return lambda raw: struct.pack_into(f"<{len(values)}{kind}", raw, offset, *values)


def both(*edits: Edit) -> Edit:
    return lambda raw: [edit(raw) for edit in edits]


PIXDIM, SLOPE, QFORM_CODE, SFORM_CODE, SROW = 76, 112, 252, 254, 280
NIFTI: dict[str, tuple[Edit, str]] = {
    "zero pixdim beside a good sform": field(PIXDIM + 4, "f", 0),
    "zero pixdim and no sform": both(field(PIXDIM + 12, "f", 0), field(SFORM_CODE, "h", 0)),
    "NaN pixdim": field(PIXDIM + 8, "f", np.nan),
    "negative pixdim": field(PIXDIM + 8, "f", -1),
    "zero column of the sform": field(SROW, "f", 0, 0, 0, 0),
    "skewed sform beside a good qform": field(SROW, "f", 1, 0.5, 0, 0),
    "skewed sform alone": both(field(SROW, "f", 1, 0.5, 0, 0), field(QFORM_CODE, "h", 0)),
    "NaN in the sform": field(SROW, "f", 1, np.nan, 0, 0),
    "cut short": lambda raw: raw.__delitem__(slice(20_000, None)),
    "NIfTI-2": field(0, "i", 540),
    "no NIfTI": field(0, "i", 7),
    "an offset that no file has": field(108, "f", 1e30),
    "no bits a voxel": field(72, "h", 0),
    "no bits a voxel, and cut short": both(field(72, "h", 0), lambda raw: raw.__delitem__(slice(20_000, None))),
    "an unknown data type": field(70, "h", 17),
    "an intercept beside a slope of 0": field(SLOPE, "f", 0, -1024),
    "an intercept beside no slope": field(SLOPE, "f", np.nan, 5),
    "a slope without an intercept": field(SLOPE, "f", 2, np.nan),
    "sides below 1": field(44, "h", -3, -4),
    "NaN voxel": lambda raw: raw.__setitem__(slice(-4, None), struct.pack("<f", np.nan)),
}


@pytest.mark.parametrize("scaling", [(0, 0), (np.nan, np.nan), (1, 0), (-0.5, 7)])
def test_voxels_are_scaled_as_the_standard_says(scan, tmp_path, scaling):
    stored = read_volume(edited(scan, tmp_path / "stored.nii", field(SLOPE, "f", 1, 0))).array
    found = read_volume(edited(scan, tmp_path / "scaled.nii", field(SLOPE, "f", *scaling))).array
    slope, intercept = (-0.5, 7) if scaling[0] == -0.5 else (1, 0)
    np.testing.assert_array_equal(found, stored * slope + intercept)


@pytest.fixture
def float_scan(scan: Path, tmp_path: Path) -> Path:
    """The scan as float32 with both forms set."""
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(scan)), sitk.sitkFloat32), str(tmp_path / "float.nii.gz"))
    return tmp_path / "float.nii.gz"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", NIFTI)
def test_bad_nifti_files_are_one_sentence(float_scan, tmp_path, case, suffix, capfd, refused):
    bad = edited(float_scan, tmp_path / f"bad{suffix}", NIFTI[case])
    with refused(SegzooError) as raised:
        read_volume(bad)
    assert str(bad) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert capfd.readouterr().err == ""  # ITK says nothing beside it


@pytest.mark.parametrize("kept", [15, 300, 0.5, -1])
def test_truncated_gzip(scan, tmp_path, kept, refused):
    content = scan.read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(content[: int(len(content) * kept) if isinstance(kept, float) else kept])
    for read in (read_volume, read_volume_mask):
        with refused(SegzooError):
            read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("damage", ["a bad sector", "an end that is missing"])
def test_damaged_compressed_voxels_are_not_segmented(tmp_path, name, damage, refused):
    path, voxels = tmp_path / name, np.random.default_rng(0).integers(-1000, 1000, (20, 40, 40)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path), useCompression=True)
    raw = bytearray(path.read_bytes())
    if damage == "a bad sector":
        raw[len(raw) // 2 : len(raw) // 2 + 512] = bytes(512)
    else:
        del raw[-600:]
    path.write_bytes(raw)
    with refused(SegzooError):
        read_volume(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_are_finite(tmp_path, name, value, dtype, refused):
    array = np.zeros((40, 50, 60), dtype)
    array[31, 7, 9] = value
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name))
    with refused(SegzooError):
        read_volume(tmp_path / name)


def test_big_endian_files_are_checked_too(tmp_path, refused):
    nibabel = pytest.importorskip("nibabel")
    array = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(">f4")
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]), header), tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array[0], array.transpose())
    array[3, 2, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1, 2, 3, 1]), header), tmp_path / "b.nii")
    with refused(SegzooError):
        read_volume(tmp_path / "b.nii")


def test_a_wrong_byte_in_gzip(scan, tmp_path, refused):
    content = bytearray(scan.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.nii.gz").write_bytes(content)
    with refused(SegzooError):
        read_volume(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("a.nrrd", b"(1,0,0)", b"(0,0,0)"),
        ("a.nrrd", b"(1,0,0)", b"(1,0.5,0)"),
        ("a.mha", b"ElementSpacing = 1", b"ElementSpacing = 0"),
        ("a.mha", b"ElementSpacing = 1", b"ElementSpacing = -1"),
        ("a.mha", b"TransformMatrix = 1 0", b"TransformMatrix = 1 0.5"),
        ("a.nrrd", b"sizes: 5", b"sizes: 50"),
        ("a.nrrd", b"NRRD", b"JUNK"),
        ("a.mha", b"NDims", b"Dims"),
    ],
)
def test_bad_nrrd_and_mha_files_are_one_sentence(tmp_path, name, old, new, refused):
    image = sitk.GetImageFromArray(np.ones((3, 4, 5), np.float32))
    image.SetSpacing((1, 2, 3))
    path = tmp_path / name
    sitk.WriteImage(image, str(path))
    assert read_volume(path).geometry.spacing == (3, 2, 1)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with refused(SegzooError) as raised:
        read_volume(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
def test_what_is_no_volume(tmp_path, name, refused):
    path = tmp_path / name
    for read in (read_volume, read_volume_mask, read_geometry):
        with refused(MissingError):
            read(path)
    for content in (b"", b"no volume"):
        path.write_bytes(content)
        with refused(SegzooError):
            read_volume(path)


def test_other_dimensions_and_complex_numbers(tmp_path, refused):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((3, 4), np.float32)), str(tmp_path / "flat.nii"))
    with refused(SegzooError):
        read_volume(tmp_path / "flat.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((2, 3, 4), np.complex64)), str(tmp_path / "k.nii"))
    with refused(SegzooError):
        read_volume(tmp_path / "k.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 1e300)), str(tmp_path / "huge.nrrd"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with refused(SegzooError):
            read_volume(tmp_path / "huge.nrrd")


def test_a_file_without_orientation_is_read_as_nibabel_does(float_scan, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    bare = edited(float_scan, tmp_path / "bare.nii", both(field(QFORM_CODE, "h", 0), field(SFORM_CODE, "h", 0)))
    with pytest.warns(UserWarning, match=r"bare\.nii does not say how the patient lies"):
        volume = read_volume(bare)
    np.testing.assert_allclose(volume.geometry.affine, nibabel.load(bare).affine[:, [2, 1, 0, 3]])
    assert volume.geometry.orientation == "SAL"


@pytest.mark.parametrize(("unit", "millimetres"), [(1, 1000), (2, 1), (3, 0.001), (3 + 8, 0.001), (0, 1)])
def test_other_units_become_millimetres_as_for_simpleitk(float_scan, tmp_path, unit, millimetres):
    whole = edited(float_scan, tmp_path / "a.nii", field(123, "B", unit))
    only_qform = edited(float_scan, tmp_path / "b.nii", both(field(123, "B", unit), field(SFORM_CODE, "h", 0)))
    for file in (whole, only_qform):
        found, expected = read_geometry(file), sitk.ReadImage(str(file))
        assert found.spacing == pytest.approx(expected.GetSpacing()[::-1])
        assert found.spacing == pytest.approx((millimetres,) * 3)
        np.testing.assert_allclose(found.affine[:3, 3], np.array(expected.GetOrigin()) * (-1, -1, 1), rtol=1e-5)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize(("free", "number"), [(10**12, None), (100, errno.ENOSPC)])
def test_a_mask_that_does_not_fit_on_the_disk_is_not_written(tmp_path, suffix, free, number, monkeypatch):
    resource = pytest.importorskip("resource", reason="Windows limits no file's size")
    mask = np.random.default_rng(0).integers(0, 256, (20, 30, 40)).astype(np.uint8)  # which nothing makes smaller
    file, grid = tmp_path / f"mask{suffix}", Geometry.along_axes(mask.shape)
    write_volume_mask(file, mask[:, ::-1], grid)
    before, (soft, hard) = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match=r"is the disk full|No space left") as raised:
            write_volume_mask(file, mask, grid)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert raised.value.errno == number
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(sys.platform != "linux", reason="macOS and Windows allow no file name that is not Unicode")
def test_a_name_that_is_not_utf_8_is_one_sentence(scan, tmp_path, refused):
    file = tmp_path / os.fsdecode(b"M\xfcller.nii.gz")
    shutil.copy(scan, file)
    with refused(SegzooError):
        read_volume(file)
    assert read_volume_note(file) is None


@pytest.mark.parametrize(("name", "right"), [("a.nii", ".nii.gz"), ("a.nii.gz", ".nii")])
def test_a_name_that_says_wrong_whether_a_file_is_packed_is_one_sentence(scan, tmp_path, name, right, refused):
    """SimpleITK gives other voxels than a file holds that is called ".nii.gz" and is not packed."""
    content = scan.read_bytes()
    (tmp_path / name).write_bytes(content if right == ".nii.gz" else gzip.decompress(content))
    for read in (read_volume, read_geometry):
        with refused(SegzooError):
            read(tmp_path / name)


@pytest.mark.parametrize("suffix", [".Nii", ".NII.gz", ".nii.Gz"])
def test_mixed_letters_that_simpleitk_does_not_take_are_one_sentence(scan, tmp_path, suffix, capfd, refused):
    file = tmp_path / f"a{suffix}"
    file.write_bytes(gzip.decompress(scan.read_bytes()) if suffix == ".Nii" else scan.read_bytes())
    for read in (read_volume, read_geometry):
        with refused(SegzooError):
            read(file)
    assert read_volume_note(file) is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_the_system_refuses_is_no_damage(scan, tmp_path, monkeypatch, name, refused):
    def refuse(*_: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    shutil.copy(scan, tmp_path / name)
    monkeypatch.setattr(Path, "open", refuse)
    with refused(SegzooError):
        read_volume(tmp_path / name)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for its own size in /proc")
@pytest.mark.parametrize("megabytes", [90, 130])  # for less than the voxels, and for not all that is made of them
def test_a_volume_beyond_memory_is_not_called_damaged(tmp_path, megabytes):
    sitk.WriteImage(sitk.Image(400, 500, 300, sitk.sitkInt16), str(tmp_path / "large.nii.gz"), useCompression=True)
    sitk.WriteImage(sitk.Image(4, 5, 3, sitk.sitkInt16), str(tmp_path / "small.nii.gz"))
    code = f"""
import resource
from segzoo.volumes import read_volume
read_volume("small.nii.gz")  # imports what is needed
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + {megabytes * 10**6},) * 2)
read_volume("large.nii.gz")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "Error: there is not enough memory for large.nii.gz" in done.stderr.splitlines()[-1]


def test_a_mask_beyond_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(sitk, "WriteImage", refuse)
    with pytest.raises(MemoryError, match=r"not enough memory for .*a\.mha"):
        write_volume_mask(tmp_path / "a.mha", np.ones((2, 3, 4), int), Geometry.along_axes((2, 3, 4)))


def test_sform_counts_before_qform_and_before_pixdim(float_scan, tmp_path, capfd):
    """As nibabel, FSL and SPM have it, also where the forms disagree."""
    nibabel = pytest.importorskip("nibabel")
    rows = (0, -2, 0, 5, 2, 0, 0, 6, 0, 0, 2, 7)
    both_forms = edited(float_scan, tmp_path / "a.nii", field(SROW, "f", *rows))
    only_sform = edited(float_scan, tmp_path / "b.nii", both(field(SROW, "f", *rows), field(QFORM_CODE, "h", 0)))
    only_qform = edited(float_scan, tmp_path / "c.nii", field(SFORM_CODE, "h", 0))
    for file in (both_forms, only_sform, only_qform):
        expected = nibabel.load(file).affine
        found = read_volume(file, geometry="sform").geometry  # for its voxels are larger than the header says
        np.testing.assert_allclose(found.affine, expected[:, [2, 1, 0, 3]], atol=1e-6)
    assert read_geometry(both_forms, geometry="sform").spacing == (2, 2, 2)
    assert capfd.readouterr().err == ""  # where ITK would warn of the scales
