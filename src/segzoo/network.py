"""SegmentationNetwork: what every architecture does besides its own forward pass.

It pads and crops, knows its task, its recipe and the input contract of its checkpoints. Everything below the training
and the five verbs names this class, never the SegmentationModule that is built on it.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from segzoo.errors import SegzooError
from segzoo.nn.deployable import Deployable
from segzoo.nn.tiles import PointwiseConv2d
from segzoo.postprocessing import Postprocessing
from segzoo.preprocessing.base import InputContract
from segzoo.preprocessing.image import Preprocessing
from segzoo.tasks import Task, require_count
from segzoo.training.callbacks import FrozenEncoder, frozen_for
from segzoo.training.fast_steps import FastSteps
from segzoo.training.fitted import fitted
from segzoo.training.losses import DiceCELoss

if TYPE_CHECKING:  # jsonargparse reads this, too; predictions do without what the module imports
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable


class Feature(NamedTuple):
    """One of an encoder's maps.

    Attributes:
        channels: of the map.
        reduction: by what factor its sides are smaller than the image's; one factor an axis where they differ.
    """

    channels: int
    reduction: int | tuple[int, ...]

    def reduced(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the sides of the map of an image of this size: each is rounded up, so that nothing is lost."""
        factors = self.reduction if isinstance(self.reduction, tuple) else (self.reduction,) * len(size)
        return tuple(-(-side // factor) for side, factor in zip(size, factors, strict=True))


class SegmentationNetwork(Deployable, LightningModule):
    """Base of all architectures, without training and verbs: see :class:`segzoo.SegmentationModule`.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary (sigmoid), more is multi-class (softmax, class 0 the
            background) unless ``multilabel`` (sigmoid a class).
        multilabel: every class is a mask of its own; they may overlap.
        loss: a module called with logits [B, K, *S] and labels, or one of torch or MONAI, which gets the form that it
            wants (see :mod:`segzoo.training.fitted`); None takes the architecture's own.
        optimizer: called with the parameters; None takes the architecture's own.
        lr_scheduler: called with the optimizer and stepped once an epoch; None takes the architecture's own.
        frozen_epochs: epochs for which the encoder stays as it is, batch norm's statistics included, or "forever".

    Attributes:
        task: number and kind of the classes.
        preprocessing: what is done to an image before the network sees it.
        postprocessing: what is done to its prediction afterwards; a new model has none.
        class_names: name of every mask value (binary and multi-class) or of every channel (multi-label).
        model_name, arguments: what :func:`segzoo.create_model` built this from.
        data: what it was trained on, as its DataModule describes it, and before that ("pretrained_on").
        licence: of the weights that it started from, with those of the data since; None where they state none.
        load_report: what :func:`segzoo.from_pretrained` loaded, adapted and initialised; else None.
    """

    stride: int | tuple[int, ...] = 1  # sides that the network itself can take are multiples of this, or of these
    spatial_dims: int = 2
    training_only: ClassVar[tuple[str, ...]] = ()  # what the names of tensors begin with that only training needs
    int8_files: ClassVar[tuple[str, ...]] = ()  # suffixes of those whose masks were found to stay as they are
    members: "Sequence[SegmentationNetwork]" = ()  # those whose mean this one is, if it is an ensemble
    encoder_parts: ClassVar[tuple[str, ...]] = ("encoder",)  # the submodules that frozen_epochs is about

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        multilabel: bool = False,
        loss: nn.Module | None = None,
        optimizer: "OptimizerCallable | None" = None,
        lr_scheduler: "LRSchedulerCallable | None" = None,
        frozen_epochs: int | Literal["forever"] = 0,
    ) -> None:
        super().__init__()
        require_count("in_channels", in_channels)
        self.in_channels = in_channels
        self.task = Task(num_classes, multilabel)
        self.preprocessing: InputContract = Preprocessing.for_channels(in_channels)
        self.postprocessing = Postprocessing()
        self.class_names = self.task.default_class_names()
        self.model_name: str | None = None
        self.arguments: dict[str, Any] = {}
        self.codes: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.licence: str | None = None
        self.load_report: Any = None  # a LoadReport, of the floor above
        # in a tuple, so that a loss with weights of its own stays out of the state dict: that is the network's alone
        self._loss = (fitted(loss if loss is not None else self.default_loss(), self.task),)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        frozen_for(frozen_epochs)
        self.frozen_epochs: int | Literal["forever"] = frozen_epochs

    @property
    def num_classes(self) -> int:
        """Channels of the logits."""
        return self.task.num_classes

    @property
    def multilabel(self) -> bool:
        """True where every class is a mask of its own."""
        return self.task.multilabel

    def recorded_arguments(self) -> dict[str, Any]:
        """Arguments that a checkpoint names even where they were left at their defaults."""
        return {"in_channels": self.in_channels, "num_classes": self.num_classes, "multilabel": self.multilabel}

    # ---- the network

    @abstractmethod
    def compute_logits(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits [B, K, *S] for x [B, C, *S], sides multiples of ``stride``; deep supervision: finest first."""

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Logits [B, num_classes, *S] of images [B, in_channels, *S] of any size.

        A model with deep supervision returns, while training, a list of logits, finest first, on the padded
        grid.
        """
        self.require_input(x)
        size = x.shape[2:]
        outputs = self.compute_logits(self.pad(x))
        if isinstance(outputs, Tensor):
            return crop(outputs, size)
        return outputs if self.training else crop(outputs[0], size)

    def require_input(self, x: Tensor) -> None:
        """Refuse what is no batch of images or volumes of the model's channels."""
        if x.ndim != self.spatial_dims + 2:
            wanted = "volumes [B, C, D, H, W]" if self.spatial_dims == 3 else "images [B, C, H, W]"
            raise SegzooError(
                f"{type(self).__name__} with spatial_dims={self.spatial_dims} takes a batch of {wanted}, not "
                f"{tuple(x.shape)}"
            )
        if x.shape[1] != self.in_channels:
            raise SegzooError(
                f"{type(self).__name__} takes images [batch, {self.in_channels}, ...], not {tuple(x.shape)}; build the "
                "model with the in_channels of your images"
            )

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        """Channels and reduction of each of the maps that :meth:`encode` returns, finest first.

        Raises:
            SegzooError: the architecture has not said.
        """
        raise SegzooError(
            f"{type(self).__name__} does not say what its encoder's maps are; give it feature_info and compute_features"
        )

    def compute_features(self, x: Tensor) -> list[Tensor]:
        """Return the maps of ``feature_info`` for x [B, C, *S], sides multiples of ``stride``."""
        raise NotImplementedError

    def encode(self, x: Tensor) -> list[Tensor]:
        """Return the encoder's maps of preprocessed images, finest first, for other heads or to look at.

        Args:
            x: [B, in_channels, *S] of any size, as :meth:`forward` takes them.

        Returns:
            For each entry of ``feature_info`` a map [B, channels, *S / reduction], rounded up.

        Raises:
            SegzooError: x does not fit the model, or the architecture does not say what its maps are.
        """
        self.require_input(x)
        info, size = self.feature_info, x.shape[2:]
        maps = self.compute_features(self.pad(x))
        return [crop(one, feature.reduced(size)) for one, feature in zip(maps, info, strict=True)]

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the border at the far end of every axis, up to sizes the network can take."""
        strides = self.stride if isinstance(self.stride, tuple) else (self.stride,) * (x.ndim - 2)
        cells = [-(-side // stride) for side, stride in zip(x.shape[2:], strides, strict=True)]
        if self.is_too_small(cells, x.shape[0]):
            cells = [max(2, number) for number in cells]
        padding: list[int] = []
        for side, number, stride in zip(reversed(x.shape[2:]), reversed(cells), reversed(strides), strict=True):
            padding += [0, number * stride - side]  # F.pad counts from the last axis
        return F.pad(x, padding, mode="replicate") if any(padding) else x

    def is_too_small(self, cells: Sequence[int], batch_size: int) -> bool:
        """Return whether the norms need more voxels at the bottleneck than ``cells`` of them an axis."""
        return self.training and batch_size == 1 and min(cells) < 2  # batch norm cannot train on one value a channel

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load a state dict; tensors that only training needs may be surplus (dropped) or absent (left as they are)."""
        if self.training_only:
            own = self.state_dict()
            state_dict = {
                name: value for name, value in state_dict.items() if name in own or not self.is_training_only(name)
            } | {name: own[name] for name in own if name not in state_dict and self.is_training_only(name)}
        return super().load_state_dict(state_dict, strict, assign)

    def is_training_only(self, name: str) -> bool:
        """Return whether the tensor of this name, such as a head of deep supervision, has no part in a prediction."""
        return name.startswith(self.training_only)

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities [B, K, *S], at least float32: sigmoid for binary and multi-label, softmax for multi-class."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return self.task.activate(logits)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Return logits that :meth:`activate` turns into these probabilities, for the loss of a stitched volume."""
        return self.task.logits_of(probabilities, torch.finfo(probabilities.dtype).tiny)

    def mask(self, probabilities: Tensor) -> Tensor:
        """Integer masks: [B, *S] of class indices, or [B, K, *S] of 0 and 1 for multi-label."""
        return self.task.mask(probabilities).long()

    # ---- the recipe

    def default_loss(self) -> nn.Module:
        """Return the architecture's published loss."""
        return DiceCELoss()

    @abstractmethod
    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """Return the architecture's published optimizer."""

    @abstractmethod
    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        """Return the architecture's published schedule, and whether it steps every "epoch" or "step"."""

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Lightning's hook: the given optimizer and schedule, or the published ones."""
        make_optimizer = self._optimizer or self.default_optimizer
        optimizer = make_optimizer(self.parameters())
        if self._lr_scheduler is not None:
            scheduler, interval = self._lr_scheduler(optimizer), "epoch"
        else:
            scheduler, interval = self.default_lr_scheduler(optimizer)
        watched = getattr(scheduler, "monitor", None)  # of Lightning's ReduceLROnPlateau
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "monitor": watched},
        }

    def configure_callbacks(self) -> list[Callback]:
        """Lightning's hook: what makes steps short and, where it is to be, keeps the encoder frozen."""
        epochs = frozen_for(self.frozen_epochs)
        frozen = [FrozenEncoder(epochs, self.encoder_parts)] if epochs > 0 else []
        return [FastSteps(PointwiseConv2d), *frozen]

    def total_steps(self) -> int:
        """Optimizer steps of the whole training."""
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise SegzooError("the model's schedule needs an end: give the Trainer max_epochs or max_steps")
        return max(1, int(steps))

    def total_epochs(self) -> int:
        """Epochs of the whole training, also where it ends after a number of steps."""
        steps = self.total_steps()
        if self.trainer.max_steps < 0:
            return int(self.trainer.max_epochs or 1)
        self.trainer.fit_loop.setup_data()  # counts the batches, which Lightning has not done yet when first asked
        steps_an_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return math.ceil(steps / steps_an_epoch)

    @property
    def competes_for_best(self) -> bool:
        """True where the weights as they are now may become the best checkpoint."""
        return True


def crop(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Return the part of padded logits or maps [B, K, *padded] that lies on the image [B, K, *size]."""
    window = (slice(None), slice(None), *(slice(side) for side in size))
    return logits[window]


def check_classes(model: SegmentationNetwork, datamodule: Any, stage: str) -> None:
    """Refuse data whose classes are not the model's: those that are in neither would count as found.

    Args:
        model: with the class names that it has learned, if it has.
        datamodule: with ``class_names`` and ``multilabel``.
        stage: Lightning's; only "fit" may give the classes another order.

    Raises:
        SegzooError: the data has another number of classes than the model, or is to score it by another order.
    """
    names, multilabel = tuple(datamodule.class_names), bool(datamodule.multilabel)
    wanted = Task.of_classes(names, multilabel)
    named = model.class_names != model.task.default_class_names()
    given = f"--data.class_names '[{','.join(model.class_names)}]'"
    if len(names) in (model.task.num_classes, model.task.named_classes) and multilabel == model.multilabel:
        moved = [name for name, own in zip(names, model.class_names, strict=False) if name != own]
        if stage != "fit" and named and set(moved) & set(model.class_names):
            raise SegzooError(
                f"{type(datamodule).__name__} has the classes in the order {', '.join(names)}, and the model as "
                f"{', '.join(model.class_names)}, so that one would be scored as another; give the data the order "
                f"of the model, of a Folder by {given}"
            )
        return
    kind = "multi-label" if multilabel else "one label a pixel"
    given += "" if multilabel == model.multilabel else f" --data.multilabel {str(model.multilabel).lower()}"
    advice = f"give the data the classes of the model, of a Folder by {given}"
    if stage == "fit" and not named:
        advice = f"build it with num_classes={wanted.num_classes}, multilabel={multilabel}"
    elif stage == "fit" and multilabel == model.multilabel:
        advice += f", or the model those of the data by num_classes={wanted.num_classes}"
    raise SegzooError(
        f"{type(datamodule).__name__} has the classes {', '.join(names)} ({kind}), the model has "
        f"num_classes={model.num_classes}, multilabel={model.multilabel}; {advice}"
    )
