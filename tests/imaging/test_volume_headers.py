"""Headers of volumes: two places in one, none, other files, other locales, and more than they should hold."""

import gzip
import locale
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.nifti import PLACE, Form, nifti_header
from segzoo.imaging.volumes import read_geometry, read_volume, read_volume_mask, write_volume_mask

VOXELS = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


def nifti(path: Path, *, order: str = "<", **fields: object) -> Path:
    """A NIfTI file of `VOXELS`, with what is given of its header."""
    pixdim, srow = fields.get("pixdim", (1, 1.5, 2, 3)), fields.get("srow")
    quaternion, qform = fields.get("quaternion", (0, 0, 0)), fields.get("qform", 1)
    header = bytearray(352)
    struct.pack_into(order + "i", header, 0, 348)
    struct.pack_into(order + "8h", header, 40, 3, 5, 4, 3, 1, 1, 1, 1)
    struct.pack_into(order + "2h", header, 70, 4, 16)
    struct.pack_into(order + "4f", header, 76, *pixdim)
    struct.pack_into(order + "f", header, 108, 352)
    struct.pack_into(order + "B", header, 123, 2)
    struct.pack_into(order + "2h", header, 252, qform, int(srow is not None))
    struct.pack_into(order + "6f", header, 256, *quaternion, -7, 8, 9.25)
    struct.pack_into(order + "12f", header, 280, *np.ravel(srow if srow is not None else np.zeros((3, 4))))
    header[344:348] = b"n+1\0"
    raw = bytes(header) + VOXELS.astype(order + "i2").tobytes() + fields.get("tail", b"")
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def text_file(path: Path, **changes: str) -> Path:
    """An NRRD or MHA file of `VOXELS`, with other lines in its header ("" leaves one out)."""
    lines = {
        ".nrrd": {
            "type": "type: short",
            "dimension": "dimension: 3",
            "space": "space: left-posterior-superior",
            "sizes": "sizes: 5 4 3",
            "directions": "space directions: (1.5,0,0) (0,2,0) (0,0,3)",
            "encoding": "encoding: raw",
            "endian": "endian: little",
            "origin": "space origin: (-7,8,9.25)",
        },
        ".mha": {
            "type": "ObjectType = Image",
            "dimension": "NDims = 3",
            "binary": "BinaryData = True",
            "byteorder": "BinaryDataByteOrderMSB = False",
            "compressed": "CompressedData = False",
            "directions": "TransformMatrix = 1 0 0 0 1 0 0 0 1",
            "origin": "Offset = -7 8 9.25",
            "spacing": "ElementSpacing = 1.5 2 3",
            "sizes": "DimSize = 5 4 3",
            "element": "ElementType = MET_SHORT",
            "file": "ElementDataFile = LOCAL",
        },
    }[path.suffix]
    body = changes.pop("body", None)
    head = "\n".join(filter(None, [*(["NRRD0004"] * (path.suffix == ".nrrd")), *{**lines, **changes}.values()]))
    end = "\n\n" if path.suffix == ".nrrd" else "\n"
    path.write_bytes((head + end).encode() + (VOXELS.astype("<i2").tobytes() if body is None else body))
    return path


# ---- two places in one NIfTI header

TURNED = (0, 0, np.sqrt(0.5))  # a quarter turn from the first axis to the second
FORMS: dict[Form, tuple[tuple[float, ...], str]] = {"sform": ((1, 1, 1), "SAR"), "qform": ((10, 1.5, 1.25), "SLA")}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_with_two_sizes_of_voxels_is_refused_and_either_can_be_chosen(tmp_path, order, suffix, refused):
    """As of ACDC's originals, whose sform has a unit scale; masks carry both, whichever was chosen."""
    unit = np.eye(3, 4)
    path = nifti(tmp_path / f"a{suffix}", order=order, pixdim=(1, 1.25, 1.5, 10), srow=unit, quaternion=TURNED)
    for read in (read_volume, read_volume_mask, read_geometry):
        with refused(SegzooError):
            read(path)
    source, _ = nifti_header(
        path, (gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes())[:348]
    )
    for form, (spacing, orientation) in FORMS.items():
        grid = read_geometry(path, geometry=form)
        assert grid.spacing == pytest.approx(spacing)
        assert read_volume(path, geometry=form).geometry.affine.tolist() == grid.affine.tolist()
        assert grid.orientation == orientation
        written = tmp_path / "out" / path.name
        write_volume_mask(written, VOXELS, grid, "a note")
        raw = gzip.decompress(written.read_bytes()) if suffix == ".nii.gz" else written.read_bytes()
        header, _ = nifti_header(written, raw[:348])
        for field in PLACE:
            np.testing.assert_array_equal(header[field], source[field])
        values, place = read_volume_mask(written, geometry=form)
        np.testing.assert_array_equal(values, VOXELS)
        np.testing.assert_array_equal(place.affine, grid.affine)


def test_one_form_is_taken_where_there_is_one(tmp_path, refused):
    alone = nifti(tmp_path / "a.nii", srow=np.diag((1.5, 2, 3, 1))[:3], qform=0)
    assert read_geometry(alone, geometry="qform").spacing == (3, 2, 1.5)
    only_qform = nifti(tmp_path / "b.nii")
    assert read_geometry(only_qform, geometry="sform").spacing == (3, 2, 1.5)
    with refused(SegzooError):
        read_volume(alone, geometry="pixdim")
    for form in (None, "qform"):
        with refused(SegzooError):
            read_geometry(nifti(tmp_path / "c.nii", srow=np.eye(3, 4), qform=0), geometry=form)


def test_rounding_is_no_disagreement(tmp_path):
    path = nifti(tmp_path / "a.nii", pixdim=(1, 0.488, 0.488, 3), srow=np.diag((0.48828125, 0.48828125, 3, 1))[:3])
    assert read_geometry(path).spacing == (3, 0.48828125, 0.48828125)


@pytest.mark.parametrize("pixdim", [1, -1])
@pytest.mark.parametrize("quaternion", [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), TURNED, (0.1, -0.7, 0.3)])
def test_a_qform_is_what_simpleitk_makes_of_it(tmp_path, pixdim, quaternion):
    path = nifti(tmp_path / "a.nii", pixdim=(pixdim, 1.5, 2, 3), quaternion=quaternion)
    expected = sitk.ReadImage(str(path))
    write_volume_mask(tmp_path / "b.nrrd", VOXELS, read_geometry(path))
    found = sitk.ReadImage(str(tmp_path / "b.nrrd"))
    for read in (sitk.Image.GetSpacing, sitk.Image.GetOrigin, sitk.Image.GetDirection):
        np.testing.assert_allclose(read(found), read(expected), atol=1e-6)


# ---- axes that are nearly at right angles


def skewed(path: Path, by: float) -> Path:
    """A file whose second axis leans on the first."""
    if path.suffix == ".nrrd":
        return text_file(path, directions=f"space directions: (1.5,0,0) ({2 * by},2,0) (0,0,3)")
    if path.suffix == ".mha":
        return text_file(path, directions=f"TransformMatrix = 1 0 0 {by} 1 0 0 0 1")
    return nifti(path, srow=[[1.5, 2 * by, 0, 4], [0, 2, 0, 5], [0, 0, 3, 6]], qform=0)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.mha"])
def test_axes_a_thousandth_from_a_right_angle_are_read_and_masks_have_the_same(tmp_path, name, refused):
    path = skewed(tmp_path / name, 0.0009)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    np.testing.assert_allclose(volume.geometry.affine[:3, 1], np.array([1.8e-3, 2, 0]) * (1 if "nii" in name else -1))
    write_volume_mask(tmp_path / "out" / name, VOXELS, volume.geometry)
    values, place = read_volume_mask(tmp_path / "out" / name)
    np.testing.assert_array_equal(values, VOXELS)
    np.testing.assert_array_equal(place.affine, volume.geometry.affine)
    with refused(SegzooError):
        read_volume(skewed(tmp_path / name, 0.0011))


def test_a_grid_that_was_changed_does_not_lie_where_its_header_says(tmp_path):
    grid = read_geometry(nifti(tmp_path / "a.nii"))
    moved = Geometry(grid.shape, grid.affine + np.eye(4, k=3), grid.nifti)
    write_volume_mask(tmp_path / "b.nii", VOXELS, moved)
    np.testing.assert_allclose(read_geometry(tmp_path / "b.nii").affine, moved.affine, atol=1e-6)


# ---- no place


@pytest.mark.parametrize(
    ("name", "without", "told"),
    [
        ("a.nrrd", {"directions": "", "space": "", "origin": ""}, "large .* nor how the patient lies"),
        (
            "a.nrrd",
            {"directions": "spacings: 1.5 2 3", "space": "", "origin": ""},
            "a.nrrd does not say how the patient",
        ),
        ("a.nrrd", {"space": "space dimension: 3"}, "a.nrrd does not say how the patient lies"),
        ("a.mha", {"spacing": ""}, "a.mha does not say how large its voxels are"),
        ("a.mha", {"directions": ""}, "a.mha does not say how the patient lies"),
        ("a.nii", {"qform": 0}, "a.nii does not say how the patient lies"),
    ],
)
def test_what_a_header_does_not_say_is_a_warning(tmp_path, name, without, told):
    make = nifti if name == "a.nii" else text_file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_volume(make(tmp_path / name))
    for read in (read_volume, read_volume_mask, read_geometry):
        with pytest.warns(UserWarning, match=told):
            read(make(tmp_path / name, **without))


# ---- a comma for a point


@pytest.fixture(scope="module")
def comma(tmp_path_factory) -> Iterator[None]:
    """A locale of decimal commas, made here, since few machines have one."""
    folder, before = tmp_path_factory.mktemp("locales"), locale.setlocale(locale.LC_ALL)
    if shutil.which("localedef") is None:
        pytest.skip("there is no localedef to make a locale with")
    made = subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "comma.UTF-8"], capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCPATH", str(folder))
        try:
            locale.setlocale(locale.LC_ALL, "comma.UTF-8")
        except locale.Error:
            pytest.skip(f"localedef has made no locale ({made.stderr.decode().strip()[:100]})")
        yield
        locale.setlocale(locale.LC_ALL, before)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_numbers_have_a_point_in_every_locale(tmp_path, name, comma):
    path = nifti(tmp_path / name) if name == "a.nii.gz" else text_file(tmp_path / name)
    assert locale.localeconv()["decimal_point"] == ","
    grid = read_volume(path).geometry
    assert (grid.spacing, grid.affine[2, 3]) == ((3, 2, 1.5), 9.25)
    write_volume_mask(tmp_path / "out" / name, VOXELS, grid)
    np.testing.assert_array_equal(read_geometry(tmp_path / "out" / name).affine, grid.affine)
    content = (tmp_path / "out" / name).read_bytes()
    assert name == "a.nii.gz" or (b"9.25" in content and b"1.5" in content)
    assert locale.localeconv()["decimal_point"] == ","


# ---- other files


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.nrrd", {"encoding": "encoding: raw\ndata file: secret.raw"}),
        ("a.nrrd", {"encoding": "encoding: raw\nDataFile: LIST\nsecret.raw"}),
        ("a.nrrd", {"encoding": "encoding: raw\n \ndata file: secret.raw"}),
        ("a.nrrd", {"encoding": "encoding: raw\nElementDataFile = LOCAL\ndata file: secret.raw"}),
        ("a.nrrd", {"encoding": "encoding: raw" + "\n# more" * 2000 + "\ndata file: secret.raw"}),
        ("a.nrrd", {"encoding": "encoding: raw\rdata file: secret.raw"}),
        ("a.mha", {"file": "ElementDataFile = secret.raw"}),
        ("a.mha", {"file": "ElementDataFile = LIST\nsecret.raw"}),
        ("a.mha", {"file": "  ElementDataFile: secret.raw\nElementDataFile = LOCAL"}),
        ("a.mha", {"file": "Comment = LOCAL\rElementDataFile = secret.raw"}),
        ("a.mha", {"file": "Comment = ElementDataFile = LOCAL\nElementDataFile = secret.raw"}),
    ],
)
def test_a_header_cannot_point_to_another_file(tmp_path, name, lines, monkeypatch, refused):
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    monkeypatch.chdir(tmp_path)
    path = text_file(tmp_path / name, **lines)  # with voxels of its own
    with refused(SegzooError):
        read_volume(path)
    for read in (read_volume, read_geometry):
        with pytest.raises(SegzooError, match="points to another file"):
            read(text_file(path, **lines, body=b""))


def test_a_header_of_another_format_is_not_read(tmp_path, refused):
    """Whose fields would be others than those that were looked at."""
    shutil.copy(text_file(tmp_path / "a.mha"), tmp_path / "b.nrrd")
    shutil.copy(text_file(tmp_path / "a.nrrd"), tmp_path / "b.mha")
    for name in ("b.nrrd", "b.mha"):
        with refused(SegzooError):
            read_volume(tmp_path / name)


# ---- limits


def test_a_header_without_an_end_is_not_read_on(tmp_path, refused):
    for name, start in (("a.nrrd", b"NRRD0004\ncontent: "), ("a.mha", b"Comment = ")):
        (tmp_path / name).write_bytes(start + bytes(2**21))
        with refused(SegzooError):
            read_geometry(tmp_path / name)
    path = nifti(tmp_path / "a.nii")
    raw = bytearray(path.read_bytes())
    struct.pack_into("<f", raw, 108, 2.0**24)
    (tmp_path / "b.nii").write_bytes(raw)
    with refused(SegzooError):
        read_volume(tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("tail", [1000, 2**24])
def test_what_a_packed_file_holds_beyond_its_voxels_is_bounded(tmp_path, name, tail, refused):
    body = VOXELS.tobytes() + bytes(tail)
    if name == "a.nii.gz":
        path = nifti(tmp_path / name, tail=bytes(tail))
    elif name == "a.nrrd":
        path = text_file(tmp_path / name, encoding="encoding: gzip", body=gzip.compress(body))
    else:
        packed = zlib.compress(body)
        lines = f"CompressedData = True\nCompressedDataSize = {len(packed)}"
        path = text_file(tmp_path / name, compressed=lines, body=packed)
    if tail == 1000:
        np.testing.assert_array_equal(read_volume(path).array[0], VOXELS)
        return
    with refused(SegzooError) as raised:
        read_volume(path)
    assert "SEGZOO_MAX_TAIL_BYTES" in str(raised.value)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_raw_voxels_that_are_cut_short_are_refused(tmp_path, name, refused):
    path = text_file(tmp_path / name)
    path.write_bytes(path.read_bytes()[:-10])
    with refused(SegzooError):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_a_header_cannot_ask_for_more_voxels_than_volumes_have(tmp_path, name, monkeypatch, refused):
    path = nifti(tmp_path / name) if name == "a.nii" else text_file(tmp_path / name)
    monkeypatch.setenv("SEGZOO_MAX_VOXELS", "60")
    assert read_volume(path).array.size == 60
    monkeypatch.setenv("SEGZOO_MAX_VOXELS", "59")
    for read in (read_volume, read_geometry):
        with refused(SegzooError):
            read(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not keep to a limit of memory")
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_what_does_not_fit_into_memory_is_not_begun(tmp_path, name):
    """In a process of 2 GiB, by headers alone: 1000 x 1000 x 1000 voxels would take several."""
    if name == "a.nii.gz":
        raw = bytearray(nifti(tmp_path / "b.nii").read_bytes())
        struct.pack_into("<3h", raw, 42, 1000, 1000, 1000)
        (tmp_path / name).write_bytes(gzip.compress(raw))
    else:
        sizes = {"a.nrrd": "sizes: 1000 1000 1000", "a.mha": "DimSize = 1000 1000 1000"}[name]
        text_file(tmp_path / name, sizes=sizes)
    code = f"""
import resource, sys
from segzoo.errors import SegzooError
from segzoo.imaging.volumes import read_volume
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    read_volume({name!r})
except SegzooError as error:
    print(error)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(f"there is not enough memory for {name}: it needs about "), done.stderr
