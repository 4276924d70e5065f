"""Training, validation, test and prediction steps under a Trainer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from segzoo.checkpoints.description import Learned
from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.provenance import listed, other_splits, split_hashes, with_history
from segzoo.errors import SegzooError, attempt
from segzoo.imaging.segmentation import Segmentation
from segzoo.metrics.calibration import Curves
from segzoo.metrics.metric import SegmentationMetric, metric_class
from segzoo.metrics.per_image import image_scores
from segzoo.metrics.score_file import write_image_scores
from segzoo.network import SegmentationNetwork, check_classes
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.judging import Judge, Verdict
from segzoo.prediction.pipeline import refuse_nan
from segzoo.prediction.torch_backend import finished, given_out, predict_probabilities
from segzoo.preprocessing.base import InputContract
from segzoo.training.batches import Batch, check_batch, own_grids, own_labels
from segzoo.training.losses import deep_supervision_loss
from segzoo.training.watch import LOOK, LossWatch

LABELLED = ("image", "label")  # what of a batch all steps but prediction need
OTHER_IMAGES = (
    "the run that --ckpt_path names was trained on other images, or on another split of these, so some of its training "
    "images would now validate or test; give it the data it had, or start a new run from its checkpoint: "
    "--model FOLDER/checkpoint"
)
AGAINST_DIVERGENCE = (
    "try a lower learning rate (--optimizer.lr), gradient clipping (--trainer.gradient_clip_val 1) or float32 "
    "(--trainer.precision 32-true)"
)


class Diverged(SegzooError):
    """Training whose weights are not finite any more."""


class SegmentationSteps(SegmentationNetwork):
    """Steps that a Trainer calls: a network that learns from data, and is scored by the zoo's protocol.

    Attributes:
        metric_names: what validation and test measure, of :data:`segzoo.metrics.METRICS`.
        test_tta: whether a test averages over mirrored copies.
        test_calibration: whether a test looks at probabilities, too.
        tested_images: how many images the last test scored.
        verdict: what the last test has found of their probabilities.
    """

    metric_names: Sequence[str] = ("dice", "iou", "precision", "recall")
    test_tta: bool = False
    test_calibration: bool = False
    tested_images: int = 0
    verdict = Verdict()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._image_rows: list[dict[str, Any]] = []
        self._judge: Judge | None = None
        self._watch = LossWatch()

    def setup(self, stage: str) -> None:
        """Check the data's classes, take its contract (when fitting) and prepare the metrics."""
        self.to(memory_format=self.memory_format)
        if stage == "fit":
            self.postprocessing = Postprocessing()  # what there is was chosen for the weights of before
        if stage in ("fit", "validate", "test") and self.knows_its_data:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            check_classes(self, datamodule, stage)
            if stage == "fit":
                self.adopt_data(datamodule)
            if stage != "test":
                self.weigh_classes(datamodule)
        elif stage == "fit" and self.data:  # from loaders, of which nobody knows what they read
            self.learn_from({"licence": "unknown"})
        if stage in ("fit", "validate"):
            self.val_metrics = self.configure_metrics("val/", ("dice", "iou"))
        if stage == "test":
            self._image_rows = []  # a test that failed may have left some
            self._judge = Judge(self) if self.test_calibration else None
            self.test_metrics = self.configure_metrics("test/", self.metric_names)
            self.test_resized_metrics = self.configure_metrics("test_resized/", self.metric_names)

    @property
    def knows_its_data(self) -> bool:
        """True where the Trainer has a DataModule that says how images become input."""
        datamodule = getattr(self._trainer, "datamodule", None)
        return isinstance(getattr(datamodule, "preprocessing", None), InputContract)

    def adopt_data(self, datamodule: Any) -> None:
        """Take over preprocessing, class names and provenance of the data this model is trained on."""
        self.preprocessing, self.class_names = datamodule.preprocessing, tuple(datamodule.class_names)
        self.task = replace(self.task, region_values=tuple(getattr(datamodule, "region_values", ())))
        self.learn_from(datamodule.describe())
        if names := other_splits(self.data, self.data.get("pretrained_on", [])):
            rank_zero_info(
                f"segzoo: this starts from weights that were trained on another split of {listed(names)}, so they may "
                "have seen images that this split validates and tests on, whose scores would be too good; give the "
                "data the split, fold and seed of that training, or start from other weights"
            )

    def weigh_classes(self, datamodule: Any) -> None:
        """Let the loss weigh the classes where the data asks for it.

        Raises:
            SegzooError: it takes no weights, or the data lacks a class.
        """
        asked = getattr(datamodule, "class_weights", None)  # which data of somebody's own need not know
        weights = None if asked is None else datamodule.loss_weights()
        if weights is None:
            return
        weigh = getattr(self._loss[0], "weigh", None)
        if weigh is None:
            raise SegzooError(
                f"{type(self._loss[0]).__name__} takes no weights of classes: give it a method weigh(weights), or "
                "leave class_weights out"
            )
        listed = zip(datamodule.class_names, weights if weights.ndim == 1 else weights[:, 1], strict=True)
        said = ", ".join(f"{name} {weight:.3g}" for name, weight in listed)
        rank_zero_info(f"segzoo: weights of the classes: {said}")
        given = torch.from_numpy(weights)
        weigh(given[None] if self.task.independent and given.ndim == 1 else given)

    def learn_from(self, data: dict[str, Any]) -> None:
        """Note what it is trained on now: what it came from stays in its history, and in the licence of its weights."""
        self.data = with_history(data, self.data)
        if self.licence is not None:
            self.licence = joined([self.licence, data.get("licence")])

    def configure_metrics(self, prefix: str, names: Iterable[str]) -> MetricCollection:
        """Per-image metrics by their plain names, and Dice and IoU over the pooled dataset."""
        task: dict[str, Any] = {"num_classes": self.num_classes, "multilabel": self.multilabel}
        metrics: dict[str, Metric | MetricCollection] = {name: metric_class(name)(**task) for name in names}
        metrics |= {f"dataset_{name}": metric_class(name)(**task, aggregation="dataset") for name in ("dice", "iou")}
        return MetricCollection(metrics, prefix=prefix, compute_groups=False).to(self.device)

    # ---- training

    def on_fit_start(self) -> None:
        """Train mode (Lightning keeps the eval mode that a loaded checkpoint comes in), loss on the device.

        What somebody has put into eval mode stays there: in a model in train mode every submodule, and in one that was
        loaded, where all are in eval mode, those whose parameters ask for no gradient.
        """
        if not self.training:
            held = [module for module in self.modules() if is_held(module)]
            self.train()
            for module in held:
                module.eval()
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
        """Return the loss of one batch."""
        check_batch(batch, LABELLED)
        loss = self.compute_loss(self(batch["image"]), batch["label"])
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["image"]))
        return loss

    def compute_loss(self, outputs: Tensor | list[Tensor], label: Tensor) -> Tensor:
        """Return the loss of one output, or of all outputs of deep supervision."""
        if isinstance(outputs, Tensor):
            return self._loss[0](outputs, label)
        return deep_supervision_loss(self._loss[0], outputs, label)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """End a training that diverges: where a loss is not finite, the weights may not be either.

        Raises:
            Diverged: they are not.
        """
        self._watch.add(self.trainer.global_step, outputs)
        alone = self.device.type == "cpu" and self.trainer.world_size == 1  # no look has to wait
        if alone or self.trainer.is_last_batch or (batch_idx + 1) % LOOK == 0:
            step = self._watch.first_not_finite()
            if self.trainer.strategy.reduce_boolean_decision(step is not None, all=False):
                refuse_divergence(self.state_dict(), self.trainer, step)
                rank_zero_warn(
                    f"a loss of epoch {self.trainer.current_epoch} was not finite, and the weights still are, so the "
                    f"training goes on; if that happens again, {AGAINST_DIVERGENCE}"
                )

    def on_train_epoch_end(self) -> None:
        """Look at the weights themselves, buffers included, of which a loss need not tell."""
        refuse_divergence(self.state_dict(), self.trainer)

    # ---- evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Loss and per-image scores at the training size; of volumes, over the whole volume.

        Returns:
            The masks, for callbacks.
        """
        check_batch(batch, LABELLED)
        image, label = batch["image"], batch["label"]
        if self.preprocessing.patch_size is not None:  # too large for one piece
            probabilities = predict_probabilities(self, image).to(label.device)
            logits = self.logits_of(probabilities)
        else:
            logits = self(image)
            probabilities = self.activate(logits)
        self.log("val/loss", self.compute_loss(logits, label), batch_size=len(image), sync_dist=True)
        mask = self.mask(probabilities)
        self.val_metrics.update(mask, label)
        return {"mask": mask}

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log_dict(self.val_metrics.compute(), prog_bar=True)
        self.val_metrics.reset()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Scores at the image's own resolution (``test/``) and at the network's (``test_resized/``)."""
        check_batch(batch, LABELLED)
        probabilities = predict_probabilities(self, batch["image"], tta=self.test_tta)
        refuse_nan(probabilities)
        label = batch["label"]
        # mm between voxels, for distances; volumes come one at a time, and images have none
        spacing = batch["spacing"][0] if "spacing" in batch else None
        geometry = batch["geometry"][0] if "geometry" in batch else None
        own_spacing = None if geometry is None else geometry.spacing
        resized = []
        for image, identifier, one, original, grid in zip(
            batch["image"], self.identifiers(batch), probabilities, own_labels(batch), own_grids(batch), strict=True
        ):
            target, restored = original[None].to(self.device), self.preprocessing.restore(one[None], grid)
            mask = finished(self, restored, geometry).to(self.device)
            resized.append(finished(self, one[None], geometry, scale=restored.numel() / one.numel()))
            self.test_metrics.update(mask, target, spacing=own_spacing)
            scores = image_scores(
                mask, target, self.num_classes, self.multilabel, self.metric_names, spacing=own_spacing
            )
            self._image_rows.append({"id": identifier, **scores[0]})
            if self._judge is not None:
                truth = original.cpu().numpy()
                self._image_rows[-1] |= self._judge.scores(image[None], grid, restored, mask, truth)
        self.test_resized_metrics.update(torch.cat(resized).to(label.device), label, spacing=spacing)

    def identifiers(self, batch: Batch) -> Sequence[Any]:
        """Return the images' names, or their places in a dataset that has none (processes take turns)."""
        first, rank, processes = len(self._image_rows), self.trainer.global_rank, self.trainer.world_size
        return batch.get("id", [(first + i) * processes + rank for i in range(len(batch["image"]))])

    def on_test_epoch_end(self) -> None:
        """Log the scores and write one row an image to ``test_per_image.csv`` in the Trainer's folder."""
        self.log_dict(self.test_metrics.compute() | self.class_scores(self.test_metrics))
        self.log_dict(self.test_resized_metrics.compute())
        self.test_metrics.reset()
        self.test_resized_metrics.reset()
        rows, self._image_rows = [row for part in of_processes(self.trainer, self._image_rows) for row in part], []
        self.tested_images, self.verdict = len(rows), Verdict()
        folder = Path(self.trainer.default_root_dir)
        if self.trainer.is_global_zero and rows:
            write_image_scores(folder / "test_per_image.csv", sorted(rows, key=lambda row: row["id"]))
        if self._judge is not None:
            self._judge.curves = sum(of_processes(self.trainer, self._judge.curves), Curves())
            self.verdict = self._judge.verdict(rows)
            if self.trainer.is_global_zero:
                self._judge.write(folder)

    def class_scores(self, metrics: MetricCollection) -> dict[str, Tensor]:
        """Each per-image metric of each class, as ``test/dice_2``: 2 is the mask value (multi-label: the channel)."""
        scores = {name: cast(SegmentationMetric, metrics[name]).per_class() for name in self.metric_names}
        return {
            f"{metrics.prefix}{name}_{number}": score
            for name, of_classes in scores.items()
            if len(of_classes) > 1
            for number, score in enumerate(of_classes, start=self.task.first_foreground)
        }

    def predict_step(self, batch: Batch, batch_idx: int) -> "list[Segmentation]":
        """Return the segmentation of every image, on its own grid where the batch says how large that is."""
        check_batch(batch, ("image",))
        probabilities = predict_probabilities(self, batch["image"]).float()
        refuse_nan(probabilities)
        geometries = batch.get("geometry", [None] * len(probabilities))
        found = []
        for one, grid, geometry in zip(probabilities, own_grids(batch), geometries, strict=True):
            restored = self.preprocessing.restore(one[None], grid)
            mask = finished(self, restored, geometry)[0].cpu().numpy()
            known = {"geometry": geometry, "region_values": self.task.region_values}
            shown = given_out(self, restored)[0].cpu().numpy()
            found.append(Segmentation(mask, shown, self.class_names, **known))
        return found

    # ---- Lightning's own files

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the input contract beside the weights in Lightning's own checkpoints, and no weights that diverged.

        Raises:
            Diverged: the file of before stays.
        """
        if self._trainer is not None:
            for name in ("state_dict", "current_model_state"):  # the latter where the former are averages
                refuse_divergence(checkpoint.get(name, {}), self._trainer)
        checkpoint["segzoo"] = Learned.of(self).entries

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what :meth:`on_save_checkpoint` kept; a training that goes on has its contract from its data.

        Raises:
            SegzooError: the weights are not finite, or it would go on with other images than it started with.
        """
        require_finite(
            checkpoint.get("state_dict", {}), getattr(self._trainer, "ckpt_path", None) or "Lightning's file"
        )
        contract = checkpoint.get("segzoo", {})
        if not contract:
            return
        if self.knows_its_data and self.trainer.state.fn == "fit":
            if split_hashes(Learned(contract).data) != split_hashes(self.data):
                raise SegzooError(OTHER_IMAGES)
            return
        self.take_back(contract)

    def take_back(self, contract: dict[str, Any]) -> None:
        """Take the input contract, classes and provenance that :meth:`on_save_checkpoint` kept."""
        own = {"licence": self.licence}  # files of old say no licence
        Learned({**own, **contract} if isinstance(contract, dict) else contract).give_to(self)


def of_processes(trainer: Trainer, value: Any) -> list[Any]:
    """Return what all processes have of something, in each of them."""
    if trainer.world_size == 1:
        return [value]
    gathered = [None] * trainer.world_size
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def is_held(module: nn.Module) -> bool:
    """Return whether a module stands in eval mode with parameters, and none of them asks for a gradient."""
    asking = [parameter.requires_grad for parameter in module.parameters()]
    return not module.training and bool(asking) and not any(asking)


def refuse_divergence(state: Mapping[str, Any], trainer: Trainer, step: int | None = None) -> None:
    """End a training whose weights are not finite, in all of its processes.

    Args:
        state: the weights, buffers included.
        trainer: says where the training is.
        step: whose loss was the first that was not finite; None where that is not known.

    Raises:
        Diverged: saying when, and what to try.
    """
    found = attempt(require_finite, state, "the network")
    if trainer.strategy.reduce_boolean_decision(found is not None, all=False):
        raise Diverged(
            f"the training diverged in epoch {trainer.current_epoch}, step {step or trainer.global_step}: its weights "
            f"are not finite any more, and what it kept before stays as it is; {AGAINST_DIVERGENCE}"
        ) from found
