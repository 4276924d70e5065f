"""Files in, mask files out: order, batches, memory, failures, several processes, and going on after a kill."""

import errno
import gzip
import os
import re
import shutil
import signal
import socket
import struct
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image
from threshold import threshold

import processes
import segzoo
from segzoo.cli.command import main
from segzoo.errors import SegzooError
from segzoo.imaging.images import read_image, write_mask
from segzoo.imaging.masks import read_mask
from segzoo.imaging.readers import Reader, inputs_in
from segzoo.imaging.segmentation import Segmentation
from segzoo.imaging.volumes import read_volume_mask, write_volume_mask
from segzoo.limits import PIXELS_IN_FLIGHT
from segzoo.prediction import files as file_pipeline
from segzoo.prediction.files import segment_files
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.plan import Job, plan
from segzoo.prediction.processes import launch, prepare
from segzoo.prediction.resume import unfinished
from segzoo.prediction.torch_backend import TorchBackend


class Named:
    """Finds in each file the number that it is called; notes what it is asked for, and how far reading is ahead."""

    description = "no network"

    def __init__(self, batch_size: int = 1) -> None:
        self.batch_size = batch_size
        self.batches: list[list[str]] = []
        self.read_files: list[str] = []
        self.lock = threading.Lock()

    def read(self, source: Reader, *, drawn: bool) -> str:
        with self.lock:
            self.read_files.append(source.stem)
        if "bad" in source.stem:
            raise SegzooError(f"{source.path.name} is bad")
        return source.stem

    def key(self, given: str) -> str | None:
        return None if "alone" in given else given[0]

    def segment(self, given: Sequence[str]) -> list[Segmentation]:
        self.batches.append([*given])
        if any("odd" in name for name in given):
            raise SegzooError("odd ones are not segmented")
        masks = [np.full((2, 2), int(name[1]), np.uint8) for name in given]
        return [Segmentation(mask, np.zeros((1, 2, 2), np.float32), ("background", "one")) for mask in masks]


def jobs_of(folder: Path, *names: str) -> list[Job]:
    """Jobs for files that nobody opens."""
    return [Job(folder / f"{name}.png", folder / "masks" / f"{name}.png") for name in names]


def values(folder: Path) -> dict[str, int]:
    return {path.stem: int(np.asarray(Image.open(path)).max()) for path in folder.iterdir()}


# ---- the pipeline


def test_neighbours_of_one_key_are_segmented_together_and_told_in_order(tmp_path):
    predictor = Named(batch_size=2)
    names = ["a1", "a2", "a3", "b1", "b0alone", "b1alone", "b2", "a4"]
    found = list(segment_files(predictor, jobs_of(tmp_path, *names)))
    assert predictor.batches == [["a1", "a2"], ["a3"], ["b1"], ["b0alone"], ["b1alone"], ["b2"], ["a4"]]
    assert [job.file.stem for job, _ in found] == names
    assert [outcome for _, outcome in found][:2] == ["one 100.0%", "one 0.0%"]
    assert values(tmp_path / "masks") == {name: int(name[1]) for name in names}


def test_what_fails_is_told_in_its_place_and_stops_nothing(tmp_path):
    names = ["a1", "a2bad", "a3", "o1odd", "a5"]
    (tmp_path / "masks" / "a5.png").mkdir(parents=True)  # where a mask should go
    found = [outcome for _, outcome in segment_files(Named(batch_size=4), jobs_of(tmp_path, *names))]
    assert [isinstance(outcome, SegzooError) for outcome in found] == [False, True, False, True, True]
    assert str(found[1]) == "a2bad.png is bad"
    assert str(found[3]) == f"{tmp_path / 'o1odd.png'}: odd ones are not segmented"
    assert "a5.png cannot be written" in str(found[4])
    assert sorted(path.name for path in (tmp_path / "masks").iterdir()) == ["a1.png", "a3.png", "a5.png"]


def test_an_error_that_is_ours_is_not_hidden(tmp_path):
    predictor = Named()
    predictor.segment = lambda given: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        list(segment_files(predictor, jobs_of(tmp_path, "a1")))


@pytest.mark.parametrize(("suffix", "most"), [(".png", 40), (".nii.gz", 5)])
def test_reading_does_not_run_away_from_writing(tmp_path, monkeypatch, suffix, most):
    """While the first mask is not written, a few files more are read, and not all of a hundred."""
    may_write, names = threading.Event(), [f"a{number % 10}-{number}" for number in range(100)]
    monkeypatch.setattr(file_pipeline, "write", lambda job, found: may_write.wait(30))
    predictor = Named(batch_size=4)
    jobs = [Job(tmp_path / f"{name}{suffix}", tmp_path / f"{name}{suffix}") for name in names]
    done: list[Any] = []
    worker = threading.Thread(target=lambda: done.extend(segment_files(predictor, jobs)))
    worker.start()
    before = -1
    while before != len(predictor.read_files):  # until it stands still
        before = len(predictor.read_files)
        time.sleep(0.3)
    assert not done
    assert 2 <= before <= most
    may_write.set()
    worker.join(30)
    assert len(done) == len(predictor.read_files) == 100


def test_reading_goes_on_while_a_batch_is_segmented(tmp_path):
    predictor, others = Named(), threading.Event()
    read, segment = predictor.read, predictor.segment

    def telling(source: Reader, *, drawn: bool) -> str:
        if source.stem == "a2":
            others.set()
        return read(source, drawn=drawn)

    def waiting(given: Sequence[str]) -> list[Segmentation]:
        assert given[0] != "a1" or others.wait(10)
        return segment(given)

    predictor.read, predictor.segment = telling, waiting  # type: ignore[method-assign]
    assert len(list(segment_files(predictor, jobs_of(tmp_path, "a1", "a2", "a3")))) == 3


def test_what_waits_to_be_written_holds_no_more_than_that(tmp_path, monkeypatch):
    """Probabilities of a volume are several times its size, and compressing a mask may take as long as the next one."""
    may_write, waiting = threading.Event(), []
    monkeypatch.setattr(file_pipeline, "write", lambda job, found: may_write.wait(30))

    class Heavy(Named):
        def segment(self, given: Sequence[str]) -> list[Segmentation]:
            if waiting:
                self.held = [one() is not None for one in waiting]
                may_write.set()
            found = super().segment(given)[0]
            waiting.extend(weakref.ref(array) for array in (found.mask, found.probabilities))
            return [found]

    predictor, files = Heavy(), [tmp_path / f"{name}.nii.gz" for name in ("a1", "a2")]
    jobs = [Job(file, tmp_path / "out" / file.name) for file in files]
    assert [outcome for _, outcome in segment_files(predictor, jobs)] == ["one 100.0%", "one 0.0%"]
    assert predictor.held == [True, False]


def grey(folder: Path, pixels: dict[str, int]) -> list[Job]:
    """Jobs for grey pictures of some pixels each."""
    for name, count in pixels.items():
        Image.new("L", (count, 1)).save(folder / f"{name}.png")
    return jobs_of(folder, *pixels)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_pixels_that_are_held_at_once_are_bounded(tmp_path, monkeypatch, batch_size):
    """What is read ahead, segmented and not yet written; one that is larger than all may be is alone."""
    monkeypatch.setenv(PIXELS_IN_FLIGHT.variable, "100")
    pixels = {f"a{number}": 30 for number in range(8)} | {"b1": 300, "b2": 60, "b3": 41, "c1": 300, "c2": 300}
    held, most, lock = dict[str, int](), [0], threading.Lock()

    class Counting(Named):
        def read(self, source: Reader, *, drawn: bool) -> str:
            with lock:
                held[source.stem] = pixels[source.stem]
                most.append(sum(held.values()) if len(held) > 1 else 0)
            return super().read(source, drawn=drawn)

    def write(job: Job, found: Segmentation) -> None:
        time.sleep(0.02)
        with lock:
            del held[job.file.stem]

    monkeypatch.setattr(file_pipeline, "write", write)
    predictor = Counting(batch_size)
    done = list(segment_files(predictor, grey(tmp_path, pixels)))
    assert [job.file.stem for job, _ in done] == [*pixels]
    assert all(isinstance(outcome, str) for _, outcome in done)
    assert 60 <= max(most) <= 100
    assert max(map(len, predictor.batches)) == min(batch_size, 3)


def test_an_image_is_kept_for_an_overlay_alone(checkpoint, tmp_path):
    predictor = Pipeline(TorchBackend(segzoo.from_pretrained(checkpoint)))
    (file,) = pictures(tmp_path / "in", 1).iterdir()
    without, drawn = predictor.read(file, drawn=False), predictor.read(file)
    assert without.image is None
    assert drawn.image.shape == (50, 70, 3)
    np.testing.assert_array_equal(predictor.segment([without])[0].mask, predictor.segment([drawn])[0].mask)


# ---- networks


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CMUNeXt-S for small images."""
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s").eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(64, 64))
    with torch.no_grad():
        model.head.bias -= model(torch.zeros(1, 3, 64, 64)).median()
    return model.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny")


def pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """Smooth noise of several sizes."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (6, 6, 3), np.uint8))
        coarse.resize((70 + number % 3, 50), Image.Resampling.BICUBIC).save(folder / f"{number:03}.png")
    return folder


@pytest.mark.parametrize("tta", [False, True])
def test_batches_give_what_single_images_give(checkpoint, tmp_path, tta):
    model = segzoo.from_pretrained(checkpoint)
    predictor = Pipeline(TorchBackend(model.deploy()), tta=tta)
    predictor.batch_size = 4
    jobs = plan(inputs_in(pictures(tmp_path / "in", 6)), tmp_path / "out", overlay=False)
    assert all(isinstance(outcome, str) for _, outcome in segment_files(predictor, jobs))
    read = [predictor.read(job.file) for job in jobs]
    together = predictor.segment(read[:4]) + predictor.segment(read[4:])
    for job, found in zip(jobs, together, strict=True):
        alone = model.predict(job.file, tta=tta)
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(Image.open(job.mask)), alone.mask)
        assert 0 < alone.mask.mean() < 1


def test_half_precision_keeps_most_of_a_mask(checkpoint, tmp_path):
    """What a GPU computes in, here on the CPU."""
    model = segzoo.from_pretrained(checkpoint).deploy()
    predictor = Pipeline(TorchBackend(model))
    given = [predictor.read(pictures(tmp_path / "in", 1) / "000.png")]
    exact = predictor.segment(given)[0]
    rounded = Pipeline(TorchBackend(model, precision=torch.bfloat16)).segment(given)[0]
    assert rounded.probabilities.dtype == np.float32
    assert (rounded.probabilities != exact.probabilities).any()
    np.testing.assert_allclose(rounded.probabilities, exact.probabilities, atol=0.05)


def test_what_is_used_is_said(checkpoint, tmp_path, capsys):
    arguments = ["predict", str(checkpoint), str(pictures(tmp_path / "in", 1)), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu"]) == 0
    threads = torch.get_num_threads()
    wanted = f"on the CPU, {threads} thread{'s' if threads > 1 else ''}, float32\n"
    assert capsys.readouterr().err.endswith(wanted)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_sentence(checkpoint, tmp_path, capsys):
    arguments = ["predict", str(checkpoint), str(pictures(tmp_path / "in", 1)), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cuda"]) == 2
    assert capsys.readouterr().err.startswith("segzoo: error: there is no GPU here")


# ---- going on


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def changed(before: dict[str, int], folder: Path) -> set[str]:
    return {name for name, stamp in stamps(folder).items() if before.get(name) != stamp}


def test_the_same_command_again_does_what_is_missing(checkpoint, tmp_path, capsys):
    images, output = pictures(tmp_path / "in", 4), tmp_path / "out"
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output), "--overlay"]
    assert main(arguments) == 0
    before = stamps(output)
    assert len(before) == 8
    capsys.readouterr()

    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("4 of 4 were done before\n", "")  # and no model was loaded
    (output / "001.png").unlink()
    for cut, kept in (("002_overlay.png", 30), ("003.png", -20)):  # in its header, and after it
        (output / cut).write_bytes((output / cut).read_bytes()[:kept])
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[0] == "1 of 4 were done before"
    assert changed(before, output) == before.keys() - {"000.png", "000_overlay.png"}

    before = stamps(output)
    assert main(arguments[:-1]) == 0  # the masks are the same without overlays
    assert changed(before, output) == set()


def other_options(checkpoint: Path, images: Path, output: Path) -> list[str]:
    return ["predict", str(checkpoint), str(images), "--output", str(output), "--tta"]


def other_weights(checkpoint: Path, images: Path, output: Path) -> list[str]:
    torch.manual_seed(1)
    model = segzoo.create_model("cmunext_s").eval()
    other = model.save_pretrained(output.parent / checkpoint.name)
    return ["predict", str(other), str(images), "--output", str(output)]


def changed_images(checkpoint: Path, images: Path, output: Path) -> list[str]:
    for file in images.iterdir():
        old = file.stat().st_mtime_ns
        os.utime(file, ns=(old, old - 10**12))  # replaced by one from a backup: other, though it looks older
    return ["predict", str(checkpoint), str(images), "--output", str(output)]


STALE = [other_options, other_weights, changed_images]


@pytest.mark.parametrize("change", STALE)
def test_masks_of_anything_else_are_made_anew(checkpoint, tmp_path, capsys, change):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 0
    arguments, before = change(checkpoint, images, output), stamps(output)
    capsys.readouterr()
    assert main(arguments) == 0
    assert "done before" not in capsys.readouterr().out
    assert changed(before, output) == {"000.png", "001.png"}


@pytest.mark.parametrize("options", [[], ["--overlay"]])
def test_masks_of_other_images_of_the_same_names_are_kept(checkpoint, tmp_path, capsys, options):
    first, second = pictures(tmp_path / "first", 1), pictures(tmp_path / "second", 2)
    arguments = ["predict", str(checkpoint), "--output", str(tmp_path / "out"), *options]
    assert main([*arguments, str(first)]) == 0
    before = stamps(tmp_path / "out")
    assert main([*arguments, str(second)]) == 2
    made = {"001.png", *["001_overlay.png"] * len(options)}
    assert changed(before, tmp_path / "out") == made
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'out' / '000.png'} is in the way: it was made from another file than {second}" in told
    (tmp_path / "linked").symlink_to(first)
    assert main([*arguments, str(tmp_path / "linked")]) == 0  # it is the same
    assert changed(before, tmp_path / "out") == made
    for file in (tmp_path / "out").iterdir():
        file.unlink()
    assert main([*arguments, str(second)]) == 0


@pytest.mark.parametrize("note", ["", "FSL-6.0"])
@pytest.mark.parametrize("options", [[], ["--tta"]])
def test_masks_of_somebody_else_are_kept(checkpoint, tmp_path, capsys, options, note):
    images, output = pictures(tmp_path / "in", 3), tmp_path / "out"
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output)]
    assert main(arguments) == 0
    corrected = output / "001.png"
    write_mask(corrected, 1 - read_mask(corrected), note)
    (output / "002.png").unlink()
    before = stamps(output)
    assert main([*arguments, *options]) == 2
    assert changed(before, output) == {"002.png", *["000.png"] * len(options)}
    told = capsys.readouterr().err.splitlines()[-1]
    assert f"{corrected} is in the way: it was made from another file than {images / '001.png'}, or not by" in told


def test_no_overlay_of_another_mask_stays_beside_a_new_one(checkpoint, tmp_path):
    images, output = pictures(tmp_path / "in", 1), tmp_path / "out"
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output)]
    assert main([*arguments, "--overlay"]) == 0
    (output / "001_overlay.png").write_bytes((images / "000.png").read_bytes())  # somebody else's
    assert main([*arguments, "--tta"]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["000.png", "001_overlay.png"]


def test_the_mask_of_an_image_that_is_called_as_an_overlay_is_kept(checkpoint, tmp_path):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    (images / "001.png").rename(images / "000_overlay.png")
    for _ in range(2):
        assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 0
        assert sorted(path.name for path in output.iterdir()) == ["000.png", "000_overlay.png"]
        (output / "000.png").unlink()


def test_names_as_long_as_names_can_be(checkpoint, tmp_path, capsys):
    images, output = pictures(tmp_path / "in", 1), tmp_path / "out"
    (images / "000.png").rename(images / f"{'x' * 251}.png")
    for _ in range(2):
        assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 0
    assert capsys.readouterr().out.endswith("1 of 1 were done before\n")


def test_an_overlay_of_too_long_a_name_costs_no_mask(checkpoint, tmp_path, capsys):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    long = (images / "000.png").rename(images / f"{'x' * 250}.png")
    for _ in range(2):
        assert main(["predict", str(checkpoint), str(images), "--output", str(output), "--overlay"]) == 2
        assert sorted(stamps(output)) == ["001.png", "001_overlay.png", long.name]
        told = capsys.readouterr().err
        assert f"{'x' * 250}_overlay.png cannot be written" in told.splitlines()[-1]
        assert "1 of 2 inputs" in told.splitlines()[-1]


@pytest.mark.parametrize("blocked", ["000.png", "000_overlay.png"])
def test_each_file_that_cannot_be_written_is_named(checkpoint, tmp_path, capsys, blocked):
    images, output = pictures(tmp_path / "in", 1), tmp_path / "out"
    (output / blocked).mkdir(parents=True)
    assert main(["predict", str(checkpoint), str(images), "--output", str(output), "--overlay"]) == 2
    assert f"{output / blocked} cannot be written" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(stamps(output)) == ["000.png", "000_overlay.png"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(("most", "written"), [(60, []), (1500, ["000.png", "001.png", "002.png"])])
def test_what_a_limit_of_file_sizes_left_is_finished_without_it(checkpoint, tmp_path, capsys, most, written):
    import resource

    images, output = pictures(tmp_path / "in", 3), tmp_path / "out"
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output), "--overlay"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(stamps(output)) == written
    told = capsys.readouterr().err.splitlines()
    assert "3 of 3 inputs were not segmented" in told[-1]
    assert f"cannot be written ({os.strerror(errno.EFBIG)})" in told[-1]
    assert main(arguments) == 0
    assert len(stamps(output)) == 6


def test_inputs_that_are_not_there_stop_no_other(checkpoint, tmp_path, capsys, monkeypatch):
    images = pictures(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "closed").mkdir()
    true_iterdir = Path.iterdir

    def iterdir(path: Path) -> Any:  # a test may run as root, for whom nothing is closed
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return true_iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    bad = [tmp_path / "gone.png", tmp_path / "empty", tmp_path / "closed", tmp_path / ("x" * 300)]
    inputs = [*map(str, bad[:2]), str(images), *map(str, bad[2:])]
    assert main(["predict", str(checkpoint), *inputs, "--output", str(tmp_path / "out")]) == 2
    assert sorted(stamps(tmp_path / "out")) == ["000.png"]
    *told, last = capsys.readouterr().err.splitlines()
    named = [line for line in told if "not segmented" in line]
    assert all(str(path) in line for path, line in zip(bad, named, strict=True))
    assert "4 of 5 inputs were not segmented" in last
    assert main(["predict", str(checkpoint), *map(str, bad), "--output", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such names")
def test_a_line_stays_one_whatever_is_in_a_name(checkpoint, tmp_path, capsys):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    (images / "000.png").rename(images / "two\nlines\x1b[2J.png")
    (images / "bad\nname.png").write_text("no image")
    assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert f"{images}/two\\nlines\\x1b[2J.png -> " in printed.out
    _loaded, bad, last = printed.err.splitlines()
    assert "bad\\nname.png" in bad
    assert last.startswith("segzoo: error: 1 of 3 inputs")
    assert "bad\\nname.png" in last


def test_where_nothing_can_be_written_nothing_is_segmented(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Pipeline, "segment", lambda *_: pytest.fail("was segmented"))
    images = pictures(tmp_path / "in", 1)
    (tmp_path / "file").touch()
    assert main(["predict", str(checkpoint), str(images), "--output", str(tmp_path / "file")]) == 2
    assert f"nothing can be written in {tmp_path / 'file'} (File exists)" in capsys.readouterr().err


def test_a_full_disk_ends_the_run(checkpoint, tmp_path, capsys, monkeypatch):
    def replace(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    images = pictures(tmp_path / "in", 60)
    segmented, segment = [], Pipeline.segment
    monkeypatch.setattr(Pipeline, "segment", lambda *given: (segmented.append(1), segment(*given))[1])
    monkeypatch.setattr("os.replace", replace)
    assert main(["predict", str(checkpoint), str(images), "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[-1].startswith("segzoo: error: ")
    assert "000.png cannot be written (No space left on device)" in told[-1]
    assert len(segmented) < 30


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("std::bad_alloc")])
def test_a_mask_that_memory_does_not_suffice_for_stops_no_other(tmp_path, monkeypatch, error):
    def write(job: Job, found: Segmentation) -> None:
        if job.mask.stem == "a1":
            raise error

    monkeypatch.setattr(file_pipeline, "write", write)
    first, second = (outcome for _, outcome in segment_files(Named(), jobs_of(tmp_path, "a1", "a2")))
    assert str(first) == f"there is not enough memory for {tmp_path / 'masks' / 'a1.png'}"
    assert second == "one 0.0%"


def test_links_are_not_written_over(checkpoint, tmp_path, capsys):
    images, links = pictures(tmp_path / "in", 1), tmp_path / "links"
    links.mkdir()
    (links / "a.png").symlink_to(images / "000.png")
    assert main(["predict", str(checkpoint), str(links), "--output", str(links)]) == 2
    assert "a.png lies in the output folder" in capsys.readouterr().err
    assert (links / "a.png").is_symlink()


def test_names_that_the_terminal_cannot_show_stop_nothing(checkpoint, tmp_path, monkeypatch):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    (images / "000.png").rename(images / "Łoś.png")
    monkeypatch.setattr("sys.stdout", TextIOWrapper(BytesIO(), "ascii"))
    assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 0
    assert sorted(path.name for path in output.iterdir()) == ["001.png", "Łoś.png"]


def test_a_file_that_is_gone_is_not_done_whatever_lies_where_its_mask_would(tmp_path):
    (job,) = jobs_of(tmp_path, "a1")
    job.mask.parent.mkdir()
    Image.new("L", (2, 2)).save(job.mask)  # somebody else's, without a note
    assert [one.file for one in unfinished([job], {}, None)] == [job.file]


def test_files_that_go_and_volumes_beyond_memory_stop_nothing(checkpoint, tmp_path, capsys, monkeypatch):
    images, output = pictures(tmp_path / "in", 3), tmp_path / "out"
    (images / "0.png").symlink_to(tmp_path / "gone.png")

    def segment(predictor, inputs):
        if inputs[0].grid == given.shape[:2]:  # as no other has it
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return true_segment(predictor, inputs)

    given, true_segment = read_image(images / "001.png"), Pipeline.segment
    monkeypatch.setattr(Pipeline, "segment", segment)
    assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 2
    assert sorted(path.name for path in output.iterdir()) == ["000.png", "002.png"]
    told = capsys.readouterr().err
    assert f"There is no file {images / '0.png'}" in told
    assert f"{images / '001.png'}: there is not enough memory for it" in told


@pytest.mark.parametrize(
    ("suffix", "error", "message"),
    [
        (".png", PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (".mha", PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (".mha", KeyError("what"), "KeyError: 'what'"),
    ],
)
def test_a_file_that_cannot_be_read_stops_no_other(checkpoint, tmp_path, capsys, monkeypatch, suffix, error, message):
    images, output = pictures(tmp_path / "in", 2), tmp_path / "out"
    bad = images / f"0{suffix}"
    bad.write_bytes(b"what is in it nobody reads")
    true_open = Path.open

    def refuse(path: Path, *mode: Any, **options: Any) -> Any:
        if path == bad:
            raise error
        return true_open(path, *mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    (images / "loop.png").symlink_to("loop.png")
    (images / "folder.png").mkdir()
    inputs = [str(images), str(images / "loop.png")]
    with pytest.warns(UserWarning, match=r"folder\.png"):
        assert main(["predict", str(checkpoint), *inputs, "--output", str(output)]) == 2
    assert sorted(path.name for path in output.iterdir()) == ["000.png", "001.png"]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4
    assert re.search(f"not segmented: Cannot read {bad}.*{message}", told[1])
    assert re.search(r"There is no file .*loop\.png", told[2])
    assert told[3].startswith("segzoo: error: 2 of 4 inputs were not segmented")


def test_volumes_and_classes_with_masks_of_their_own_are_found_again(samples, tmp_path, capsys):
    torch.manual_seed(0)
    model = segzoo.create_model("mednext", num_classes=2, multilabel=True, width=2)
    model.class_names = ("anterior part", "posterior part")
    checkpoint = model.save_pretrained(tmp_path / "tiny")
    scan = sorted((samples / "Task04_Hippocampus" / "imagesTr").iterdir())[0]
    arguments = ["predict", str(checkpoint), str(scan), "--output", str(tmp_path / "out"), "--overlay"]
    assert main(arguments) == 0
    before = stamps(tmp_path / "out")
    assert len(before) == 3
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == "1 of 1 were done before\n"
    one, other = (next((tmp_path / "out").glob(f"*{part}-part.nii.gz")) for part in ("anterior", "posterior"))
    other.unlink()
    assert main(arguments) == 0
    assert changed(before, tmp_path / "out") == set(before)
    write_volume_mask(one, *read_volume_mask(one))  # as where somebody has corrected it
    before = stamps(tmp_path / "out")
    assert main(arguments) == 2
    assert changed(before, tmp_path / "out") == set()


def test_the_form_that_says_where_a_volume_lies_is_part_of_what_is_done(samples, tmp_path, capsys):
    torch.manual_seed(0)
    checkpoint = segzoo.create_model("mednext", num_classes=3, width=2).save_pretrained(tmp_path / "tiny")
    scan = sorted((samples / "Task04_Hippocampus" / "imagesTr").iterdir())[0]
    raw = bytearray(gzip.decompress(scan.read_bytes()))
    struct.pack_into("<12f", raw, 280, *np.diag((2, 2, 4, 1))[:3].ravel())  # the sform's
    struct.pack_into("<2h", raw, 252, 1, 1)
    (tmp_path / "scan.nii").write_bytes(raw)
    arguments = ["predict", str(checkpoint), str(tmp_path / "scan.nii"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ("2 x 2 x 4 mm", "1 x 1 x 1 mm", "--geometry sform or qform"))
    for form in ("sform", "qform", "qform"):
        before = stamps(tmp_path / "out")
        assert main([*arguments, "--geometry", form]) == 0
        mask = (tmp_path / "out" / "scan.nii").read_bytes()
        assert mask[252:328] == raw[252:328]  # both forms, as they are
        assert mask[76:92] == raw[76:92]
    assert capsys.readouterr().out.endswith("1 of 1 were done before\n")
    assert changed(before, tmp_path / "out") == set()


@pytest.mark.parametrize(
    ("classes", "names", "options", "message"),
    [
        (
            ["lesion", "core_lesion"],
            ["x", "x_core"],
            [],
            "x.png and .*x_core.png would both be written to x_core_lesion.png",
        ),
        (["left/outer", "left outer"], ["x"], [], "the classes left/outer, left outer cannot have a file each"),
        (
            ["lesion", "overlay"],
            ["x"],
            ["--overlay"],
            "x_overlay.png would be a mask and the overlay of .*x.png; leave",
        ),
    ],
)
def test_masks_that_would_be_one_file_are_refused(tmp_path, capsys, monkeypatch, classes, names, options, message):
    monkeypatch.setattr(Pipeline, "segment", lambda *_: pytest.fail("was segmented"))
    model = segzoo.create_model("cmunext_s", num_classes=2, multilabel=True)
    model.class_names = tuple(classes)
    checkpoint = model.save_pretrained(tmp_path / "tiny")
    for number, name in enumerate(names):
        pictures(tmp_path / str(number), 1).joinpath("000.png").rename(tmp_path / f"{name}.png")
    files = [str(tmp_path / f"{name}.png") for name in names]
    assert main(["predict", str(checkpoint), *files, "--output", str(tmp_path / "out"), *options]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(message, told)


def interrupt(*_, **__):
    raise KeyboardInterrupt  # not a signal: what starts the tests may have it ignored


@pytest.mark.parametrize("stage", ["while it writes", "before the draft is removed"])
def test_nothing_is_half_written(checkpoint, tmp_path, monkeypatch, stage):
    """A process that is killed leaves the old mask, the new one or none, and its draft, which is nobody else's."""
    (job,) = plan(inputs_in(pictures(tmp_path / "in", 1)), tmp_path / "out", overlay=True)
    (job,) = unfinished([job], {}, None)
    found = segzoo.from_pretrained(checkpoint).predict(job.file)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # nothing clears up after SIGKILL
        if stage == "while it writes":
            patch.setattr(file_pipeline, "write_png", interrupt)
            with pytest.raises(KeyboardInterrupt):
                file_pipeline.write(job, found)
            assert not job.mask.exists()
            assert unfinished([job], {}, None) == [job]
        else:
            file_pipeline.write(job, found)
            assert unfinished([job], {}, None) == []
    (draft,) = (tmp_path / "out").glob(".*")
    file_pipeline.write(job, found)
    assert sorted(stamps(tmp_path / "out")) == [draft.name, "000.png", "000_overlay.png"]
    assert unfinished([job], {}, None) == []


def test_only_drafts_of_yesterday_are_cleared_up(checkpoint, tmp_path):
    images, output = pictures(tmp_path / "in", 1), tmp_path / "out"
    for name, hours in (("dead", 25), ("alive", 23)):
        (output / f".segzoo-{name}.writing").mkdir(parents=True)
        os.utime(output / f".segzoo-{name}.writing", (time.time() - hours * 3600,) * 2)
    assert main(["predict", str(checkpoint), str(images), "--output", str(output)]) == 0
    assert sorted(stamps(output)) == [".segzoo-alive.writing", "000.png"]


def test_runs_that_write_the_same_mask_at_once_lose_nothing(checkpoint, tmp_path, monkeypatch):
    (job,) = plan(inputs_in(pictures(tmp_path / "in", 1)), tmp_path / "out", overlay=True)
    (job,) = unfinished([job], {}, None)
    found, settle = segzoo.from_pretrained(checkpoint).predict(job.file), file_pipeline.settle

    def meanwhile(file: Path) -> None:
        monkeypatch.setattr(file_pipeline, "settle", settle)
        file_pipeline.write(job, found)  # what the other run does
        settle(file)

    monkeypatch.setattr(file_pipeline, "settle", meanwhile)
    file_pipeline.write(job, found)
    assert sorted(stamps(tmp_path / "out")) == ["000.png", "000_overlay.png"]
    assert unfinished([job], {}, None) == []


# ---- several processes


def command(checkpoint: str | Path, images: Path, output: Path, *options: str) -> list[str]:
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output), "--device", "cpu", *options]
    return [sys.executable, "-m", "segzoo.cli", *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(Path(segzoo.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def rank_of(fabric: Fabric, name: str) -> str:
    assert torch.distributed.is_initialized()
    return f"{name} {fabric.global_rank}"


def test_a_process_leaves_no_group_behind(monkeypatch):
    """Threads of gloo that outlive Python abort it now and then: "terminate called without an active exception"."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    of_torchrun = {"TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    of_torchrun |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in of_torchrun.items():
        monkeypatch.setenv(name, value)
    assert launch(prepare("cpu", 1, 1), rank_of, "rank") == "rank 0"
    assert not torch.distributed.is_initialized()


OF_TORCHRUN = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
OF_SLURM = {"SLURM_JOB_NAME": "segment", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
OF_SBATCH = OF_SLURM | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
OF_SRUN = OF_SBATCH | {"SLURM_STEP_NUM_TASKS": "2"}


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        (OF_TORCHRUN, [], "make 1 processes, and 2 started here"),
        (OF_SLURM | {"SLURM_NTASKS": "1"}, ["--devices", "2"], "make 2 processes, and 1 started here"),
        (OF_SLURM | {"SLURM_NTASKS": "2"}, ["--devices", "2"], "--devices 2 cannot be had: .*--ntasks-per-node=2"),
        (OF_SRUN, [], "make 1 processes, and 2 started here"),
        (OF_SBATCH, ["--devices", "2"], "SLURM is to run 2 processes, and this one was not started by srun"),
    ],
    ids=["torchrun", "too few tasks", "tasks of no node", "srun without --devices", "a batch script without srun"],
)
def test_processes_that_a_cluster_started_must_be_those_asked_for(
    checkpoint, tmp_path, capsys, monkeypatch, variables, options, message
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    arguments = [str(checkpoint), str(pictures(tmp_path / "in", 1)), "--output", str(tmp_path / "out")]
    assert main(["predict", *arguments, *options]) == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


def test_machines_that_cannot_meet_are_not_waited_for(checkpoint, tmp_path, capsys):
    arguments = [str(checkpoint), str(pictures(tmp_path / "in", 1)), "--output", str(tmp_path / "out")]
    assert main(["predict", *arguments, "--nodes", "2"]) == 2
    assert "--nodes 2 needs to know where the machines meet" in capsys.readouterr().err.splitlines()[-1]


def test_one_process_of_a_batch_script_does_all_files(checkpoint, tmp_path, monkeypatch):
    for name, value in OF_SBATCH.items():
        monkeypatch.setenv(name, value)
    arguments = [str(checkpoint), str(pictures(tmp_path / "in", 1)), "--output", str(tmp_path / "out")]
    assert main(["predict", *arguments]) == 0


@pytest.mark.slow
def test_two_processes_write_each_file_once_and_as_one_does(checkpoint, tmp_path):
    images = pictures(tmp_path / "in", 7)
    if sys.platform == "linux":  # where a name need not be Unicode
        (images / "000.png").rename(images / os.fsdecode(b"Stra\xdfe.png"))
    (images / "bad.png").write_text("no image")  # the eighth: the second process meets it
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert main(["predict", str(checkpoint), str(images), "--output", str(alone)]) == 2
    strict = {**environment(), "PYTHONIOENCODING": "utf-8:strict"}
    done = processes.run(command(checkpoint, images, shared, "--devices", "2"), env=strict)
    assert done.returncode == 2, done.stderr
    lines = sorted(line.split(" -> ")[0] for line in done.stdout.splitlines())
    shown = (str(file).encode("utf-8", "backslashreplace").decode() for file in images.iterdir())
    assert lines == sorted(file for file in shown if not file.endswith("bad.png"))
    assert sorted(stamps(shared)) == sorted(stamps(alone))
    for file in alone.iterdir():
        assert (shared / file.name).read_bytes() == file.read_bytes()
    *told, last = done.stderr.splitlines()
    loaded, bad = sorted(told, key=lambda line: "not segmented" in line)  # of two processes, either may be the first
    assert "tensors loaded" in loaded
    assert "not segmented: Cannot read" in bad
    assert last.startswith("segzoo: error: 1 of 8 inputs were not segmented, the first because: Cannot read")


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        if int(fields[1]) == parent and "spawn_main" in (stat.parent / "cmdline").read_text():
            found.append(int(stat.parent.name))
    return found


def waited(condition: Any, process: processes.Process) -> None:
    """Until something is so; an error where the process ends first."""
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="kills by a signal")
def test_what_a_kill_left_is_finished_by_the_same_command(checkpoint, tmp_path):
    images, output = pictures(tmp_path / "in", 150), tmp_path / "out"
    again = command(checkpoint, images, output)
    process = processes.Process(again, env=environment())
    waited(lambda: output.is_dir() and len(list(output.glob("*.png"))) > 10, process)
    process.kill()
    process.communicate(timeout=120)
    before = stamps(output)
    masks = [output / name for name in before if name.endswith(".png")]
    assert 10 < len(masks) < 150
    for mask in masks:
        np.asarray(Image.open(mask))  # complete

    done = processes.run(again, env=environment())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"{len(masks)} of 150 were done before"
    assert sorted(file.name for file in output.glob("[!.]*")) == sorted(file.name for file in images.iterdir())
    assert not changed(before, output) & {mask.name for mask in masks}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_the_other_process_does_what_a_killed_one_left(tmp_path):
    """With a file that needs no torch, whose import is most of what processes take here."""
    images, output = pictures(tmp_path / "in", 400), tmp_path / "out"
    both = command(threshold(tmp_path / "threshold.onnx"), images, output, "--devices", "2")
    process = processes.Process(both, env=environment())
    waited(lambda: output.is_dir() and len(list(output.glob("*.png"))) > 10, process)
    os.kill(victim := children(process.pid)[0], signal.SIGKILL)
    printed, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert f"of 2 (pid {victim}) was ended by SIGKILL" in error
    assert len(printed.splitlines()) == 400
    assert sorted(file.name for file in output.glob("[!.]*")) == sorted(file.name for file in images.iterdir())
