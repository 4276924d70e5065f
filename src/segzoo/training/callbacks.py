"""Lightning callbacks that belong to a model's recipe."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Optimizer


class FrozenEncoder(Callback):
    """Callback that keeps ``model.encoder`` as it is for the first epochs, running statistics of batch norm included.

    Gradients are computed and then dropped, which every optimizer takes as "leave this one alone": no weight
    decay, no momentum, no step counted. Not to compute them would be no use to DistributedDataParallel: parameters
    that ask for none when it wraps the model are never synchronised, not even later, and ones that ask for a
    gradient and get none make it stop.

    It holds no state of its own: the epoch is the Trainer's, which restores it.

    Args:
        epochs: the first epoch in which the encoder is trained.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the encoder in eval mode (statistics and stochastic depth stand still), or back in train mode."""
        # for every batch: a run resumed inside an epoch has no start of that epoch
        encoder, trained = encoder_of(pl_module), trainer.current_epoch >= self.epochs
        if encoder.training != trained:
            encoder.train(trained)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the encoder's gradients, before they are clipped or used."""
        if trainer.current_epoch < self.epochs:
            for parameter in encoder_of(pl_module).parameters():
                parameter.grad = None


def encoder_of(model: LightningModule) -> nn.Module:
    """Return the part that is frozen."""
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    return encoder
