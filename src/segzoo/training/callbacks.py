"""Lightning callbacks that belong to a model's recipe."""

import math
from collections.abc import Sequence
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from torch import nn
from torch.optim import Optimizer

from segzoo.errors import SegzooError

FOREVER = "forever"  # as a number of epochs


class FrozenEncoder(Callback):
    """Callback that keeps a model's encoder as it is for the first epochs, running statistics of batch norm included.

    Where the encoder will be trained later, gradients are computed and then dropped, which every optimizer takes as
    "leave this one alone": no weight decay, no momentum, no step counted. Not to compute them would be no use to
    DistributedDataParallel: parameters that ask for none when it wraps the model are never synchronised, not even
    later, and ones that ask for a gradient and get none make it stop. An encoder that is frozen forever asks for none.

    It holds no state of its own: the epoch is the Trainer's, which restores it.

    Args:
        epochs: the first epoch in which the encoder is trained; infinite where it never is.
        parts: names of the submodules that make up the encoder.

    Example:
        >>> from segzoo.training.callbacks import FrozenEncoder
        >>> FrozenEncoder(3).parts
        ('encoder',)
    """

    def __init__(self, epochs: float, parts: Sequence[str] = ("encoder",)) -> None:
        self.epochs = epochs
        self.parts = tuple(parts)
        self._stilled: list[nn.Module] = []  # put into eval mode here, to be put back into train mode
        self._withheld: list[nn.Parameter] = []  # that ask for no gradient while this trains

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let an encoder that is never trained ask for no gradients, before processes share the model.

        Raises:
            SegzooError: another callback would compute its statistics anew.
        """
        if stage != "fit":
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(one, StochasticWeightAveraging) for one in callbacks) and self.has_statistics(pl_module):
            raise SegzooError(
                "StochasticWeightAveraging computes the statistics of batch norm anew at the end, those of a frozen "
                "encoder too; take EMAWeightAveraging, or leave frozen_epochs out"
            )
        if math.isinf(self.epochs):
            for part in self.encoder_of(pl_module):
                self._withheld += [parameter for parameter in part.parameters() if parameter.requires_grad]
            for parameter in self._withheld:
                parameter.requires_grad_(False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the model back as it came."""
        for parameter in self._withheld:
            parameter.requires_grad_(True)
        self._withheld = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the encoder in eval mode (statistics and stochastic depth stand still), or back as it was."""
        # for every batch: a run resumed inside an epoch has no start of that epoch
        if trainer.current_epoch < self.epochs:
            for part in self.encoder_of(pl_module):
                moving = [module for module in part.modules() if module.training]
                if moving:
                    part.eval()
                    self._stilled += moving
            return
        for module in self._stilled:
            module.training = True  # and of those that stood still before none
        self._stilled = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the encoder's gradients, before they are clipped or used."""
        if trainer.current_epoch < self.epochs:
            for part in self.encoder_of(pl_module):
                for parameter in part.parameters():
                    parameter.grad = None

    def encoder_of(self, model: LightningModule) -> list[nn.Module]:
        """Return the parts that are frozen.

        Raises:
            SegzooError: the model lacks one.
        """
        found = [getattr(model, name, None) for name in self.parts]
        missing = [name for name, part in zip(self.parts, found, strict=True) if not isinstance(part, nn.Module)]
        if missing:
            raise SegzooError(
                f"frozen_epochs: {type(model).__name__} has no {missing[0]!r} to freeze; let its class name the "
                "submodules that make up its encoder in encoder_parts"
            )
        return [part for part in found if isinstance(part, nn.Module)]

    def has_statistics(self, model: LightningModule) -> bool:
        """Return whether the encoder has batch norms."""
        norms = nn.modules.batchnorm._BatchNorm
        return any(isinstance(module, norms) for part in self.encoder_of(model) for module in part.modules())


def frozen_for(epochs: Any) -> float:
    """Return a number of frozen epochs as a number.

    Raises:
        SegzooError: it is neither a whole number from 0 nor "forever".

    Example:
        >>> from segzoo.training.callbacks import frozen_for
        >>> frozen_for(5), frozen_for("forever")
        (5, inf)
    """
    if epochs == FOREVER:
        return math.inf
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise SegzooError(f"frozen_epochs must be a whole number from 0, or {FOREVER!r}, not {epochs!r}")
    return epochs
