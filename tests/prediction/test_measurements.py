"""The table of `segzoo predict --measure`: each case's rows once, whoever writes, and whatever ends a run."""

import csv
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dicom_writer
import segzoo
from segzoo.cli.command import main
from segzoo.errors import SegzooError
from segzoo.imaging.images import write_mask
from segzoo.imaging.readers import reader_of
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.measurements import columns, locked, measured_before, record
from segzoo.prediction.plan import Job

HEAD = ["case", "structure", "size", "unit", "components", "diameter", "diameter_unit", "mean", "sd"]
HEAD += ["doubt", "made_from"]


def picture(folder: Path, name: str = "a", pixels: Any = None) -> Path:
    file = folder / f"{name}.png"
    Image.fromarray(np.full((6, 8), 40, np.uint8) if pixels is None else pixels).save(file)
    return file


def job_of(file: Path, folder: Path, note: str = "") -> Job:
    source = f"{file.stem:_<14}"
    return Job(file, folder / "out" / file.name, note=note or f"{source}-{'1' * 32}", measure=folder / "table.csv")


def found(names: tuple[str, ...] = ("background", "lesion", "cyst")) -> Segmentation:
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3, 2:5] = 1
    return Segmentation(mask, np.zeros((0, 6, 8), np.float32), names, np.zeros((6, 8, 3), np.uint8))


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- rows


def test_a_row_a_structure_with_units_and_stored_intensities(tmp_path):
    stored = np.full((6, 8), 4000, np.uint16)
    stored[1, 2] = 4600
    job = job_of(picture(tmp_path, pixels=stored), tmp_path)
    record(job, found())
    assert (tmp_path / "table.csv").read_text() == "\n".join(
        [
            ",".join(HEAD),
            f"a,lesion,6,pixels,1,2.23607,pixels,4100,244.949,,{job.note}",
            f"a,cyst,0,pixels,0,,pixels,,,,{job.note}",
            "",
        ]
    )


@pytest.mark.parametrize(
    ("pixels", "brightness"),
    [
        (np.full((6, 8, 3), (200, 100, 50), np.uint8), 0.299 * 200 + 0.587 * 100 + 0.114 * 50),
        (np.full((6, 8, 3), 77, np.uint8), 77),
        (np.full((6, 8, 4), (9, 9, 9, 100), np.uint8), 9),
        (np.ones((6, 8), bool), 255),
    ],
    ids=["colours", "grey as colours", "alpha", "one bit"],
)
def test_the_brightness_of_pictures_is_measured(tmp_path, pixels, brightness):
    job = job_of(picture(tmp_path, pixels=pixels), tmp_path)
    record(job, found())
    assert float(rows(tmp_path / "table.csv")[0]["mean"]) == pytest.approx(brightness, rel=1e-5)


def test_several_channels_have_columns_of_their_own():
    assert columns(2)[-6:] == ["mean_1", "sd_1", "mean_2", "sd_2", "doubt", "made_from"]
    assert columns(1) == HEAD


def dicom(folder: Path, pixels: np.ndarray, **elements: Any) -> Job:
    kind = dicom_writer.ULTRASOUND if pixels.ndim == 2 else dicom_writer.ULTRASOUND_FILM
    made = dicom_writer.with_pixels(dicom_writer.dataset(kind, "1.2.3", 5, 2, Modality="US", **elements), pixels)
    file = dicom_writer.write(folder / "us" / "a", made)
    return Job(file, folder / "out" / reader_of(file).mask_name, note="n" * 47, measure=folder / "table.csv")


def test_a_picture_that_says_how_large_its_pixels_are_is_measured_in_millimetres(tmp_path):
    pixels = np.full((6, 8), 300, np.uint16)
    record(dicom(tmp_path, pixels, PixelSpacing=[0.5, 2.0], RescaleSlope=2, RescaleIntercept=-100), found())
    lesion, cyst = rows(tmp_path / "table.csv")
    assert [lesion[key] for key in ("size", "unit", "diameter_unit", "mean")] == ["6", "mm2", "mm", "500"]
    assert float(lesion["diameter"]) == pytest.approx((0.5**2 + 4**2) ** 0.5, rel=1e-5)
    assert (cyst["size"], cyst["unit"]) == ("0", "mm2")


def test_a_film_has_no_sizes(tmp_path, refused):
    job = dicom(tmp_path, np.zeros((4, 6, 8), np.uint8), PixelSpacing=[0.5, 2.0])
    volume = job.input.for_images(1)
    film = replace(found(), mask=np.zeros((4, 6, 8), np.uint8), image=volume.array, geometry=volume.geometry)
    with refused(SegzooError):
        record(job, film)
    assert not (tmp_path / "table.csv").exists()


# ---- written once


def test_a_case_is_written_once_and_a_cut_row_is_written_over(tmp_path):
    first, second = (job_of(picture(tmp_path, name), tmp_path) for name in "ab")
    for job in (first, first, second):
        record(job, found())
    table = tmp_path / "table.csv"
    assert [row["case"] for row in rows(table)] == ["a", "a", "b", "b"]
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.index(b"b,lesion") + 11])  # as a full disk leaves it
    record(second, found())
    assert table.read_bytes() == whole


def test_many_writers_do_not_mix(tmp_path):
    jobs = [job_of(picture(tmp_path, f"{number:03}"), tmp_path) for number in range(24)]

    def write(start: int) -> None:
        for job in jobs[start % 24 :] + jobs[: start % 24]:
            record(job, found())

    writers = [threading.Thread(target=write, args=(6 * number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    written = rows(tmp_path / "table.csv")
    assert len(written) == 48
    assert {(row["case"], row["structure"]) for row in written} == {
        (job.file.stem, name) for job in jobs for name in ("lesion", "cyst")
    }


def test_who_waits_for_a_table_writes_to_what_takes_its_place(tmp_path):
    first, second = (job_of(picture(tmp_path, name), tmp_path) for name in "ab")
    record(first, found())
    table = tmp_path / "table.csv"
    with locked(table) as file:
        waiting = threading.Thread(target=record, args=(second, found()))
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        (tmp_path / "other.csv").write_bytes(file.read())
        os.replace(tmp_path / "other.csv", table)
    waiting.join(30)
    assert [row["case"] for row in rows(table)] == ["a", "a", "b", "b"]


# ---- going on


def test_rows_of_another_recipe_of_the_same_input_are_taken_out(tmp_path):
    files = [picture(tmp_path, name) for name in "abc"]
    before = [job_of(file, tmp_path) for file in files]
    for job in before:
        record(job, found())
    table = tmp_path / "table.csv"
    now = [before[0], job_of(files[1], tmp_path, note=before[1].note[:15] + "2" * 32)]
    assert measured_before(table, now, 2, 1) == {before[0].note}
    assert [row["case"] for row in rows(table)] == ["a", "a", "c", "c"]


def test_a_case_of_which_a_row_is_missing_is_not_measured(tmp_path):
    first, second = (job_of(picture(tmp_path, name), tmp_path) for name in "ab")
    table = tmp_path / "table.csv"
    assert measured_before(table, [first, second], 2, 1) == set()
    record(first, found())
    record(second, found())
    whole = table.read_bytes()
    table.write_bytes(whole[: whole.index(b"b,cyst") + 3])
    assert measured_before(table, [first, second], 2, 1) == {first.note}
    assert table.read_bytes() == whole[: whole.index(b"b,lesion")]


@pytest.mark.parametrize(
    "content",
    [b"patient,age\n1,70\n", b"\xff\xfe", b"\x89PNG\r\n\n", b"no line"],
    ids=["table", "latin", "picture", "text"],
)
def test_another_file_is_not_written_over(tmp_path, content, refused):
    job = job_of(picture(tmp_path), tmp_path)
    (tmp_path / "table.csv").write_bytes(content)
    with refused(SegzooError):
        measured_before(tmp_path / "table.csv", [job], 2, 1)
    with refused(SegzooError):
        record(job, found())
    assert (tmp_path / "table.csv").read_bytes() == content


# ---- the command


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = segzoo.create_model("cmunext_s", num_classes=3).eval()
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    model.class_names = ("background", "lesion", "cyst")
    return model.save_pretrained(tmp_path_factory.mktemp("hub") / "tiny")


def test_a_run_is_measured_and_goes_on(checkpoint, tmp_path, capsys):
    images, output, table = tmp_path / "in", tmp_path / "masks", tmp_path / "tables" / "all.csv"
    images.mkdir()
    random = np.random.default_rng(0)
    for name in "ab":
        picture(images, name, random.integers(0, 255, (40, 50), np.uint8))
    arguments = ["predict", str(checkpoint), str(images), "--output", str(output), "--device", "cpu"]
    assert main(arguments) == 0
    capsys.readouterr()
    measuring = [*arguments, "--measure", str(table)]
    assert main(measuring) == 0
    said = capsys.readouterr()
    assert said.out.count("measured in") == 2
    assert "on the CPU" not in said.err  # no network was asked
    whole = table.read_bytes()
    measured = rows(table)
    assert [(row["case"], row["structure"]) for row in measured] == [
        (case, name) for case in "ab" for name in ("lesion", "cyst")
    ]
    for row in measured:
        mask = np.asarray(Image.open(output / f"{row['case']}.png"))
        assert int(row["size"]) == (mask == 1 + ("lesion", "cyst").index(row["structure"])).sum()
    assert sum(int(row["size"]) for row in measured)

    (output / "b.png").unlink()  # as where it was killed before
    table.write_bytes(whole[: whole.index(b"b,")])
    assert main(measuring) == 0
    assert table.read_bytes() == whole
    assert main(measuring) == 0
    assert table.read_bytes() == whole


def test_a_table_that_cannot_be_written_is_one_sentence(checkpoint, tmp_path, capsys):
    (tmp_path / "folder.csv").mkdir()
    write_mask(tmp_path / "a.png", np.zeros((40, 50), np.uint8))
    arguments = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--output", str(tmp_path / "masks")]
    assert main([*arguments, "--device", "cpu", "--measure", str(tmp_path / "folder.csv")]) == 2
    assert "folder.csv" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--measure", "a.csv"], ["--probabilities"], ["--report"]])
def test_videos_are_not_measured(checkpoint, tmp_path, option, capsys):
    arguments = ["predict", str(checkpoint), str(tmp_path / "a.mp4"), "--output", str(tmp_path / "masks")]
    assert main([*arguments, *option]) == 2
    assert "a.mp4" in (said := capsys.readouterr().err)
    assert option[0] in said
