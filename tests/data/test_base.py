import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LightningCLI
from PIL import Image
from torch.testing import assert_close
from torchvision import transforms
from torchvision.transforms import v2

from segzoo.data import BUSI, Folder, SegmentationDataModule
from segzoo.data import images as images_module
from segzoo.data.images import resize_label
from segzoo.errors import MissingError, SegzooError
from segzoo.preprocessing.image import Preprocessing


def trainer(world_size: int = 1, rank: int = 0, preprocessing: Preprocessing | None = None) -> SimpleNamespace:
    """As much of a Trainer as a DataModule looks at."""
    module = SimpleNamespace(preprocessing=preprocessing) if preprocessing else None
    return SimpleNamespace(world_size=world_size, global_rank=rank, lightning_module=module)


# ---- batches


def test_batches_of_real_images(samples):
    data = BUSI(samples, image_size=64, batch_size=2)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert set(batch) == {"image", "label", "id"}
    assert batch["image"].shape == (2, 3, 64, 64)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (2, 64, 64)
    assert batch["label"].dtype == torch.int64
    assert batch["label"].unique().tolist() == [0, 1]
    assert all(i in data.split_ids["train"] for i in batch["id"])


def test_evaluation_batches_hold_the_original_label(samples):
    data = BUSI(samples, split="all", image_size=64, batch_size=8)
    (batch,) = data.test_dataloader()
    assert batch["id"] == data.split_ids["test"]
    for identifier, original, label in zip(batch["id"], batch["original_label"], batch["label"], strict=True):
        folder = samples / "BUSI" / "Dataset_BUSI_with_GT" / identifier.split()[0]
        masks = [np.asarray(Image.open(path)) for path in folder.glob(f"{identifier}_mask*.png")]
        np.testing.assert_array_equal(original.numpy(), np.any(masks, axis=0))
        assert original.dtype == torch.int64
        assert label.float().mean() == pytest.approx(original.float().mean().item(), abs=0.01)


@pytest.mark.parametrize("loader", ["val_dataloader", "test_dataloader", "predict_dataloader"])
def test_evaluation_sees_each_image_once_unchanged(folder_data, loader):
    data = Folder(folder_data, image_size=(20, 30), batch_size=1)
    seen = [i for batch in getattr(data, loader)() for i in batch["id"]]
    assert seen == data.split_ids["val" if loader == "val_dataloader" else "test"]
    item = next(iter(getattr(data, loader)()))
    assert_close(item["label"], torch.stack(item["original_label"]))


def test_labels_are_resized_by_nearest_and_keep_their_values():
    label = torch.tensor([[0, 3], [-1, 7]], dtype=torch.int16)
    found = resize_label(label, (4, 4))
    assert_close(found, label.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert resize_label(torch.stack([label, label]), (6, 4)).shape == (2, 6, 4)


def test_a_last_batch_of_one_image_is_not_trained_on(folder_data):
    # 6 training images
    assert [len(b["id"]) for b in Folder(folder_data, batch_size=5, image_size=16).train_dataloader()] == [5]
    assert [len(b["id"]) for b in Folder(folder_data, batch_size=4, image_size=16).train_dataloader()] == [4, 2]
    assert [len(b["id"]) for b in Folder(folder_data, batch_size=1, image_size=16).train_dataloader()] == [1] * 6
    # of two processes each gets 3
    data = Folder(folder_data, batch_size=2, image_size=16)
    data.trainer = trainer(world_size=2)
    assert data.train_dataloader().drop_last


# ---- randomness and augmentation


def first_epoch(data: SegmentationDataModule) -> list[torch.Tensor]:
    return [tensor for batch in data.train_dataloader() for tensor in (batch["image"], batch["label"])]


def test_the_same_seed_gives_the_same_epoch(samples):
    def epoch(seed: int) -> list[torch.Tensor]:
        seed_everything(seed, verbose=False)
        return first_epoch(BUSI(samples, split="all", image_size=32))

    assert_close(epoch(1), epoch(1), rtol=0, atol=0)
    assert (epoch(1)[0] != epoch(2)[0]).any()


def test_epochs_differ(samples):
    data = BUSI(samples, split="all", image_size=32)
    loader = data.train_dataloader()
    first, second = next(iter(loader)), next(iter(loader))
    assert first["id"] != second["id"]
    assert not torch.equal(first["label"].sum(0), second["label"].sum(0))  # moved, not only reordered


@pytest.mark.parametrize(
    ("augmentation", "moves"),
    [
        (None, None),  # the default moves most images, and leaves some
        ([], False),
        ([v2.RandomHorizontalFlip(p=1.0)], True),
        ([v2.RandomAffine((20, 30), translate=(0.1, 0.1)), v2.RandomVerticalFlip()], True),
    ],
    ids=["default", "none", "flip", "affine"],
)
def test_image_and_mask_move_together(folder_data, augmentation, moves):
    data = Folder(folder_data, image_size=(20, 30), augmentation=augmentation)
    for batch in data.train_dataloader():
        # the image is bright exactly where the mask is
        assert_close((batch["image"][:, 0] > 0).long(), batch["label"])
        if moves is not None:
            still = data.val_dataloader().dataset[0]["label"]  # all images of this dataset are alike
            assert [not torch.equal(label, still) for label in batch["label"]] == [moves] * len(batch["id"])


def test_random_transforms_draw_anew_for_each_image(folder_data):
    data = Folder(folder_data, image_size=(20, 30), augmentation=[v2.RandomAffine(180)], batch_size=6)
    (batch,) = data.train_dataloader()
    assert len({tuple(label.flatten().tolist()) for label in batch["label"]}) == 6


def test_transforms_of_images_alone_are_refused(folder_data, refused):
    with refused(SegzooError):
        next(iter(Folder(folder_data, augmentation=[transforms.ColorJitter(0.2)]).train_dataloader()))


def test_augmentation_must_leave_8_bits(folder_data, refused):
    data = Folder(folder_data, augmentation=[v2.ToDtype(torch.float32, scale=True)])
    with refused(SegzooError):
        next(iter(data.train_dataloader()))


# ---- reading once


def test_images_are_read_once_without_workers(folder_data, monkeypatch):
    reads = []
    read = images_module.read_image
    monkeypatch.setattr(images_module, "read_image", lambda *a: reads.append(a) or read(*a))
    loader = Folder(folder_data, image_size=16).val_dataloader()
    for _ in range(3):
        list(loader)
    assert len(reads) == 2
    monkeypatch.setattr(images_module, "CACHE_BYTES", 6000)  # one 16 x 16 item with its original label
    reads.clear()
    loader = Folder(folder_data, image_size=16).val_dataloader()
    for _ in range(3):
        list(loader)
    assert len(reads) == 1 + 3


def test_workers_keep_what_they_read(folder_data):
    loader = Folder(folder_data, image_size=16, num_workers=2).val_dataloader()
    (expected,) = loader
    for file in folder_data.rglob("*.png"):
        file.unlink()
    (again,) = loader
    assert_close(again["image"], expected["image"])


def test_large_original_labels_are_not_kept(folder_data, monkeypatch):
    loader = Folder(folder_data, image_size=16).val_dataloader()
    expected = next(iter(loader))["original_label"]
    assert all(original is not None for _, _, original in loader.dataset._cache.values())
    monkeypatch.setattr(images_module, "LARGE_BYTES", 20 * 30 * 2)
    loader = Folder(folder_data, image_size=16).val_dataloader()
    for _ in range(2):
        assert_close(next(iter(loader))["original_label"], expected)
    assert all(original is None for _, _, original in loader.dataset._cache.values())


def test_the_cache_is_never_changed(folder_data):
    def spoil(image: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return image.zero_(), mask.zero_()

    dataset = Folder(folder_data, split="all", image_size=16, augmentation=[spoil]).train_dataloader().dataset
    for _ in range(2):
        before = [tensor.clone() for tensor in dataset._read(0)[:2]]
        dataset[0]
        assert_close(list(dataset._read(0)[:2]), before)
        assert before[0].max() == 255


def test_workers_give_the_same_images(folder_data):
    def everything(num_workers: int) -> list[torch.Tensor]:
        loader = Folder(folder_data, image_size=16, num_workers=num_workers).test_dataloader()
        return [batch["image"] for batch in loader]

    assert_close(everything(1), everything(0), rtol=0, atol=0)


# ---- what it takes from the model and the trainer


def test_preprocessing_defaults(folder_data):
    assert Folder(folder_data).preprocessing == Preprocessing()
    assert Folder(folder_data, image_size=(64, 32)).preprocessing.image_size == (64, 32)
    own = Folder(folder_data, mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)).preprocessing
    assert (own.mean, own.std) == ((0.5,) * 3, (1.0,) * 3)


def test_preprocessing_follows_the_model(folder_data):
    data = Folder(folder_data, image_size=16)
    data.trainer = trainer(preprocessing=Preprocessing(1, (99, 99), (0.3,), (0.4,)))
    assert data.preprocessing == Preprocessing(1, (16, 16), (0.3,), (0.4,))
    assert next(iter(data.train_dataloader()))["image"].shape[1:] == (1, 16, 16)
    data = Folder(folder_data, mean=(0.1,))
    data.trainer = trainer(preprocessing=Preprocessing(1, (99, 99), (0.3,), (0.4,)))
    assert (data.preprocessing.mean, data.preprocessing.std) == ((0.1,), (0.4,))


def test_the_size_follows_the_model_unless_given(folder_data):
    data = Folder(folder_data)
    data.trainer = trainer(preprocessing=Preprocessing(image_size=(64, 32)))
    assert data.preprocessing.image_size == (64, 32)
    data.setup()
    assert next(iter(data.test_dataloader()))["image"].shape[-2:] == (64, 32)
    assert data.describe()["image_size"] == [64, 32]


def test_processes_share_evaluation_without_repeating(folder_data, refused):
    seen = []
    for rank in range(3):
        data = Folder(folder_data, split="all", image_size=16, batch_size=2)
        data.trainer = trainer(world_size=3, rank=rank)
        seen += [i for batch in data.test_dataloader() for i in batch["id"]]
    assert sorted(seen) == sorted(map(str, range(10)))
    data.trainer = trainer(world_size=11, rank=10)
    with refused(SegzooError):
        data.test_dataloader()


# ---- the split as a record


def test_written_split(folder_data, tmp_path):
    data = Folder(folder_data, fold=2, seed=7)
    data.write_split(tmp_path / "out" / "split.json")
    record = json.loads((tmp_path / "out" / "split.json").read_text())
    canonical = json.dumps(record["ids"], sort_keys=True, separators=(",", ":"))
    assert record["sha256"] == hashlib.sha256(canonical.encode()).hexdigest() == data.split_sha256
    assert (record["name"], record["split"], record["fold"], record["seed"]) == ("Folder", "grouped", 2, 7)
    assert data.describe()["counts"] == {part: len(ids) for part, ids in record["ids"].items()}


def test_the_longest_side_of_all_images_is_recorded(folder_data, draw):
    assert Folder(folder_data).describe()["longest_side"] == 30
    draw(folder_data / "images" / "3.png", (41, 20))
    draw(folder_data / "masks" / "3.png", (41, 20), mask=True)
    assert Folder(folder_data).describe()["longest_side"] == 41


# ---- bad input


def test_missing_folder(tmp_path, refused):
    with refused(MissingError):
        BUSI(tmp_path / "none").setup()


def test_mask_of_another_size(folder_data, draw, refused):
    draw(folder_data / "masks" / "4.png", (20, 31), mask=True)
    with refused(SegzooError):
        Folder(folder_data).setup()


def test_image_without_mask(folder_data, refused):
    (folder_data / "masks" / "4.png").unlink()
    with refused(MissingError):
        Folder(folder_data).setup()


def test_corrupt_image(folder_data, refused):
    path = folder_data / "images" / "4.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])  # header and size survive: only reading finds out
    data = Folder(folder_data, split="all", image_size=16)
    data.setup()
    with refused(SegzooError):
        list(data.train_dataloader())
    path.write_bytes(b"no image at all")
    with refused(SegzooError):
        Folder(folder_data).setup()


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "random"},
        {"fold": 5},
        {"batch_size": 0},
        {"num_workers": -1},
        {"image_size": 0},
        {"image_size": (1, 2, 3)},
    ],
)
def test_bad_arguments(tmp_path, arguments, refused):
    with refused(SegzooError):
        Folder(tmp_path, **arguments)


class Tiny(LightningModule):
    """The smallest model of grey images, which notes what it is given."""

    preprocessing = Preprocessing(1, (8, 8), (0.3,), (0.4,))

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 1, 1)
        self.seen: list[tuple[int, ...]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(tuple(batch["image"].shape))
        return self.convolution(batch["image"]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_real_trainer_passes_the_model_on(samples, tmp_path):
    model = Tiny()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "limit_val_batches": 0}
    runner = Trainer(max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, enable_model_summary=False, **options)
    runner.fit(model, BUSI(samples, split="all", image_size=16, batch_size=4))
    assert model.seen == [(4, 1, 16, 16)] * 2


# ---- from the shell


def from_shell(*arguments: str) -> SegmentationDataModule:
    cli = LightningCLI(
        LightningModule,
        SegmentationDataModule,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults={"logger": False, "accelerator": "cpu", "enable_checkpointing": False},
        args=list(arguments),
    )
    return cli.datamodule


@pytest.mark.filterwarnings("ignore:LightningCLI's args", "ignore::DeprecationWarning", "ignore:.*deprecated")
def test_arguments_from_the_shell():
    data = from_shell("--data", "BUSI", "--data.root", "x", "--data.fold", "1", "--data.image_size", "[128,96]")
    assert isinstance(data, BUSI)
    assert (data.fold, data.image_size) == (1, (128, 96))
    transforms = '[{"class_path": "torchvision.transforms.v2.RandomVerticalFlip", "init_args": {"p": 0.25}}]'
    names = '["background", "a", "b"]'
    data = from_shell(
        "--data", "Folder", "--data.root", "x", f"--data.augmentation={transforms}", f"--data.class_names={names}"
    )
    assert data.class_names == ("background", "a", "b")
    assert isinstance(data.augmentation[0], v2.RandomVerticalFlip)
    assert from_shell("--data", "BUSI", "--data.root", "x", "--data.augmentation", "[]").augmentation == []


@pytest.mark.filterwarnings("ignore:LightningCLI's args")
def test_unknown_argument_from_the_shell(capsys):
    with pytest.raises(SystemExit):
        from_shell("--data", "BUSI", "--data.root", "x", "--data.folds", "1")
    assert "folds" in capsys.readouterr().err
