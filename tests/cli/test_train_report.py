"""What a training says of itself, and what it draws."""

import contextlib
import io
import json
import logging
import math
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import busi, fit, logged, state_of

import segzoo
from segzoo import cli
from segzoo.cli import train_pictures, train_report
from segzoo.cli.train_names import LOADER, default_folder
from segzoo.cli.train_pictures import CAPTION, GAP, SIDE, Epoch, RunPictures, Seen, example_sheet, seen
from segzoo.cli.train_report import ExpectedTime, best_lines, data_words, next_lines, quieten, slow_precision
from segzoo.data import BUSI, Decathlon, Folder
from segzoo.data.base import class_shares
from segzoo.imaging.masks import read_mask

TOLD = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.callbacks.model_summary")


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture(scope="module")
def told(samples, tmp_path_factory) -> tuple[Path, list[str], list[str]]:
    """Two epochs of CMUNeXt-S of one batch each: its folder, what it printed, and what Lightning logged."""
    root, printed, records = tmp_path_factory.mktemp("runs") / "a run", io.StringIO(), Records()
    for name in TOLD:
        logging.getLogger(name).addHandler(records)
    with contextlib.redirect_stdout(printed):
        fit(root, "--model", "cmunext_s", *busi(samples), "--trainer.limit_train_batches", "1", draw=True)
    for name in TOLD:
        logging.getLogger(name).removeHandler(records)
    return root, [line.removeprefix("segzoo: ") for line in printed.getvalue().splitlines()], records.texts


# ---- what it says


def test_a_run_begins_with_what_it_trains_on_and_by(told, samples):
    _, lines, _ = told
    files = sorted(samples.glob("BUSI/*/*/*.png"))  # an image with two lesions has two masks
    lesion = sum(int((read_mask(file, binary=True) > 0).sum()) for file in files if "_mask" in file.stem)
    share = 100 * lesion / sum(math.prod(Image.open(file).size) for file in files if "_mask" not in file.stem)
    assert f"lesion {share:.2g} %" in next(line for line in lines if line.startswith("classes"))
    assert "augmentation: RandomFlipRotate90" in lines
    model = segzoo.create_model("cmunext_s")
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"CMUNeXt of {count:,} parameters, in 32-true on the CPU, 1 thread" in lines


def test_a_run_ends_with_its_best_epoch_and_commands_that_work(told, capsys):
    root, lines, _ = told
    dice = logged(root, "val/dice")
    best = max(dice, key=lambda epoch: (dice[epoch], -epoch))
    assert any(line.startswith(f"best epoch: {best}, Dice {dice[best]:.4f}") for line in lines)
    test, predict = [shlex.split(line.removeprefix("next: ")) for line in lines if line.startswith("next: ")]
    assert cli.main([*test[1:], "--trainer.enable_progress_bar", "false"]) == 0
    assert (root / "test-busi" / "test_per_image.csv").is_file()
    assert cli.main(["compare", str(root)]) == 0
    assert "8 images" in capsys.readouterr().out
    assert predict[1:4] == ["predict", str(root / "checkpoint"), "NEW_IMAGES/"]


def test_a_run_says_nothing_else(told):
    _, _, logs = told
    assert not [text for text in logs if "Tip" in text or "FLOPs" in text or "logging interval" in text]
    quieten()
    logger = logging.getLogger(TOLD[0])
    records = [logging.LogRecord("x", 20, "", 0, text, (), None) for text in ("\N{ELECTRIC LIGHT BULB} Tip: buy", "no")]
    assert [bool(logger.filter(record)) for record in records] == [False, True]


def test_one_batch_is_one_batch(told):
    assert state_of(told[0] / "last.ckpt")["global_step"] == 2  # of two epochs; all images would be four


def test_shares_are_of_labels_that_are_read_once(samples, monkeypatch):
    data, read = BUSI(samples, split="all", class_weights="balanced"), []
    known = BUSI.label_of
    monkeypatch.setattr(BUSI, "label_of", lambda self, sample: read.append(sample.id) or known(self, sample))
    data.check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    weights, shares = data.loss_weights(), class_shares(data)
    assert len(read) == 8
    assert weights[1] / weights[0] == pytest.approx(86 / 14, rel=0.05)
    assert shares == "background 86 %, lesion 14 %"
    assert class_shares(BUSI(samples, split="all")) == shares  # without a look at the pixels before


def test_shares_of_volumes_are_those_of_some(samples, monkeypatch):
    monkeypatch.setattr("segzoo.data.base.LOOKED_AT", 2)
    data = Decathlon(samples / "Task04_Hippocampus", split="all")
    assert class_shares(data).endswith("(in 2 of 6)")


def test_shares_of_classes_that_overlap_are_of_each(tmp_path):
    for folder, right in (("images", 4), ("masks/one", 2), ("masks/two", 4)):
        (tmp_path / folder).mkdir(parents=True)
        for name in "abcde":
            pixels = np.zeros((4, 4), np.uint8)
            pixels[:, :right] = 255
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    data = Folder(tmp_path, class_names=("one", "two"), multilabel=True)
    data.check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    assert class_shares(data) == "one 50 %, two 100 %"


def test_weights_that_have_seen_what_this_split_tests_are_told_before_the_training(samples, caplog):
    model, data = segzoo.create_model("cmunext_s"), BUSI(samples)
    for history in ({"dataset": "BUSI", "split_sha256": "of another split"}, {}, data.describe()):
        model.data = history
        with caplog.at_level(logging.INFO, logger=TOLD[0]):
            caplog.clear()
            model.adopt_data(data)
        assert ("another split of BUSI" in caplog.text) == (history.get("split_sha256") == "of another split")


@pytest.mark.parametrize("has", [{"avx512_bf16"}, {"amx_bf16"}, {"bf16"}, {"avx512_f", "avx2"}, set()])
def test_a_processor_without_bfloat16_is_told(monkeypatch, has):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True) | {"cpu_name": "x"})
    slow = not has & {"avx512_bf16", "amx_bf16", "bf16"}
    said = slow_precision("bf16-mixed", torch.device("cpu"))
    assert (said is not None and "bf16-mixed" in said) == slow
    assert slow_precision("32-true", torch.device("cpu")) is None


def test_a_gpu_without_bfloat16_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert "GPU" in slow_precision("bf16-true", torch.device("cuda"))


@pytest.mark.parametrize(("batches", "seconds"), [(3, 7.0), (100, 0.5)])
def test_the_time_is_told_once_by_the_second_epoch_or_by_steps(monkeypatch, batches, seconds):
    clock, said = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(train_report.time, "monotonic", lambda: clock.now)
    trainer = SimpleNamespace(num_training_batches=batches, max_epochs=10, current_epoch=0)
    model, timer = SimpleNamespace(print=said.append), ExpectedTime()
    for epoch in range(3):
        trainer.current_epoch = epoch
        timer.on_train_epoch_start(trainer, model)
        for batch in range(batches):
            clock.now += 100 if epoch == batch == 0 else seconds  # the first one reads and warms up
            timer.on_train_batch_end(trainer, model, None, None, batch)
        timer.on_train_epoch_end(trainer, model)
    expected = {
        3: "about 21.0 s, all that are left about 2.8 min",
        100: "about 50.0 s, all that are left about 8.3 min",
    }
    assert len(said) == 1
    assert expected[batches] in said[0]


def test_next_commands_quote_what_a_shell_would_part(tmp_path):
    given = [
        "fit",
        "--model",
        "x",
        "--data=Folder",
        "--data.window",
        "-100",
        "200",
        "-c",
        "a.yaml",
        "--data.root",
        "my a",
    ]
    assert data_words(given) == ["--data=Folder", "--data.window", "-100", "200", "--data.root", "my a"]
    test, predict = next_lines(given, tmp_path / "a b")
    assert shlex.split(test)[3:] == ["--model", str(tmp_path / "a b"), *data_words(given)]
    assert next_lines(["fit", "-c", "a.yaml"], tmp_path) == [predict.replace(f"'{tmp_path / 'a b'}'", str(tmp_path))]


def test_curves_that_are_not_drawn_are_told(monkeypatch):
    assert len(best_lines("best", 1, {1: {"val/dice": 0.5}}, [Path("examples.png")])) == 2
    monkeypatch.setattr(train_report, "find_spec", lambda name: None)
    assert "medsegzoo[pictures]" in best_lines("best", 1, {}, [Path("examples.png")])[-1]


# ---- what it draws


def test_pictures_are_drawn_and_curves_hold_every_epoch(told, samples):
    root, lines, _ = told
    sheet = Image.open(root / "examples.png")
    rows = {CAPTION + number * (CAPTION + SIDE + GAP) for number in (3, 4, 5)}  # some may be the same
    assert sheet.width == 3 * SIDE + 2 * GAP
    assert sheet.height in rows
    assert Image.open(root / "curves.png").size[0] > 900
    assert any(str(root / "examples.png") in line and str(root / "curves.png") in line for line in lines)
    (kept,) = [one for key, one in state_of(root / "last.ckpt")["callbacks"].items() if "RunPictures" in key]
    for name in ("train/loss", "val/loss", "val/dice"):
        assert {epoch: one[name] for epoch, one in kept["curves"].items()} == pytest.approx(logged(root, name))


def test_a_run_that_goes_on_draws_all_of_its_curves(told, samples, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(train_pictures, "draw_curves", lambda curves, best, path: drawn.append((dict(curves), best)))
    root = shutil.copytree(told[0], tmp_path / "run")
    fit(
        root,
        "--model",
        "cmunext_s",
        *busi(samples),
        "--trainer.limit_train_batches",
        1,
        "--ckpt_path",
        "last",
        epochs=3,
        draw=True,
    )
    curves, best = drawn[-1]
    assert list(curves) == [0, 1, 2]
    assert curves[best]["val/dice"] == max(one["val/dice"] for one in curves.values())


def test_pictures_can_be_left_out(samples, tmp_path):
    one = ["--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1]
    root = fit(tmp_path / "run", "--model", "cmunext_s", *busi(samples), *one, "--pictures", 0, epochs=1)
    assert not list(root.glob("*.png"))


def levels(*grey: int) -> dict[int, Seen]:
    """Images of one grey level each, and their labels: nothing."""
    return {
        place: Seen(f"name{place}", np.full((8, 8, 1), level, np.uint8), np.zeros((8, 8), np.int16), None)
        for place, level in enumerate(grey)
    }


def test_the_worst_and_the_median_come_first_and_masks_beside_their_image():
    grey, masks = [10, 60, 110, 160, 210], {place: np.zeros((8, 8), np.int16) for place in range(5)}
    masks[3][:] = 1
    epoch = Epoch(7, {0: 0.9, 1: 0.5, 2: 0.8, 3: 0.1, 4: float("nan")}, masks)
    sheet = np.array(example_sheet(levels(*grey), epoch, False, 2, 5))
    rows = [CAPTION + number * (CAPTION + SIDE + GAP) + CAPTION + SIDE // 2 for number in range(4)]
    shown = [int(sheet[row, SIDE // 2, 0]) for row in rows]
    assert shown == [grey[4], grey[1], grey[0], grey[2]]  # no score at all is the worst
    epoch.dice[4] = 0.7
    sheet = np.array(example_sheet(levels(*grey), epoch, False, 2, 5))
    assert sheet[rows[0], SIDE // 2].tolist() == [160] * 3
    assert sheet[rows[0], SIDE + GAP + SIDE // 2].tolist() == [160] * 3  # truth: nothing there
    assert len(set(sheet[rows[0], 2 * (SIDE + GAP) + SIDE // 2].tolist())) == 3  # prediction: tinted


def test_a_volume_is_drawn_by_the_slice_that_holds_most_of_its_label():
    label = torch.zeros(6, 20, 20, dtype=torch.long)
    label[1, 0, 0], label[4, 5:9, 5:9] = 1, 2
    image = torch.randn(1, 6, 20, 20)
    model = SimpleNamespace(multilabel=False, preprocessing=segzoo.VolumePreprocessing(1))
    one = seen("x", image, label, model)
    assert (one.slice, one.image.shape) == (4, (20, 20, 1))
    assert (one.truth == label[4].numpy()).all()
    overlapping = SimpleNamespace(multilabel=True, preprocessing=segzoo.VolumePreprocessing(1))
    one = seen("x", image, torch.stack([label > 0, label > 1]).float(), overlapping)
    assert (one.slice, one.truth.shape) == (4, (2, 20, 20))


def test_an_image_is_drawn_in_its_own_colours(samples):
    data = BUSI(samples, split="all", image_size=64)
    item = data.val_dataloader().dataset[0]
    model = SimpleNamespace(multilabel=False, preprocessing=data.preprocessing)
    one = seen("x", item["image"], item["label"], model)
    file = next(sample.image for sample in data.part_samples("val") if sample.id == item["id"])
    expected = np.array(Image.open(file).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR), float)
    assert np.abs(one.image - expected).mean() < 3


def test_a_picture_that_cannot_be_written_ends_no_training(monkeypatch, tmp_path):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train_pictures, "write_whole", fail)
    trainer = SimpleNamespace(is_global_zero=True, val_dataloaders=None, default_root_dir=tmp_path)
    pictures = RunPictures()
    pictures.curves = {0: {"val/dice": 0.5}, 1: {"val/dice": 0.6}}
    pictures._seen = levels(50)
    with pytest.warns(UserWarning, match="examples.png"):
        pictures.draw_examples(trainer, segzoo.create_model("cmunext_s"), Epoch(0, {0: 0.5}, {0: np.zeros((8, 8))}))
    with pytest.warns(UserWarning, match="curves.png"):
        pictures.draw_curves(trainer)


# ---- where tests write


def test_a_test_of_a_runs_checkpoint_lies_in_the_run_and_of_others_beside(told):
    def options(model: str, name: str = "", ckpt_path=None):
        data = SimpleNamespace(class_path="segzoo.data.Folder", init_args={"fold": 1})
        init = SimpleNamespace(name_or_path=name)
        return SimpleNamespace(data=data, model=SimpleNamespace(class_path=model, init_args=init), ckpt_path=ckpt_path)

    mine = str(told[0] / "checkpoint")
    assert default_folder("test", options(LOADER, mine)) == told[0] / "test-folder-fold1"
    assert default_folder("fit", options(LOADER, mine)) == Path("runs/a run-folder-fold1")
    assert default_folder("test", options("segzoo.models.lv_unet.lv_unet", ckpt_path="best")) == Path(
        "runs/lv_unet-folder-fold1"
    )
    assert json.loads((Path(mine) / "config.json").read_text())["name"] == "a run"
    assert default_folder("test", options("segzoo.models.lv_unet.lv_unet")) == Path("runs/lv_unet-folder-fold1-test")
