"""What every model of the zoo does besides its forward pass, through the public API and a real Trainer."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

import segzoo
from segzoo.errors import SegzooError

SIZE = 32
COLOURS = np.array([(40, 40, 40), (230, 60, 60), (60, 230, 60), (60, 60, 230)], np.uint8)  # background, then classes


def shapes(seed: int) -> np.ndarray:
    """Class indices [SIZE, SIZE] of three rectangles."""
    random = np.random.default_rng(seed)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for value in (1, 2, 3):
        top, left = random.integers(0, SIZE // 2, 2)
        mask[top : top + 14, left : left + 14] = value
    return mask


def write(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture
def four_classes(tmp_path: Path) -> segzoo.data.Folder:
    """Eight images in which colour is class; their lower edge is marked as ignored."""
    for number in range(8):
        mask = shapes(number)
        write(tmp_path / "images", str(number), COLOURS[mask])
        mask[-3:] = 255
        write(tmp_path / "masks", str(number), mask)
    names = ("background", "red", "green", "blue")
    return segzoo.data.Folder(tmp_path, class_names=names, split="all", image_size=SIZE, batch_size=4, augmentation=[])


@pytest.fixture
def multilabel(tmp_path: Path) -> segzoo.data.Folder:
    """Eight images in which "bright" holds all that "red" does, and more."""
    for number in range(8):
        mask = shapes(number)
        write(tmp_path / "images", str(number), COLOURS[mask])
        write(tmp_path / "masks" / "red", str(number), (mask == 1).astype(np.uint8))
        write(tmp_path / "masks" / "bright", str(number), (mask > 0).astype(np.uint8) * 255)
    return segzoo.data.Folder(
        tmp_path,
        class_names=("red", "bright"),
        multilabel=True,
        split="all",
        image_size=SIZE,
        batch_size=4,
        augmentation=[],
    )


class Losses(Callback):
    """The training loss of every epoch, and whether a module was ever in eval mode while training."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self.evaluated: set[str] = set()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.evaluated |= {name for name, module in pl_module.named_modules() if not module.training}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.epochs.append(trainer.callback_metrics["train/loss"].item())


def trainer_for(root: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    options = {"accelerator": "cpu", "enable_checkpointing": False, "default_root_dir": root, **quiet, **options}
    return Trainer(**options)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-2)


# ---- tasks


@pytest.mark.parametrize(("task", "num_classes", "scored"), [("four_classes", 4, (1, 2, 3)), ("multilabel", 2, (0, 1))])
def test_models_of_several_classes_train_and_test(request, tmp_path, task, num_classes, scored):
    seed_everything(0, verbose=False)
    data = request.getfixturevalue(task)
    data.batch_size = 2
    model = segzoo.create_model(
        "cmunext_s", num_classes=num_classes, multilabel=data.multilabel, optimizer=adam, lr_scheduler=constant
    )
    losses = Losses()
    trainer = trainer_for(tmp_path / "run", max_epochs=20, check_val_every_n_epoch=20, callbacks=[losses])
    trainer.fit(model, data)
    assert losses.epochs[-1] < 0.5 * losses.epochs[0]
    assert model.class_names == data.class_names
    (results,) = trainer.test(model, data, verbose=False)
    assert results["test/dice"] > 0.7
    with (tmp_path / "run" / "test_per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[1:] == [x for m in model.metric_names for x in (m, *(f"{m}_{i}" for i in scored))]
    assert sum(float(row["dice"]) for row in rows) / 8 == pytest.approx(results["test/dice"], abs=1e-6)
    result = model.predict(data.root / "images" / "3.png")
    truth = shapes(3)
    if data.multilabel:
        assert result.mask.shape == (2, SIZE, SIZE)
        assert (result.mask[1] == (truth > 0)).mean() > 0.9
    else:
        assert result.mask.max() <= 3
        assert (result.mask == truth).mean() > 0.8


def test_a_test_that_failed_leaves_no_rows_for_the_next(four_classes, tmp_path):
    class Stop(Callback):
        def on_test_batch_end(self, *_):
            raise RuntimeError

    model = segzoo.create_model("cmunext_s", num_classes=4)
    with pytest.raises(RuntimeError):
        trainer_for(tmp_path / "run", callbacks=[Stop()]).test(model, four_classes, verbose=False)
    trainer_for(tmp_path / "run").test(model, four_classes, verbose=False)
    assert model.tested_images == 8


def constant(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("cmunext_s", lambda step, steps: 0.01 * (1 - step / (4 * steps)) ** 0.9),
        ("lv_unet", lambda step, steps: 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (step // steps) / 4)) / 2),
    ],
)
def test_a_run_continued_for_longer_learns_on(tmp_path, four_classes, name, rate):
    """A schedule ends with the run it is in, not with the shorter one that was saved."""
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def fit(epochs: int, **resume: Any) -> Trainer:
        model = segzoo.create_model(name, num_classes=4)
        trainer = trainer_for(tmp_path, max_epochs=epochs, limit_val_batches=0, callbacks=[Rates()])
        trainer.fit(model, four_classes, **resume)
        return trainer

    fit(1).save_checkpoint(tmp_path / "short.ckpt")
    steps = len(rates)
    fit(4, ckpt_path=tmp_path / "short.ckpt", weights_only=True)
    assert len(rates) == 4 * steps
    # the longer run begins with the rate that the shorter had ended with
    begun = steps + 1 if name == "cmunext_s" else 2 * steps
    assert rates[begun:] == pytest.approx([rate(step, steps) for step in range(begun, 4 * steps)])


def test_a_run_continued_in_larger_batches_learns_to_its_end(tmp_path, four_classes):
    """Its steps are fewer, and the schedule is where the epochs are rather than where the old steps were."""
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    four_classes.batch_size = 1
    trainer = trainer_for(tmp_path, max_epochs=1, limit_val_batches=0)
    trainer.fit(segzoo.create_model("cmunext_s", num_classes=4), four_classes)
    trainer.save_checkpoint(tmp_path / "small.ckpt")
    four_classes.batch_size = 4
    trainer = trainer_for(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[Rates()])
    model = segzoo.create_model("cmunext_s", num_classes=4)
    trainer.fit(model, four_classes, ckpt_path=tmp_path / "small.ckpt", weights_only=True)
    # two steps in each of four epochs, of which the first one is done; its last rate begins the second
    assert rates[1:] == pytest.approx([0.01 * (1 - step / 8) ** 0.9 for step in range(3, 8)])


def test_trainer_predict_gives_segmentations_on_their_own_grids(four_classes, tmp_path):
    four_classes.image_size = (16, 16)
    model = segzoo.create_model("cmunext_s", num_classes=4)
    model.preprocessing = segzoo.Preprocessing(image_size=(16, 16))
    results = [one for batch in trainer_for(tmp_path).predict(model, four_classes) for one in batch]
    assert len(results) == 8
    assert {one.mask.shape for one in results} == {(SIZE, SIZE)}
    assert_close(results[3].mask, model.eval().predict(four_classes.root / "images" / "3.png").mask.astype(np.int64))


def test_trainer_predict_takes_images_without_labels(tmp_path):
    loader = DataLoader([{"image": torch.rand(3, 24, 32)}] * 2, batch_size=2)
    ((one, two),) = trainer_for(tmp_path).predict(segzoo.create_model("cmunext_s"), loader)
    assert one.mask.shape == two.mask.shape == (24, 32)


@pytest.mark.parametrize(
    ("task", "arguments"),
    [
        ("four_classes", {}),
        ("four_classes", {"num_classes": 4, "multilabel": True}),
        ("multilabel", {"num_classes": 2}),
        ("multilabel", {"num_classes": 1}),
        ("multilabel", {"num_classes": 3, "multilabel": True}),
    ],
)
def test_data_of_other_classes_is_refused_in_one_sentence(request, tmp_path, task, arguments, refused):
    model = segzoo.create_model("cmunext_s", **arguments)
    trainer = trainer_for(tmp_path, max_epochs=1)
    with refused(SegzooError) as error:
        trainer.fit(model, datamodule=request.getfixturevalue(task))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("Folder has the classes ")


@pytest.mark.parametrize(
    ("verb", "task"),
    [
        ("fit", "four_classes"),
        ("validate", "four_classes"),
        ("test", "four_classes"),
        ("test", "multilabel"),
    ],
)
def test_a_checkpoint_says_which_classes_its_data_must_have(request, tmp_path, verb, task, refused):
    model = segzoo.create_model("cmunext_s", num_classes=3)
    model.class_names = ("none", "a", "b")
    model = segzoo.from_pretrained(model.save_pretrained(tmp_path / "checkpoint"))
    with refused(SegzooError):
        getattr(trainer_for(tmp_path, max_epochs=1), verb)(model, datamodule=request.getfixturevalue(task))


@pytest.mark.parametrize(
    ("task", "names"), [("four_classes", ("background", "green", "red", "blue")), ("multilabel", ("bright", "red"))]
)
def test_classes_in_another_order_are_not_scored_as_each_other(request, tmp_path, task, names, refused):
    data = request.getfixturevalue(task)
    model = segzoo.create_model("cmunext_s", num_classes=len(names), multilabel=data.multilabel)
    trainer_for(tmp_path, max_epochs=1).fit(model, data)
    data.class_names = names
    for verb in ("validate", "test"):
        with refused(SegzooError):
            getattr(trainer_for(tmp_path), verb)(model, data)
    trainer_for(tmp_path, max_epochs=1).fit(model, data)  # learns them anew
    assert model.class_names == names


def test_a_binary_model_takes_two_class_names(tmp_path):
    for number in range(4):
        write(tmp_path / "images", str(number), COLOURS[shapes(number)])
        write(tmp_path / "masks", str(number), (shapes(number) > 0).astype(np.uint8))
    for num_classes in (1, 2):  # two channels are a softmax over background and lesion
        data = segzoo.data.Folder(tmp_path, class_names=("background", "lesion"), split="all", image_size=16)
        model = segzoo.create_model("cmunext_s", num_classes=num_classes)
        trainer_for(tmp_path, max_epochs=1).fit(model, data)
        assert model.class_names == ("background", "lesion")


# ---- deep supervision


class Supervised(segzoo.SegmentationModule):
    """Three heads, at full, half and quarter size of the padded grid."""

    stride = 4

    def __init__(self, **arguments: Any) -> None:
        super().__init__(in_channels=3, **arguments)
        self.heads = nn.ModuleList(nn.Conv2d(3, self.num_classes, 1) for _ in range(3))

    def compute_logits(self, x: Tensor) -> Tensor | list[Tensor]:
        logits = [head(nn.functional.avg_pool2d(x, 2**level)) for level, head in enumerate(self.heads)]
        return logits if self.training else logits[0]

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return adam(parameters)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[Any, str]:
        return constant(optimizer), "epoch"


class Recorded(nn.Module):
    """Keeps what it was called with; its values are 1, 10, 100."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        self.calls.append((logits, label))
        return logits.sum() * 0 + 10.0 ** (len(self.calls) - 1)


@pytest.mark.parametrize("multilabel", [False, True])
def test_deep_supervision_weighs_each_head_half_as_much_as_the_finer(multilabel):
    loss = Recorded()
    model = Supervised(num_classes=2, multilabel=multilabel, loss=loss).train()
    image = torch.rand(2, 3, 10, 13)
    label = torch.randint(0, 2, (2, 2, 10, 13)).float() if multilabel else torch.randint(0, 2, (2, 10, 13))
    outputs = model(image)
    assert [tuple(output.shape) for output in outputs] == [(2, 2, 12, 16), (2, 2, 6, 8), (2, 2, 3, 4)]
    assert model.compute_loss(outputs, label).item() == pytest.approx((1 + 10 / 2 + 100 / 4) / (1 + 1 / 2 + 1 / 4))
    padded = torch.full((*label.shape[:-2], 12, 16), -1).to(label.dtype)
    padded[..., :10, :13] = label
    for level, (logits, seen) in enumerate(loss.calls):
        assert logits is outputs[level]
        step, first = 2**level, 2**level // 2  # nearest-exact: the pixel at the centre
        assert_close(seen, padded[..., first::step, first::step])

    model.eval()
    logits = model(image)
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, 2, 10, 13)
    assert_close(logits, outputs[0][..., :10, :13])


def test_deep_supervision_trains_and_is_scored_by_its_finest_head(four_classes, tmp_path):
    seed_everything(0, verbose=False)
    four_classes.image_size = (30, 30)  # not a multiple of the stride
    model, losses = Supervised(num_classes=4), Losses()
    before = [head.weight.detach().clone() for head in model.heads]
    trainer = trainer_for(tmp_path, max_epochs=20, check_val_every_n_epoch=20, callbacks=[losses])
    trainer.fit(model, four_classes)
    assert losses.epochs[-1] < 0.8 * losses.epochs[0]
    assert all((head.weight != old).any() for head, old in zip(model.heads, before, strict=True))
    assert trainer.callback_metrics["val/dice"] > 0.3
    assert math.isfinite(trainer.callback_metrics["val/loss"])


# ---- modes and states


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A checkpoint folder with random weights."""
    torch.manual_seed(0)
    return segzoo.create_model("cmunext_s", num_classes=4).save_pretrained(tmp_path / "pretrained")


def test_a_loaded_checkpoint_trains_in_train_mode(pretrained, four_classes, tmp_path):
    model, losses = segzoo.from_pretrained(pretrained), Losses()
    assert not model.training
    trainer_for(tmp_path, max_epochs=2, callbacks=[losses]).fit(model, four_classes)
    assert losses.evaluated == set()
    before = segzoo.from_pretrained(pretrained)
    for name, value in model.state_dict().items():
        assert not torch.equal(value, before.state_dict()[name]), f"{name} did not move"


def test_what_a_loader_of_ones_own_trains_on_is_unknown(tmp_path):
    """The card of a checkpoint must not say that its data, and their licence, are still those it started from."""
    loader = DataLoader([{"image": torch.rand(3, 64, 64), "label": torch.ones(64, 64).long()}] * 2, batch_size=2)
    model = segzoo.from_pretrained("lv-unet-busi")
    for _ in range(2):
        trainer_for(tmp_path, max_epochs=1).fit(model, loader)
    folder = model.save_pretrained(tmp_path / "mine")
    data = segzoo.from_pretrained(folder).data
    assert "dataset" not in data
    assert [part.get("dataset") for part in data["pretrained_on"]] == ["BUSI"]
    card = (folder / "README.md").read_text()
    assert "trained on:\n\n- unknown data\n\nBefore that:\n\n- [BUSI]" in card
    assert "| weights | Apache-2.0 + unknown |" in card


@pytest.mark.parametrize(
    "sample",
    [
        (torch.rand(3, 64, 64), torch.ones(64, 64).long()),
        {"image": torch.rand(3, 64, 64), "mask": torch.ones(64, 64).long()},
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_batches_of_another_kind_are_refused_by_what_they_should_be(tmp_path, stage, sample, refused):
    run = getattr(trainer_for(tmp_path, max_epochs=1), stage)
    with refused(SegzooError):
        run(segzoo.create_model("cmunext_s"), DataLoader([sample] * 2, batch_size=2))


def test_images_without_names_are_scored_under_their_places(tmp_path):
    loader = DataLoader([{"image": torch.rand(3, 64, 64), "label": torch.ones(64, 64).long()}] * 3, batch_size=2)
    trainer_for(tmp_path).test(segzoo.create_model("cmunext_s"), loader, verbose=False)
    rows = (tmp_path / "test_per_image.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "1", "2"]


def test_the_state_is_the_network_alone(four_classes, tmp_path):
    class Weighted(nn.Module):
        """A loss with a parameter, a buffer and a network of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4))
            self.register_buffer("weights", torch.ones(4))
            self.network = nn.Conv2d(4, 1, 1)

        def forward(self, logits: Tensor, label: Tensor) -> Tensor:
            weighted = nn.functional.cross_entropy(
                logits * self.scale[:, None, None], label, self.weights, ignore_index=-1
            )
            return weighted + self.network(logits).square().mean()

    torch.manual_seed(0)
    names = list(segzoo.create_model("cmunext_s", num_classes=4).state_dict())
    model = segzoo.create_model("cmunext_s", num_classes=4, loss=Weighted())
    trainer = trainer_for(tmp_path, max_epochs=1, enable_checkpointing=True)
    trainer.fit(model, four_classes)
    trainer.test(model, four_classes, verbose=False)
    assert list(model.state_dict()) == names
    assert len(list(model.parameters())) == len(list(segzoo.create_model("cmunext_s", num_classes=4).parameters()))
    (file,) = tmp_path.rglob("*.ckpt")
    assert list(torch.load(file, weights_only=True)["state_dict"]) == names
    trained = sum(len(group["params"]) for group in trainer.optimizers[0].param_groups)
    assert trained == len(list(model.parameters()))


def test_lightnings_checkpoint_holds_the_contract_and_no_pickled_code(four_classes, tmp_path):
    model = segzoo.create_model("cmunext_s", num_classes=4)
    trainer = trainer_for(tmp_path, max_epochs=1)
    trainer.fit(model, four_classes)
    model.licence = "Apache-2.0"
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["segzoo"]["class_names"] == ["background", "red", "green", "blue"]
    other = segzoo.create_model("cmunext_s", num_classes=4)
    trainer_for(tmp_path).validate(other, four_classes, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert other.preprocessing == model.preprocessing
    assert other.preprocessing.image_size == (SIZE, SIZE)
    assert other.class_names == model.class_names
    assert other.data == model.data
    assert other.licence == "Apache-2.0"
    assert_close(dict(other.state_dict()), dict(model.state_dict()))


def test_the_best_epoch_becomes_a_checkpoint_folder_as_docs_say(four_classes, tmp_path, monkeypatch, refused):
    def fade(self: segzoo.SegmentationModule) -> None:
        self.log("val/dice", 1.0 - self.current_epoch)

    monkeypatch.setattr(segzoo.SegmentationModule, "on_validation_epoch_end", fade)
    model = segzoo.create_model("cmunext_s", num_classes=4)
    best = ModelCheckpoint(monitor="val/dice", mode="max")
    trainer = trainer_for(tmp_path, max_epochs=2, callbacks=[best], enable_checkpointing=True)
    trainer.fit(model, four_classes)
    stored = torch.load(best.best_model_path, weights_only=True)
    assert stored["epoch"] == 0
    with refused(SegzooError):
        type(model).load_from_checkpoint(best.best_model_path)
    trainer.test(model, four_classes, ckpt_path="best")
    found = segzoo.from_pretrained(model.save_pretrained(tmp_path / "my-checkpoint"))
    assert_close(dict(found.state_dict()), stored["state_dict"])
    assert found.preprocessing.image_size == (SIZE, SIZE)
    assert found.class_names == four_classes.class_names
    assert found.data["split_sha256"] == four_classes.split_sha256


@pytest.mark.parametrize("max_epochs", [-1, 2, 9])
def test_a_training_that_ends_after_some_steps_has_few_epochs(four_classes, tmp_path, max_epochs):
    model = segzoo.create_model("lv_unet", num_classes=4)
    trainer = trainer_for(tmp_path, max_epochs=max_epochs, max_steps=4, limit_val_batches=0)
    trainer.fit(model, four_classes)  # two steps an epoch
    assert model.total_epochs() == 2
    assert model.deep_training_lambda == 1  # from 90 % of the epochs on


def test_a_schedule_needs_an_end(four_classes, tmp_path, refused):
    for name in ("lv_unet", "cmunext_s"):
        with refused(SegzooError):
            trainer_for(tmp_path, max_epochs=-1).fit(segzoo.create_model(name, num_classes=4), four_classes)


def test_images_of_other_channels_are_refused(refused):
    with refused(SegzooError):
        segzoo.create_model("cmunext_s")(torch.zeros(1, 1, 32, 32))
    with refused(SegzooError):
        segzoo.create_model("cmunext_s", num_classes=0)


def test_images_of_their_own_sizes_are_tested_one_by_one(samples, tmp_path, refused):
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(3, image_size=None)
    data = segzoo.data.BUSI(samples / "BUSI", split="all", batch_size=4)
    trainer_for(tmp_path).test(model, data, verbose=False)
    assert model.tested_images == 8
    with refused(segzoo.SegzooError):
        trainer_for(tmp_path, max_epochs=1).fit(model, data)
