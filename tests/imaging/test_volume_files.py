"""Files that hold one channel of a case each, by their names."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.readers import inputs_in, reader_of
from segzoo.imaging.volume_files import case_of, channel_files
from segzoo.prediction.plan import inputs_and_masks, plan


@pytest.fixture
def scan(samples) -> Path:
    return samples / "Task04_Hippocampus" / "imagesTr" / "hippocampus_148.nii.gz"


@pytest.fixture
def put(scan, tmp_path):
    """Write the same volume under some names into a folder."""

    def write(*names: str, channels: int = 1) -> Path:
        folder = tmp_path / "in"
        folder.mkdir(exist_ok=True)
        for name in names:
            if name.endswith(".nii.gz") and channels == 1:
                shutil.copy(scan, folder / name)
                continue
            image = sitk.ReadImage(str(scan))
            if channels > 1 and name.endswith(".nii.gz"):
                image = sitk.JoinSeries([image] * channels)
            elif channels > 1:
                image = sitk.Compose([image] * channels)
            sitk.WriteImage(image, str(folder / name))
        return folder

    return write


def masks(folder: Path, channels: int) -> dict[str, list[str]]:
    """Names of the masks that are planned, and of the files that each is made of."""
    jobs = plan(inputs_in(folder), folder.parent / "out", overlay=False, channels=channels)
    return {job.mask.name: [file.name for file in getattr(job.input, "files", [job.file])] for job in jobs}


def test_a_model_of_several_channels_takes_all_files_of_a_case(put):
    folder = put("a_0000.nii.gz", "a_0001.nii.gz", "b_1_0000.nrrd", "b_1_0001.nrrd")
    assert masks(folder, 2) == {
        "a.nii.gz": ["a_0000.nii.gz", "a_0001.nii.gz"],
        "b_1.nrrd": ["b_1_0000.nrrd", "b_1_0001.nrrd"],
    }
    volume = reader_of(folder / "b_1_0001.nrrd").for_volumes(2)
    np.testing.assert_array_equal(volume.array[0], volume.array[1])
    assert len(volume.array) == 2


def test_a_model_of_one_channel_takes_each_file(put):
    numbered = put("scan_0000.nii.gz", "scan_0001.nii.gz", "other_0003.nii.gz")
    assert masks(numbered, 1) == {
        f"{name}.nii.gz": [f"{name}.nii.gz"] for name in ("other_0003", "scan_0000", "scan_0001")
    }
    assert reader_of(numbered / "scan_0000.nii.gz").for_volumes(1).array.shape[0] == 1


def test_two_inputs_of_one_mask_are_refused(put, refused):
    folder = put("a.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz")
    for given in (inputs_in(folder), inputs_in(folder)[::-1]):
        with refused(SegzooError):
            plan(given, folder.parent / "out", overlay=False, channels=2)
    apart = put("b_0000.nii.gz", "b_0001.nii.gz", "b_0000.nrrd", "b_0001.nrrd")
    (apart / "a.nii.gz").unlink()
    assert set(masks(apart, 2)) == {"a.nii.gz", "b.nii.gz", "b.nrrd"}


def test_the_only_channel_is_the_case(put):
    folder = put("a_0000.nii.gz", "b_0000.nii.gz", "b.nii.gz")
    assert masks(folder, 1) == {
        name: [name.replace("a.", "a_0000.")] for name in ("a.nii.gz", "b.nii.gz", "b_0000.nii.gz")
    }


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_files_that_hold_all_channels_are_cases(put, suffix):
    names = [f"scan_{number:04}{suffix}" for number in range(3)]
    folder = put(*names, channels=2)
    assert masks(folder, 2) == {name: [name] for name in names}
    assert len(reader_of(folder / names[0]).for_volumes(2).array) == 2


def test_a_case_of_too_few_or_too_many_channels_is_one_sentence(put, refused):
    folder = put("a_0000.nii.gz", "b_0001.nii.gz", "c_0000.nii.gz", "c_0001.nii.gz", "c_0002.nii.gz")
    for name in ("a_0000", "b_0001"):
        with refused(MissingFileError):
            reader_of(folder / f"{name}.nii.gz").for_volumes(2)
    with refused(SegzooError):
        channel_files(folder / "c_0001.nii.gz", 2)
    assert set(masks(folder, 2)) == {"a.nii.gz", "b.nii.gz", "c.nii.gz"}  # which are jobs, and fail one by one


def test_a_file_that_cannot_be_read_is_a_channel(put):
    folder = put("a_0000.nii.gz")
    (folder / "a_0001.nii.gz").write_bytes(b"no volume")
    assert case_of(folder / "a_0001.nii.gz", 2) == "a"
    assert list(masks(folder, 2)) == ["a.nii.gz"]


def test_the_mask_of_a_case_beside_its_channels_is_no_input(put):
    folder = put("a_0000.nii.gz", "a_0001.nii.gz", "a_seg.nii.gz")
    found, beside = inputs_and_masks(folder)
    assert [one.path.name for one in found] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert [file.name for file in beside] == ["a_seg.nii.gz"]
