"""The frozen encoder: what stands still, until when, across resuming and in several processes."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch.utils.data import DataLoader

import segzoo
from segzoo.errors import SegzooError
from segzoo.models import med_urwkv
from segzoo.models.med_urwkv import MedURWKV
from segzoo.nn.vrwkv_sizes import EncoderSize
from segzoo.training.callbacks import FrozenEncoder

NANO = EncoderSize(24, 0.1, plain_scale=None, adapter_scale=1.0, depth=4, img_size=32, deform_num_heads=3)
FROZEN = 5  # epochs, the paper's


def nano_model(monkeypatch) -> MedURWKV:
    """The whole recipe at a size that trains in no time."""
    monkeypatch.setitem(med_urwkv.ENCODERS, "nano", NANO)
    seed_everything(0, verbose=False)
    return MedURWKV(encoder_size="nano", width=8, depths=(1, 1, 1, 1), head_width=4)


def batches() -> DataLoader:
    """Eight images, four a batch: two batches an epoch, or one for each of two processes."""
    generator = torch.Generator().manual_seed(0)
    items = [
        {
            "image": torch.randn(3, 32, 32, generator=generator),
            "label": torch.randint(2, (32, 32), generator=generator),
            "id": str(number),
        }
        for number in range(8)
    ]
    return DataLoader(items, batch_size=4)


def frozen_for(model: segzoo.SegmentationModule) -> list[float]:
    """For how many epochs the model's own callbacks keep its encoder frozen."""
    return [callback.epochs for callback in model.configure_callbacks() if isinstance(callback, FrozenEncoder)]


class Recorder(Callback):
    """Writes what the encoder is after every epoch, in every process, and whether the rest has moved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = {
            "epoch": trainer.current_epoch,
            "state": digest(pl_module.encoder.state_dict()),
            "parameters": digest(dict(pl_module.encoder.named_parameters())),
            "decoder": digest(pl_module.decoder.state_dict()),
            "statistics": digest(dict(pl_module.encoder.named_buffers())),
        }
        with (self.folder / f"{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


class Stopper(Callback):
    """Ends a run early, as a crash would, at the schedule of the whole one."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step == self.step


def digest(tensors: dict[str, torch.Tensor]) -> str:
    one = hashlib.sha256()
    for name, value in tensors.items():
        one.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return one.hexdigest()


def rows(folder: Path, rank: int = 0) -> list[dict]:
    """What was recorded, epoch by epoch; one that was taken up again counts as it ended."""
    found = [json.loads(line) for line in (folder / f"{rank}.jsonl").read_text().splitlines()]
    return list({row["epoch"]: row for row in found}.values())


def trainer(folder: Path, *callbacks: Callback, **arguments) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    kept = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    callbacks = (*callbacks, Recorder(folder))
    return Trainer(accelerator="cpu", callbacks=list(callbacks), enable_checkpointing=kept, **quiet, **arguments)


def assert_frozen_until_trained(rows: list[dict], start: str) -> None:
    """``start`` is the digest of the whole encoder before training."""
    assert [row["epoch"] for row in rows] == list(range(len(rows)))
    assert all(row["state"] == start for row in rows[:FROZEN])
    trained = rows[FROZEN - 1 :]
    assert len(trained) >= 3
    for part in ("parameters", "statistics"):
        assert len({row[part] for row in trained}) == len(trained), part  # each epoch moves it
    assert len({row["decoder"] for row in rows}) == len(rows)  # which is trained from the first epoch on


def test_frozen_for_the_first_epochs_and_trained_after(monkeypatch, tmp_path):
    model = nano_model(monkeypatch)
    start = digest(model.encoder.state_dict())
    trainer(tmp_path, max_epochs=FROZEN + 2).fit(model, batches(), batches())  # validating restores train modes
    assert_frozen_until_trained(rows(tmp_path), start)


@pytest.mark.parametrize("step", [6, 7], ids=["after_an_epoch", "inside_an_epoch"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(monkeypatch, tmp_path, step):
    model = nano_model(monkeypatch)
    start = digest(model.encoder.state_dict())
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(tmp_path, keep, Stopper(step), max_epochs=FROZEN + 2).fit(model, batches())
    assert digest(model.encoder.state_dict()) == start

    resumed = nano_model(monkeypatch)
    trainer(tmp_path, max_epochs=FROZEN + 2).fit(resumed, batches(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert_frozen_until_trained(rows(tmp_path), start)


def test_two_processes_freeze_and_then_train_the_same_encoder(monkeypatch, tmp_path):
    model = nano_model(monkeypatch)
    start = digest(model.encoder.state_dict())
    trainer(tmp_path, max_epochs=FROZEN + 2, devices=2, strategy="ddp_fork").fit(model, batches())
    for rank in (0, 1):
        assert_frozen_until_trained(rows(tmp_path, rank), start)
    for part in ("parameters", "decoder"):  # of different images, but of one averaged gradient
        assert [row[part] for row in rows(tmp_path, 0)] == [row[part] for row in rows(tmp_path, 1)]


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1),
    ],
)
def test_neither_weight_decay_nor_old_momentum_moves_a_frozen_encoder(make_optimizer):
    model = LightningModule()
    model.encoder, model.head = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    optimizer = make_optimizer(model.parameters())
    model.head(model.encoder(torch.ones(1, 2))).sum().backward()
    optimizer.step()  # gives every parameter its momentum
    encoder, head = digest(model.encoder.state_dict()), digest(model.head.state_dict())
    for epoch, moves in ((FROZEN - 1, False), (FROZEN, True)):
        model.head(model.encoder(torch.ones(1, 2))).sum().backward()
        FrozenEncoder(FROZEN).on_before_optimizer_step(SimpleNamespace(current_epoch=epoch), model, optimizer)
        optimizer.step()
        assert (digest(model.encoder.state_dict()) != encoder) == moves
        assert digest(model.head.state_dict()) != head


def test_clipping_does_not_count_gradients_that_are_dropped(monkeypatch, tmp_path):
    norms = []

    class Spy(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            rest = [p for name, p in pl_module.named_parameters() if not name.startswith("encoder.")]
            gradients = [p.grad for p in rest if p.grad is not None]
            norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients)))

    model = nano_model(monkeypatch)
    trainer(tmp_path, Spy(), max_epochs=1, gradient_clip_val=1e-3).fit(model, batches())
    # gradients of the decoder alone use up the whole limit
    assert norms[-1] == pytest.approx(1e-3, rel=1e-3)


# ---- every architecture


def small(name: str, **arguments) -> segzoo.SegmentationModule:
    """An architecture at a size that trains in no time."""
    seed_everything(0, verbose=False)
    if name == "mednext":
        return segzoo.MedNeXt(3, spatial_dims=2, width=4, expansion=1, depths=1, **arguments)
    if name == "cmunext":
        return segzoo.CMUNeXt(widths=(4, 4, 4, 4, 4), depths=(1, 1, 1, 1, 1), **arguments)
    if name == "med_urwkv":
        return MedURWKV(encoder_size="nano", width=8, depths=(1, 1, 1, 1), head_width=4, **arguments)
    return segzoo.LVUNet(**arguments)


def encoder_state(model: segzoo.SegmentationModule) -> dict[str, torch.Tensor]:
    parts = tuple(f"{part}." for part in model.encoder_parts)
    return {name: value.clone() for name, value in model.state_dict().items() if name.startswith(parts)}


def plain_trainer(*callbacks: Callback, **arguments) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **arguments)


@pytest.mark.parametrize("name", ["cmunext", "lv_unet", "mednext", "med_urwkv"])
@pytest.mark.parametrize("epochs", [4, "forever"])
def test_every_frozen_encoder_is_bit_equal_after_two_epochs_and_after_a_resume(monkeypatch, tmp_path, name, epochs):
    monkeypatch.setitem(med_urwkv.ENCODERS, "nano", NANO)
    model = small(name, frozen_epochs=epochs)
    start, whole = encoder_state(model), digest(model.state_dict())
    assert len(start) > 10
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    plain_trainer(keep, max_epochs=2, limit_val_batches=1).fit(model, batches(), batches())
    assert digest(encoder_state(model)) == digest(start)
    assert digest(model.state_dict()) != whole
    assert all(parameter.requires_grad for parameter in model.parameters())  # as it came

    resumed = small(name, frozen_epochs=epochs)
    plain_trainer(max_epochs=4, enable_checkpointing=False, limit_train_batches=1).fit(
        resumed, batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
    )
    assert digest(encoder_state(resumed)) == digest(start)
    assert digest(resumed.state_dict()) != digest(model.state_dict())


@pytest.mark.parametrize("name", ["cmunext", "mednext"])
def test_nothing_is_frozen_unless_asked_for(name):
    assert frozen_for(small(name)) == []
    assert frozen_for(small(name, frozen_epochs="forever")) == [math.inf]


@pytest.mark.parametrize("epochs", [-1, 1.5, "always", True, None])
def test_a_number_of_epochs_that_is_none_is_refused(epochs):
    with pytest.raises(SegzooError, match="frozen_epochs"):
        small("cmunext", frozen_epochs=epochs)
    with pytest.raises(SegzooError, match="frozen_epochs"):
        segzoo.from_pretrained("lv-unet-busi", frozen_epochs=epochs)


def test_a_checkpoint_trains_at_once_or_is_frozen_as_asked():
    assert frozen_for(segzoo.from_pretrained("lv-unet-busi")) == []
    assert frozen_for(segzoo.from_pretrained("lv-unet-busi", frozen_epochs=2)) == [2]


def test_what_has_no_such_encoder_cannot_be_frozen():
    model = small("cmunext", frozen_epochs=1)
    model.encoder_parts = ("trunk",)
    with pytest.raises(SegzooError, match="trunk"):
        plain_trainer(max_epochs=1, enable_checkpointing=False).fit(model, batches())


def test_averaging_that_computes_statistics_anew_is_refused():
    averaging = StochasticWeightAveraging(1e-3)
    with pytest.raises(SegzooError, match="EMAWeightAveraging"):
        plain_trainer(averaging, max_epochs=2, enable_checkpointing=False).fit(
            small("cmunext", frozen_epochs="forever"), batches()
        )


# ---- what somebody has put into eval mode


def test_a_submodule_in_eval_mode_stays_there(tmp_path):
    model = small("cmunext")
    model.decoder.eval()
    decoder = digest(dict(model.decoder.named_buffers()))
    plain_trainer(max_epochs=1, limit_val_batches=1, enable_checkpointing=False).fit(model, batches(), batches())
    assert digest(dict(model.decoder.named_buffers())) == decoder
    assert not any(module.training for module in model.decoder.modules())
    assert model.encoder.training


def test_so_does_a_frozen_submodule_of_a_loaded_checkpoint():
    model = segzoo.from_pretrained("lv-unet-busi")
    model.encoder.requires_grad_(False)
    before, rest = digest(model.encoder.state_dict()), digest(dict(model.up.named_buffers()))
    plain_trainer(max_epochs=1, limit_train_batches=1, enable_checkpointing=False).fit(model, batches())
    assert digest(model.encoder.state_dict()) == before
    assert digest(dict(model.up.named_buffers())) != rest


def test_a_part_of_the_encoder_in_eval_mode_stays_there_when_the_rest_is_trained(monkeypatch, tmp_path):
    model = small("cmunext", frozen_epochs=1)
    model.encoder[1].eval()
    still, moving = (digest(dict(part.named_buffers())) for part in (model.encoder[1], model.encoder[2]))
    plain_trainer(max_epochs=2, enable_checkpointing=False).fit(model, batches())
    assert digest(dict(model.encoder[1].named_buffers())) == still
    assert digest(dict(model.encoder[2].named_buffers())) != moving
    assert model.encoder[2].training
    assert not model.encoder[1].training
