"""Going on after an earlier run: what is done is what is whole, and what somebody else has made or changed is kept."""

import gzip
import itertools
import re
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import write_png
from segzoo.imaging.readers import reader_of
from segzoo.imaging.segmentation import Segmentation
from segzoo.imaging.volumes import read_volume_mask, write_volume_mask
from segzoo.prediction.files import write
from segzoo.prediction.plan import Job, plan
from segzoo.prediction.resume import digest, note_of, unfinished

RECIPE = {"weights": "1"}
NAMES = ("a.png", "a.nii", "a.nii.gz", "a.nrrd", "a.mha")
RANDOM = np.random.default_rng(0).integers(0, 2, (20, 30, 40)).astype(np.uint8)


def found(name: str, *, multilabel: bool = False) -> Segmentation:
    """What a network might find in an input of this name."""
    values, grid = (RANDOM[0], None) if name.endswith(".png") else (RANDOM, Geometry.along_axes(RANDOM.shape))
    mask = np.stack([values, 1 - values]) if multilabel else values
    image = np.zeros((30, 40, 1), np.uint8) if grid is None else np.zeros((1, *RANDOM.shape), np.float32)
    return Segmentation(mask, np.zeros((2, *values.shape), np.float32), ("one", "two"), image, grid)


def finished(folder: Path, name: str, *, overlay: bool = False, multilabel: bool = False) -> Job:
    """A job that an earlier run has done."""
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(b"an input, which nobody reads")
    (job,) = plan([reader_of(folder / "in" / name)], folder / "out", overlay)
    job = replace(job, note=note_of(job.file, RECIPE))
    write(job, found(name, multilabel=multilabel))
    return job


def rest(job: Job, channels: tuple[str, ...] | None = None) -> list[Job]:
    return unfinished([job], RECIPE, channels)


@pytest.mark.parametrize("kept", [0.8, -1])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_short_is_made_anew(tmp_path, name, kept):
    job = finished(tmp_path, name)
    assert rest(job) == []
    content = job.mask.read_bytes()
    job.mask.write_bytes(content[: int(kept * len(content)) if kept > 0 else kept])
    (again,) = rest(job)
    assert again.taken is None


@pytest.mark.parametrize("name", [name for name in NAMES if name != "a.nii"])
def test_a_file_that_is_damaged_inside_is_made_anew(tmp_path, name):
    job = finished(tmp_path, name)
    content = bytearray(job.mask.read_bytes())
    content[len(content) // 2] ^= 255
    job.mask.write_bytes(content)
    (again,) = rest(job)
    assert again.taken is None


def test_an_overlay_counts_only_whole(tmp_path):
    job = finished(tmp_path, "a.png", overlay=True)
    assert rest(job) == []
    assert job.overlay is not None
    content = bytearray(job.overlay.read_bytes())
    content[len(content) // 2] ^= 255
    job.overlay.write_bytes(content)
    assert len(rest(job)) == 1


def corrected(file: Path) -> None:
    """Change a pixel as a program does that keeps what it does not know of a file."""
    raw = file.read_bytes()
    if file.suffix == ".png":
        with Image.open(file) as picture:
            stored, pixels = picture.info["segzoo"], np.array(picture)
        pixels[0, 0] ^= 1
        file.write_bytes(png_with(pixels, stored))
    elif file.suffix == ".gz":
        plainly = bytearray(gzip.decompress(raw))
        plainly[-1] ^= 1
        file.write_bytes(gzip.compress(plainly))
    elif file.suffix == ".nii":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif file.suffix == ".nrrd":
        head, _, body = raw.partition(b"\n\n")
        voxels = bytearray(gzip.decompress(body))
        voxels[-1] ^= 1
        file.write_bytes(head + b"\n\n" + gzip.compress(voxels))
    else:
        head, _, body = raw.partition(b"LOCAL\n")
        voxels = bytearray(zlib.decompress(body))
        voxels[-1] ^= 1
        packed = zlib.compress(voxels)
        head = re.sub(rb"CompressedDataSize = \d+", b"CompressedDataSize = %d" % len(packed), head)
        file.write_bytes(head + b"LOCAL\n" + packed)


def png_with(pixels: np.ndarray, stored: str) -> bytes:
    """A PNG with a note as it is stored."""
    texts, target = PngInfo(), BytesIO()
    texts.add_text("segzoo", stored)
    Image.fromarray(pixels).save(target, format="PNG", pnginfo=texts)
    return target.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_that_somebody_corrected_is_kept(tmp_path, name):
    """Viewers may keep the note when they save: it must not make the correction count as a mask of this run."""
    job = finished(tmp_path, name)
    corrected(job.mask)
    assert reader_of(job.mask).note() == ""
    (again,) = rest(job)
    assert again.taken == job.mask


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
def test_classes_with_files_of_their_own_are_whole_each_by_itself(tmp_path, name):
    """A run that is killed between two files leaves one of an older recipe, or none, beside a new one."""
    job, channels = finished(tmp_path, name, multilabel=True), ("one", "two")
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == 2
    assert rest(job, channels) == []
    before = [file.read_bytes() for file in files]
    assert before[0] != before[1]
    write(replace(job, note=note_of(job.file, {"weights": "0"})), found(name, multilabel=True))
    older = [file.read_bytes() for file in files]
    for one, two in itertools.product((before, older, None), repeat=2):
        for file, content, place in zip(files, (one, two), (0, 1), strict=True):
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content[place])
        todo = rest(job, channels)
        assert [again.taken for again in todo] == ([] if one is two is before else [None])


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_the_release_before_are_made_anew(tmp_path, name):
    """Their notes have no seal: the same beginning, and a longer digest of input and recipe."""
    job = finished(tmp_path, name)
    state = job.file.stat()
    source = str(job.file.resolve())
    old = f"{digest(source)[:14]}-{digest([source, state.st_size, state.st_mtime_ns, RECIPE])}"
    assert len(old) == 79
    assert old.startswith(job.note)
    content = job.mask.read_bytes()
    if name == "a.png":
        job.mask.write_bytes(png_with(RANDOM[0], old))
    elif name == "a.nii":
        job.mask.write_bytes(content[:148] + old.encode() + content[148 + len(old) :])
    elif name == "a.nii.gz":
        raw = gzip.decompress(content)
        job.mask.write_bytes(gzip.compress(raw[:148] + old.encode() + raw[148 + len(old) :]))
    else:
        job.mask.write_bytes(re.sub(rb"[0-9a-f]{14}-[0-9a-f]{32}-[0-9a-f]{31}", old.encode(), content))
    assert reader_of(job.mask).note() == old
    (again,) = rest(job)
    assert again.taken is None


def test_a_note_fits_into_every_format(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / str(number)).mkdir()
        job = finished(tmp_path / str(number), name)
        assert reader_of(job.mask).note() == job.note
        assert len(job.note) == 47


def test_values_above_255_are_sealed_too(tmp_path):
    grid = Geometry.along_axes((2, 3, 4))
    mask = np.arange(24).reshape(2, 3, 4) * 100
    write_volume_mask(tmp_path / "a.nii", mask, grid, "a note")
    np.testing.assert_array_equal(read_volume_mask(tmp_path / "a.nii")[0], mask)
    write_png(tmp_path / "a.png", Image.fromarray(mask[0].astype(np.uint16)), "a note")
    for name in ("a.nii", "a.png"):
        assert reader_of(tmp_path / name).note() == "a note"
