"""Probabilities as files: on the input's grid, to the bit what was computed, whole or not there."""

import errno
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry, same_grid
from segzoo.imaging.nifti import read_nifti, read_nifti_note, write_nifti
from segzoo.imaging.probabilities import OnDisk, probability_paths, read_npz_note
from segzoo.imaging.readers import reader_of
from segzoo.imaging.segmentation import Segmentation
from segzoo.imaging.volumes import read_volume, write_volume_mask
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.files import OutputError, segment_files, write
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import Job, require_distinct
from segzoo.prediction.resume import noted, unfinished
from segzoo.preprocessing.volume import VolumePreprocessing
from segzoo.tasks import Task

RECIPE = {"weights": "1"}
NAMES = ("background", "left lung", "liver")


class Shades:
    """A backend of classes by ranges of the intensity."""

    task, class_names = Task(3), NAMES
    contract = VolumePreprocessing(patch_size=(8, 12, 64), spacing=(1.5, 1, 1), mirror_axes=())
    batch_size, device, description, subject = 1, "cpu", "no network", "no network"
    postprocessing = Postprocessing()

    def require_size(self, given: Any, file: object) -> None: ...

    def place(self, batch: Any) -> torch.Tensor:
        return torch.as_tensor(batch)

    def compute(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.cat([batch * 0, batch, -2 * batch], dim=1).softmax(1)


def scan(folder: Path, name: str, orientation: str = "IPR") -> Path:
    """Smooth noise, as integers, with a mask's writer."""
    coarse = torch.rand(1, 1, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    array = F.interpolate(coarse, (14, 19, 17), mode="trilinear")[0, 0].mul(2000).int().numpy()
    write_volume_mask(folder / name, array, Geometry.along_axes(array.shape, (1.2, 0.9, 1.1), orientation))
    return folder / name


def job_of(file: Path, output: Path, form: str = "files") -> Job:
    mask = output / reader_of(file).mask_name
    forms = {one: probability_paths(mask, NAMES, one) for one in ("files", "npz")}
    maps = forms.pop(form, ())
    (job,) = noted([Job(file, mask, maps=maps, old_maps=sum(forms.values(), ()))], RECIPE)
    return job


def run(job: Job, keep: Any = None) -> str | SegzooError:
    pipeline = Pipeline(Shades(), keep=keep or partial(OnDisk, job.mask.parent))  # type: ignore[arg-type]
    ((_, outcome),) = segment_files(pipeline, [job])
    return outcome


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# ---- files


@pytest.mark.parametrize(
    ("name", "orientation"), [("a.nii.gz", "IPR"), ("a.nrrd", "RSA"), ("a.mha", "SAR"), ("a.nii", "ARI")]
)
def test_a_volume_has_a_file_a_class_on_its_own_grid(tmp_path, output, name, orientation):
    job = job_of(scan(tmp_path, name, orientation), output)
    assert isinstance(run(job), str)
    expected = Pipeline(Shades())(job.file)  # type: ignore[arg-type]
    files = ["a_background_probability.nii.gz", "a_left-lung_probability.nii.gz", "a_liver_probability.nii.gz"]
    assert sorted(file.name for file in output.iterdir()) == sorted([job.mask.name, *files])
    for file, probabilities in zip(files, expected.probabilities, strict=True):
        values, grid = read_nifti(output / file)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values[0], probabilities)
        assert same_grid(grid, read_volume(job.file).geometry)
    assert unfinished([job], RECIPE, None) == []


def test_all_classes_may_be_one_file(tmp_path, output):
    job = job_of(scan(tmp_path, "a.nii.gz"), output, "npz")
    assert isinstance(run(job), str)
    with np.load(output / "a_probabilities.npz") as stored:
        expected = Pipeline(Shades())(job.file).probabilities  # type: ignore[arg-type]
        np.testing.assert_array_equal(stored["probabilities"], expected.astype(np.float16))
        assert tuple(stored["class_names"]) == NAMES
    assert unfinished([job], RECIPE, None) == []


def image() -> Segmentation:
    probabilities = np.random.default_rng(0).random((3, 30, 40), dtype=np.float32)
    pixels = np.zeros((30, 40, 1), np.uint8)
    return Segmentation(probabilities.argmax(0).astype(np.uint8), probabilities, NAMES, pixels)


@pytest.mark.parametrize("form", ["files", "npz"])
def test_an_image_has_16_bits_a_class_or_one_file(tmp_path, output, form):
    (tmp_path / "a.png").write_bytes(b"an input, which nobody reads")
    job, found = job_of(tmp_path / "a.png", output, form), image()
    write(job, found)
    assert unfinished([job], RECIPE, None) == []
    if form == "npz":
        with np.load(job.maps[0]) as stored:
            np.testing.assert_array_equal(stored["probabilities"], found.probabilities.astype(np.float16))
        return
    for file, values in zip(job.maps, found.probabilities, strict=True):
        with Image.open(file) as picture:
            assert picture.mode == "I;16"
            np.testing.assert_allclose(np.asarray(picture) / 65535, values, atol=0.5 / 65535 + 1e-7)


def test_a_binary_model_has_one_file_for_its_class(tmp_path, output):
    (tmp_path / "a.png").write_bytes(b"an input")
    paths = probability_paths(output / "a.png", ("lesion",), "files")
    (job,) = noted([Job(tmp_path / "a.png", output / "a.png", maps=paths)], RECIPE)
    probabilities = np.full((1, 30, 40), 0.25, np.float32)
    write(job, Segmentation(np.zeros((30, 40), np.uint8), probabilities, ("background", "lesion")))
    with Image.open(output / "a_lesion_probability.png") as picture:
        assert np.unique(np.asarray(picture)).tolist() == [16384]


# ---- going on


@pytest.mark.parametrize("harm", ["missing", "cut", "changed", "other options"])
@pytest.mark.parametrize("form", ["files", "npz"])
def test_what_is_not_whole_is_made_anew(tmp_path, output, form, harm):
    job = job_of(scan(tmp_path, "a.nii.gz"), output, form)
    assert isinstance(run(job), str)
    before = {file: file.read_bytes() for file in output.iterdir()}
    last = job.maps[-1]
    if harm == "missing":
        last.unlink()
    elif harm == "cut":
        last.write_bytes(before[last][:-40])
    elif harm == "changed":
        content = bytearray(before[last])
        content[len(content) // 2] ^= 255
        last.write_bytes(content)
    todo = unfinished([job], RECIPE if harm != "other options" else {"weights": "2"}, None)
    assert [one.taken for one in todo] == [None]
    if harm != "other options":
        assert isinstance(run(todo[0]), str)
        assert unfinished([job], RECIPE, None) == []


def test_values_that_somebody_changed_are_not_written_over(tmp_path, output):
    job = job_of(scan(tmp_path, "a.nii.gz"), output, "npz")
    assert isinstance(run(job), str)
    file = job.maps[0]
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["probabilities"][0, 0, 0, 0] = 0.125
    np.savez_compressed(file, **arrays)
    assert read_npz_note(file) == ""
    (again,) = unfinished([job], RECIPE, None)
    assert again.taken == file


def test_fractions_that_somebody_changed_are_not_written_over(tmp_path, output):
    job = job_of(scan(tmp_path, "a.nii.gz"), output)
    assert isinstance(run(job), str)
    file = job.maps[1]
    values, grid = read_nifti(file)
    changed = values[0].copy()
    changed[3, 4, 5] += 0.125
    assert grid.nifti is not None
    write_nifti(file, changed, grid.nifti, read_nifti_note(file))
    assert reader_of(file).note() == ""
    (again,) = unfinished([job], RECIPE, None)
    assert again.taken == file


def test_probabilities_of_another_mask_do_not_stay_beside_it(tmp_path, output):
    file = scan(tmp_path, "a.nii.gz")
    first = job_of(file, output)
    assert isinstance(run(first), str)
    strange = output / "b_liver_probability.nii.gz"
    strange.write_bytes(first.maps[0].read_bytes())
    again = replace(job_of(file, output, "npz"), note=first.note[:15] + "0" * 32)
    assert isinstance(run(again), str)
    assert sorted(one.name for one in output.iterdir()) == ["a.nii.gz", "a_probabilities.npz", strange.name]


def test_two_files_of_one_name_are_refused(tmp_path, output, refused):
    """The mask of one input, and the probabilities of another."""
    masks = [output / "a.png", output / "a_x_probability.png"]
    jobs = [Job(tmp_path / one.name, one, maps=probability_paths(one, ("x",), "files")) for one in masks]
    with refused(SegzooError):
        require_distinct(jobs, None)


# ---- the disk


def test_what_is_computed_waits_on_the_disk_and_leaves_nothing(tmp_path, output):
    array = OnDisk(output, (2, 6, 4, 5))
    expected = np.random.default_rng(0).random((2, 6, 4, 5), dtype=np.float32)
    for rows in (slice(4, 6), slice(0, 1), slice(1, 4)):
        array[..., rows, :, :] = expected[:, rows]
    assert len(array) == 2
    for channel, values in zip(array, expected, strict=True):
        np.testing.assert_array_equal(channel, values)
    assert list(output.iterdir()) == []  # so a kill leaves none, either
    across = OnDisk(output, (2, 6, 4, 5))
    for column in range(5):
        across[..., :, :, slice(4 - column, 5 - column)] = expected[..., 4 - column : 5 - column]
    np.testing.assert_array_equal(np.stack([*across]), expected)


def test_a_full_disk_ends_the_run_in_one_sentence(tmp_path, output, monkeypatch, refused):
    def full(self: OnDisk, left: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OnDisk, "write", full)
    outcome = run(job_of(scan(tmp_path, "a.nii.gz"), output))
    assert isinstance(outcome, OutputError)
    with refused(OutputError):
        raise outcome
    assert list(output.iterdir()) == []


def test_a_kill_while_writing_leaves_nothing_half(tmp_path, output, monkeypatch):
    job = job_of(scan(tmp_path, "a.nii.gz"), output, "npz")

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segzoo.imaging.probabilities.np.lib.format.write_array", killed)
    with pytest.raises(KeyboardInterrupt):
        run(job)
    assert [file for file in output.iterdir() if not file.name.startswith(".")] == []


def test_a_file_that_is_no_archive_has_no_note(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    assert read_npz_note(tmp_path / "a.npz") is None
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("other.npy", b"")
    assert read_npz_note(tmp_path / "b.npz") is None
