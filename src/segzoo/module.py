"""SegmentationModule: what every model of the zoo does besides its own forward pass.

It pads and crops, trains and evaluates binary, multi-class and multi-label tasks, knows deep supervision,
scores by the zoo's protocol, and holds the input contract that its checkpoints carry.
"""

import copy
import math
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral  # NumPy's too
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.provenance import split_hashes, with_history
from segzoo.class_checks import check_classes
from segzoo.errors import SegzooError
from segzoo.metrics.metric import SegmentationMetric, metric_class
from segzoo.metrics.per_image import image_scores, write_image_scores
from segzoo.preprocessing.base import InputContract
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.stored import preprocessing_from_dict
from segzoo.tasks import default_class_names
from segzoo.training.batches import Batch, check_batch, own_grids, own_labels
from segzoo.training.losses import DiceCELoss, deep_supervision_loss

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from segzoo.checkpoints.fill import LoadReport
    from segzoo.export.write import Exported
    from segzoo.imaging.segmentation import Segmentation
    from segzoo.imaging.volumes import Volume
    from segzoo.preprocessing.volume import VolumePreprocessing

LABELLED = ("image", "label")  # what of a batch all steps but prediction need
OTHER_IMAGES = (
    "the run that --ckpt_path names was trained on other images, or on another split of these, so some of its training "
    "images would now validate or test; give it the data it had, or start a new run from its checkpoint: "
    "--model FOLDER/checkpoint"
)


class SegmentationModule(LightningModule):
    """Base of all architectures. Subclasses define :meth:`compute_logits` and their recipe.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary (sigmoid), more is multi-class (softmax, class 0 the
            background) unless ``multilabel`` (sigmoid a class).
        multilabel: every class is a mask of its own; they may overlap.
        loss: a module called with logits [B, K, *S] and labels; None takes the architecture's own.
        optimizer: called with the parameters; None takes the architecture's own.
        lr_scheduler: called with the optimizer and stepped once an epoch; None takes the architecture's own.

    Attributes:
        preprocessing: what is done to an image before the network sees it.
        class_names: name of every mask value (binary and multi-class) or of every channel (multi-label).
        metric_names: what validation and test measure, of :data:`segzoo.metrics.metric.METRICS`.
        test_tta: whether a test averages over mirrored copies.
        model_name, arguments: what :func:`segzoo.create_model` built this from.
        data: what it was trained on, as its DataModule describes it, and before that ("pretrained_on").
        licence: of the weights that it started from, with those of the data since; None where they state none.
        load_report: what :func:`segzoo.from_pretrained` loaded, adapted and initialised; else None.
    """

    stride: int | tuple[int, ...] = 1  # sides that the network itself can take are multiples of this, or of these
    spatial_dims: int = 2
    training_only: ClassVar[tuple[str, ...]] = ()  # what the names of tensors begin with that only training needs
    can_be_int8: ClassVar[bool] = False  # whether its masks were found to stay as they are
    metric_names: Sequence[str] = ("dice", "iou", "precision", "recall")
    test_tta: bool = False

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 1,
        multilabel: bool = False,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("in_channels", in_channels), ("num_classes", num_classes)):
            if not isinstance(number, Integral) or isinstance(number, bool):
                raise SegzooError(f"{name} must be a whole number, not {number!r}")
        if not isinstance(multilabel, bool):  # "no" would count as yes
            raise SegzooError(f"multilabel must be True or False, not {multilabel!r}")
        if in_channels < 1 or num_classes < 1:
            raise SegzooError(f"in_channels ({in_channels}) and num_classes ({num_classes}) must be at least 1")
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.multilabel = multilabel
        self.preprocessing: Preprocessing | VolumePreprocessing = Preprocessing.for_channels(in_channels)
        self.class_names = default_class_names(num_classes, multilabel)
        self.model_name: str | None = None
        self.arguments: dict[str, Any] = {}
        self.data: dict[str, Any] = {}
        self.licence: str | None = None
        self.load_report: LoadReport | None = None
        # in a tuple, so that a loss with weights of its own stays out of the state dict: that is the network's alone
        self._loss = (loss if loss is not None else self.default_loss(),)
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._image_rows: list[dict[str, Any]] = []
        self.tested_images = 0

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
        size = x.shape[2:]
        outputs = self.compute_logits(self.pad(x))
        if isinstance(outputs, Tensor):
            return crop(outputs, size)
        return outputs if self.training else crop(outputs[0], size)

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
        """Whether the norms need more voxels at the bottleneck than ``cells`` of them an axis."""
        return self.training and batch_size == 1 and min(cells) < 2  # batch norm cannot train on one value a channel

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's; tensors that only training needs may be surplus (dropped) or absent (left as they are)."""
        if self.training_only:
            own = self.state_dict()
            state_dict = {
                name: value for name, value in state_dict.items() if name in own or not self.is_training_only(name)
            } | {name: own[name] for name in own if name not in state_dict and self.is_training_only(name)}
        return super().load_state_dict(state_dict, strict, assign)

    def is_training_only(self, name: str) -> bool:
        """Whether the tensor of this name, such as a head of deep supervision, has no part in a prediction."""
        return name.startswith(self.training_only)

    # ---- the recipe

    def default_loss(self) -> nn.Module:
        """The architecture's published loss."""
        return DiceCELoss()

    @abstractmethod
    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """The architecture's published optimizer."""

    @abstractmethod
    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        """The architecture's published schedule, and whether it steps every "epoch" or "step"."""

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
        """Whether the weights as they are now may become the best checkpoint."""
        return True

    # ---- training and evaluation

    def setup(self, stage: str) -> None:
        """Check the data's classes, take its contract (when fitting) and prepare the metrics."""
        if self.spatial_dims == 2:
            self.to(memory_format=torch.channels_last)  # a third faster on CPUs, and slower for none of the zoo's
        if stage in ("fit", "validate", "test") and self.knows_its_data:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            check_classes(self, datamodule, stage)
            if stage == "fit":
                self.adopt_data(datamodule)
        elif stage == "fit" and self.data:  # from loaders, of which nobody knows what they read
            self.learn_from({"licence": "unknown"})
        if stage in ("fit", "validate"):
            self.val_metrics = self.configure_metrics("val/", ("dice", "iou"))
        if stage == "test":
            self._image_rows = []  # a test that failed may have left some
            self.test_metrics = self.configure_metrics("test/", self.metric_names)
            self.test_resized_metrics = self.configure_metrics("test_resized/", self.metric_names)

    @property
    def knows_its_data(self) -> bool:
        """Whether the Trainer has a DataModule that says how images become input."""
        datamodule = getattr(self._trainer, "datamodule", None)
        return isinstance(getattr(datamodule, "preprocessing", None), InputContract)

    def adopt_data(self, datamodule: Any) -> None:
        """Take over preprocessing, class names and provenance of the data this model is trained on."""
        self.preprocessing, self.class_names = datamodule.preprocessing, tuple(datamodule.class_names)
        self.learn_from(datamodule.describe())

    def learn_from(self, data: dict[str, Any]) -> None:
        """Note what it is trained on now: what it came from stays in its history, and in the licence of its weights."""
        self.data = with_history(data, self.data)
        if self.licence is not None:
            self.licence = joined([self.licence, data.get("licence")])

    def configure_metrics(self, prefix: str, names: Iterable[str]) -> MetricCollection:
        """Per-image metrics by their plain names, and Dice and IoU over the pooled dataset."""
        task = {"num_classes": self.num_classes, "multilabel": self.multilabel}
        metrics: dict[str, Metric | MetricCollection] = {name: metric_class(name)(**task) for name in names}
        metrics |= {f"dataset_{name}": metric_class(name)(**task, aggregation="dataset") for name in ("dice", "iou")}
        return MetricCollection(metrics, prefix=prefix, compute_groups=False).to(self.device)

    def on_fit_start(self) -> None:
        """Train mode (Lightning keeps the eval mode that a loaded checkpoint comes in), loss on the device."""
        if not self.training:
            self.train()
        self._loss[0].to(self.device)

    def on_train_start(self) -> None:
        """Draw order and augmentation otherwise than other processes do, and than this run did before a resume."""
        rank, epoch = self.trainer.global_rank, self.trainer.current_epoch
        if rank or epoch:  # a run of one process and one piece draws what its seed says
            torch.manual_seed((torch.initial_seed() + 1_000_003 * epoch + rank) % 2**63)
        if epoch and self.trainer.max_steps < 0 < (self.trainer.max_epochs or 0):
            self.count_steps_anew(epoch)

    def count_steps_anew(self, epoch: int) -> None:
        """Put a schedule of steps where ``epoch`` begins, for before a resume batches may have been of another size."""
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                steps = self.total_steps() * epoch // self.total_epochs()
                config.scheduler.last_epoch = steps // config.frequency

    def on_validation_start(self) -> None:
        """Lightning's hook: the loss where the data is."""
        self._loss[0].to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        check_batch(batch, LABELLED)
        loss = self.compute_loss(self(batch["image"]), batch["label"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def compute_loss(self, outputs: Tensor | list[Tensor], label: Tensor) -> Tensor:
        """The loss of one output, or of all outputs of deep supervision."""
        if isinstance(outputs, Tensor):
            return self._loss[0](outputs, label)
        return deep_supervision_loss(self._loss[0], outputs, label)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and per-image scores at the training size; of volumes, over the whole volume."""
        from segzoo.prediction.network import predict_probabilities

        check_batch(batch, LABELLED)
        image, label = batch["image"], batch["label"]
        if self.spatial_dims == 3:
            probabilities = predict_probabilities(self, image).to(label.device)
            logits = self.logits_of(probabilities)
        else:
            logits = self(image)
            probabilities = self.activate(logits)
        self.log("val/loss", self.compute_loss(logits, label), batch_size=len(image), sync_dist=True)
        self.val_metrics.update(self.mask(probabilities), label)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log_dict(self.val_metrics.compute(), prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores at the image's own resolution (``test/``) and at the network's (``test_resized/``)."""
        from segzoo.prediction.network import predict_probabilities, refuse_nan

        check_batch(batch, LABELLED)
        probabilities = predict_probabilities(self, batch["image"], tta=self.test_tta)
        refuse_nan(probabilities)
        label = batch["label"]
        # mm between voxels, for distances; volumes come one at a time, and images have none
        spacing = batch["spacing"][0] if "spacing" in batch else None
        own_spacing = batch["geometry"][0].spacing if "geometry" in batch else None
        self.test_resized_metrics.update(self.mask(probabilities).to(label.device), label, spacing=spacing)
        for identifier, one, original, grid in zip(
            self.identifiers(batch), probabilities, own_labels(batch), own_grids(batch), strict=True
        ):
            target = original[None].to(self.device)
            mask = self.mask(self.preprocessing.restore(one[None], grid)).to(self.device)
            self.test_metrics.update(mask, target, spacing=own_spacing)
            scores = image_scores(
                mask, target, self.num_classes, self.multilabel, self.metric_names, spacing=own_spacing
            )
            self._image_rows.append({"id": identifier, **scores[0]})

    def identifiers(self, batch: Batch) -> Sequence[Any]:
        """The images' names, or their places in a dataset that has none (processes take turns, as Lightning deals)."""
        first, rank, processes = len(self._image_rows), self.trainer.global_rank, self.trainer.world_size
        return batch.get("id", [(first + i) * processes + rank for i in range(len(batch["image"]))])

    def on_test_epoch_end(self) -> None:
        """Log the scores and write one row an image to ``test_per_image.csv`` in the Trainer's folder."""
        self.log_dict(self.test_metrics.compute() | self.class_scores(self.test_metrics))
        self.log_dict(self.test_resized_metrics.compute())
        self.test_metrics.reset()
        self.test_resized_metrics.reset()
        rows, self._image_rows = self._image_rows, []
        if self.trainer.world_size > 1:
            gathered: list[list[dict[str, Any]]] = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        self.tested_images = len(rows)
        if self.trainer.is_global_zero and rows:
            file = Path(self.trainer.default_root_dir) / "test_per_image.csv"
            write_image_scores(file, sorted(rows, key=lambda row: row["id"]))

    def class_scores(self, metrics: MetricCollection) -> dict[str, Tensor]:
        """Each per-image metric of each class, as ``test/dice_2``: 2 is the mask value (multi-label: the channel)."""
        first = 0 if self.multilabel else 1
        scores = {name: cast(SegmentationMetric, metrics[name]).per_class() for name in self.metric_names}
        return {
            f"{metrics.prefix}{name}_{number}": score
            for name, of_classes in scores.items()
            if len(of_classes) > 1
            for number, score in enumerate(of_classes, start=first)
        }

    def predict_step(self, batch: Batch, batch_idx: int) -> "list[Segmentation]":
        """The segmentation of every image, on its own grid where the batch says how large that is."""
        from segzoo.imaging.segmentation import Segmentation
        from segzoo.prediction.network import predict_probabilities, refuse_nan

        check_batch(batch, ("image",))
        probabilities = predict_probabilities(self, batch["image"]).float()
        refuse_nan(probabilities)
        geometries = batch.get("geometry", [None] * len(probabilities))
        found = []
        for one, grid, geometry in zip(probabilities, own_grids(batch), geometries, strict=True):
            restored = self.preprocessing.restore(one[None], grid)
            mask = self.mask(restored)[0].cpu().numpy()
            found.append(Segmentation(mask, restored[0].cpu().numpy(), self.class_names, geometry=geometry))
        return found

    def activate(self, logits: Tensor) -> Tensor:
        """Probabilities [B, K, *S], at least float32: sigmoid for binary and multi-label, softmax for multi-class."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits.sigmoid() if self.num_classes == 1 or self.multilabel else logits.softmax(dim=1)

    def logits_of(self, probabilities: Tensor) -> Tensor:
        """Logits that :meth:`activate` turns into these probabilities, for the loss of a stitched volume."""
        if self.num_classes == 1 or self.multilabel:
            return probabilities.logit(eps=1e-6)
        return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()

    def mask(self, probabilities: Tensor) -> Tensor:
        """Integer masks: [B, *S] of class indices, or [B, K, *S] of 0 and 1 for multi-label."""
        if self.multilabel:
            return (probabilities > 0.5).long()
        if self.num_classes == 1:
            return (probabilities[:, 0] > 0.5).long()
        return probabilities.argmax(dim=1)

    # ---- use

    def predict(
        self, image: "str | Path | Image | np.ndarray | Tensor | Volume", *, tta: bool = False, overlap: float = 0.5
    ) -> "Segmentation":
        """Segment one image or volume; the model's own preprocessing does all that raw intensities need.

        Args:
            image: a path, a PIL image, an array [H, W] or [H, W, C] or a tensor [C, H, W]. For volumes: a path (NIfTI,
                NRRD, MHA), what :func:`segzoo.volumes.read_volume` gives, an array or tensor [D, H, W] or [C, D, H, W],
                which is taken to have the orientation and spacing that the model wants. A model for images goes
                through a volume (an array of one: [C, D, H, W]) slice by slice.
            tta: average over mirrored copies.
            overlap: of the windows that a volume is segmented in, as part of their length.

        Returns:
            mask and probabilities on the image's or volume's own grid.

        Raises:
            SegzooError: the image cannot be read or does not fit the model.
        """
        from segzoo.prediction.network import predict

        return predict(self, image, tta=tta, overlap=overlap)

    def deploy(self) -> Self:
        """A new, fused, eval-only copy of this model that computes the same function."""
        # a copy of the network must not copy the Trainer that it may still hang on
        copied = copy.deepcopy(self, {id(self._trainer): None, id(self._fabric): None})
        copied.eval().fuse()
        if self.spatial_dims == 2:
            # faster on CPUs, and one format for all: a model gives the same bits after training as loaded from a file
            copied.to(memory_format=torch.channels_last)
        return copied.requires_grad_(False)

    def fuse(self) -> None:
        """Fold what can be folded exactly, in place."""

    @property
    def is_deployable(self) -> bool:
        """Whether :meth:`deploy` keeps what the model computes as it is now."""
        return True

    def save_pretrained(self, folder: str | Path, **details: Any) -> Path:
        """Write this model as a checkpoint folder; see :func:`segzoo.checkpoints.save.save_pretrained`."""
        from segzoo.checkpoints.save import save_pretrained

        return save_pretrained(self, folder, **details)

    def export(self, path: str | Path, **options: Any) -> "Exported":
        """Write this model as an ONNX or torch.export file, checked; see :func:`segzoo.export.write.export`."""
        from segzoo.export.write import export

        return export(self, path, **options)

    def push_to_hub(
        self, repository: str, *, private: bool = False, token: str | bool | None = None, **details: Any
    ) -> str:
        """Publish this model on the Hugging Face Hub, in one commit and tagged with its version.

        Args:
            repository: ``user/repo``; created where it is not there.
            private: whether a new repository is.
            token: that may write there; None is that of `hf auth login`.
            **details: as of :func:`segzoo.checkpoints.save.save_pretrained`.

        Returns:
            The commit's address.

        Raises:
            SegzooError: the Hub does not allow it, or has this version with other content.
            MissingError: the Hub cannot be reached.
        """
        from segzoo.hub.publish import plan_upload, push

        with tempfile.TemporaryDirectory() as draft:
            folder = self.save_pretrained(Path(draft) / repository.rpartition("/")[2], **details)
            return push(plan_upload(folder, repository), private=private, token=token)

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **arguments: Any) -> Self:
        """Load a checkpoint of this architecture; see :func:`segzoo.from_pretrained`.

        Raises:
            SegzooError: the checkpoint holds another architecture.
        """
        from segzoo.hub.load import from_pretrained

        model = from_pretrained(name_or_path, **arguments)
        if not isinstance(model, cls):
            raise SegzooError(
                f"checkpoint {name_or_path} holds a {type(model).__name__}, not a {cls.__name__}; load it with "
                "segzoo.from_pretrained"
            )
        return model

    @classmethod
    def load_from_checkpoint(cls, *arguments: Any, **options: Any) -> Self:
        """As Lightning's, for classes whose files hold their arguments.

        Raises:
            SegzooError: the file does not hold what the model was built with, as those of the zoo's models do not.
        """
        try:
            return super().load_from_checkpoint(*arguments, **options)
        except (TypeError, RuntimeError) as error:
            raise SegzooError(
                f"Lightning's file does not say how this {cls.__name__} was built: build the model, load the file by "
                "trainer.validate(model, data, ckpt_path=FILE), and keep it by model.save_pretrained(FOLDER)"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the input contract beside the weights in Lightning's own checkpoints."""
        checkpoint["segzoo"] = {
            "preprocessing": self.preprocessing.to_dict(),
            "class_names": list(self.class_names),
            "data": self.data,
            "licence": self.licence,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what :meth:`on_save_checkpoint` kept; a training that goes on has its contract from its data.

        Raises:
            SegzooError: it would go on with other images than it started with.
        """
        contract = checkpoint.get("segzoo", {})
        if not contract:
            return
        if self.knows_its_data and self.trainer.state.fn == "fit":
            if split_hashes(contract["data"]) != split_hashes(self.data):
                raise SegzooError(OTHER_IMAGES)
            return
        self.take_back(contract)

    def take_back(self, contract: dict[str, Any]) -> None:
        """Take the input contract, classes and provenance that :meth:`on_save_checkpoint` kept."""
        self.preprocessing = preprocessing_from_dict(contract["preprocessing"])
        self.class_names, self.data = tuple(contract["class_names"]), contract["data"]
        self.licence = contract.get("licence", self.licence)  # files of old do not say


def crop(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The part of padded logits [B, K, *padded] that lies on the image [B, K, *size]."""
    window = (slice(None), slice(None), *(slice(side) for side in size))
    return logits[window]
