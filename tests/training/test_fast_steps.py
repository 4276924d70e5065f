"""Fast steps on a CPU: freed memory that is kept, 1x1 convolutions by oneDNN, and the weights that come out."""

import resource

import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from tests.small_models import small_images
from torch import nn
from torch.utils.data import DataLoader

from segzoo.nn.tiles import PointwiseConv2d
from segzoo.training.allocator import glibc

BLOCK = 2**28  # bytes; larger than what glibc ever keeps by itself, and than any hole that other tests leave
PAGES = BLOCK // resource.getpagesize()

needs_glibc = pytest.mark.skipif(glibc() is None, reason="the C library is not glibc, whose allocator is set up")


def pages_asked_for() -> int:
    """Make and drop a large block, then one that fits into its place; how many pages the system gave for that."""
    torch.ones(BLOCK // 2)  # twice as large
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(BLOCK // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


class Watch(Callback):
    """Callback that looks at each step, and may end the training by an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.pages = pages_asked_for()
        layers = [layer for layer in pl_module.modules() if getattr(layer, "kernel_size", None) == (1, 1)]
        self.spread = sum(layer.dilation != (1, 1) for layer in layers)
        self.heads = {type(layer) for layer in layers if layer.out_channels == 1}
        if self.error is not None:
            raise self.error


def trained(folder, error=None) -> tuple[Watch, torch.Tensor]:
    """Train a little; what was seen in a step, and the weights."""
    seed_everything(0, verbose=False)
    model, watch = small_images(), Watch(error)
    item = {"image": torch.rand(3, 32, 32), "label": torch.randint(2, (32, 32)), "id": "a"}
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=1, default_root_dir=folder, accelerator="cpu", callbacks=[watch], **options)
    trainer.fit(model, DataLoader([item], batch_size=1))
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert all((type(layer), layer.dilation) == (nn.Conv2d, (1, 1)) for layer in layers)
    return watch, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def free_to_choose(monkeypatch):
    for name in ("SEGZOO_FAST_STEPS", "GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_MMAP_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)


@needs_glibc
@pytest.mark.usefixtures("free_to_choose")
def test_a_training_keeps_what_it_frees_until_it_ends(tmp_path):
    watch, _ = trained(tmp_path)
    assert watch.pages < PAGES // 10
    assert pages_asked_for() > PAGES // 2  # afterwards it is as ever, for all else that the process does
    with pytest.raises(ValueError, match="ends"):
        trained(tmp_path, ValueError("ends"))
    assert pages_asked_for() > PAGES // 2


@needs_glibc
@pytest.mark.usefixtures("free_to_choose")
def test_an_allocator_of_ones_own_is_left_alone(tmp_path, monkeypatch):
    _, kept = trained(tmp_path)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "33554432")
    watch, given_back = trained(tmp_path)
    assert watch.pages > PAGES // 2
    assert torch.equal(kept, given_back)


@pytest.mark.usefixtures("free_to_choose")
def test_on_one_thread_pointwise_layers_take_another_way_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    watch, fast = trained(tmp_path)
    assert watch.spread > 0
    assert watch.heads == {PointwiseConv2d}
    monkeypatch.setenv("SEGZOO_FAST_STEPS", "0")
    watch, usual = trained(tmp_path)
    assert watch.spread == 0
    assert watch.heads == {nn.Conv2d}
    assert watch.pages > PAGES // 2 or glibc() is None
    torch.testing.assert_close(fast, usual, rtol=0, atol=1e-5)
    monkeypatch.delenv("SEGZOO_FAST_STEPS")
    assert torch.equal(trained(tmp_path)[1], fast)
