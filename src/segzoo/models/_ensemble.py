"""Ensemble: networks of the same classes and input as one, which gives the mean of their probabilities."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from segzoo.checkpoints.licences import joined
from segzoo.checkpoints.members import NOT_TRAINED, common, require_alike
from segzoo.checkpoints.provenance import may_share_images, other_splits, parts_of, same_split
from segzoo.errors import SegzooError
from segzoo.export.write import Exported
from segzoo.module import SegmentationModule
from segzoo.network import SegmentationNetwork
from segzoo.training.batches import Batch


class Ensemble(SegmentationModule):
    """Mean of networks: what they find is averaged as probabilities, so that each counts alike, however sure it is.

    It is used as any model is, but for training. Its logits are those of the mean, ``logit(mean(sigmoid(z)))`` or
    ``log(mean(softmax(z)))``, computed so that no probability near 0 or 1 is rounded away. A checkpoint that holds
    several members is loaded as one, see :func:`segzoo.from_pretrained`.

    A test on images that members were trained on scores each image by the member that has neither learned from it nor
    been chosen by it, where the folds of that data tell which this is, and is refused where they do not.

    Args:
        members: at least two models of the same classes and input contract; of one architecture, with the same
            arguments, where the ensemble is to be saved.

    Raises:
        SegzooError: they are too few, or differ in their classes or in what they take.

    Example:
        >>> import numpy as np, segzoo
        >>> model = segzoo.Ensemble([segzoo.create_model("cmunext_s") for _ in range(3)])
        >>> model.predict(np.zeros((40, 60, 3), np.uint8)).mask.shape
        (40, 60)
    """

    def __init__(self, members: Sequence[SegmentationNetwork]) -> None:
        members = list(members)
        require_alike(
            [
                (f"member {number}", one.task, one.class_names, one.preprocessing.to_dict())
                for number, one in enumerate(members, start=1)
            ]
        )
        first = members[0]
        super().__init__(first.in_channels, first.num_classes, first.multilabel)
        self.networks = nn.ModuleList(members)
        self.spatial_dims = first.spatial_dims
        self.task, self.preprocessing, self.class_names = first.task, first.preprocessing, first.class_names
        made = [(one.model_name, one.arguments) for one in members]
        if made.count(made[0]) == len(made) and not any(one.members for one in members):
            self.model_name, self.arguments = first.model_name, first.arguments
        self.data = common([one.data for one in members])
        self.licence = joined(one.licence for one in members)
        self._scored_by: dict[str, list[SegmentationNetwork]] = {}
        self._scoring: list[SegmentationNetwork] = []  # those whose mean is computed, where it is not of all
        self.eval()

    @property
    def members(self) -> list[SegmentationNetwork]:  # type: ignore[override]
        """Networks whose mean this one is."""
        return list(self.networks)  # type: ignore[arg-type]

    @property
    def stride(self) -> int | tuple[int, ...]:  # type: ignore[override]
        """Sides that all members can take are multiples of this.

        Raises:
            SegzooError: members have others than each other, so that one graph cannot hold them.
        """
        strides = {member.stride for member in self.members}
        if len(strides) > 1:
            raise SegzooError(
                f"the members take multiples of {' and of '.join(map(str, strides))} pixels, so one graph cannot hold "
                "them; export each member by itself"
            )
        return strides.pop()

    # ---- the network

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes, *S] of the members' mean, of images [B, in_channels, *S] of any size."""
        return mean_logits([member(x) for member in self._scoring or self.members], self.task.independent)

    def compute_logits(self, x: Tensor) -> Tensor:
        """Logits [B, K, *S] of the members' mean for x [B, C, *S], sides multiples of ``stride``."""
        return mean_logits([member.compute_logits(x) for member in self.members], self.task.independent)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: an ensemble is not trained."""
        return super().train(False)

    def fuse(self) -> None:
        """Fuse every member, in place."""
        for member in self.members:
            member.fuse()

    @property
    def is_deployable(self) -> bool:
        """True where every member is."""
        return all(member.is_deployable for member in self.members)

    def export(self, path: str | Path, **options: Any) -> Exported:
        """Write the mean as one file; see :func:`segzoo.export.write.export`.

        Raises:
            SegzooError: as there, or the members take sizes that one graph cannot have.
        """
        assert self.stride  # which is refused here rather than after a minute
        return super().export(path, **options)

    def default_optimizer(self, parameters: Any) -> NoReturn:
        """Refuse: an ensemble is not trained."""
        raise SegzooError(NOT_TRAINED)

    def default_lr_scheduler(self, optimizer: Any) -> NoReturn:
        """Refuse: an ensemble is not trained."""
        raise SegzooError(NOT_TRAINED)

    # ---- the test

    def setup(self, stage: str) -> None:
        """Refuse to be trained, and find out who may score which image.

        Raises:
            SegzooError: it is to be trained, or scored on images that members were trained on.
        """
        if stage == "fit":
            raise SegzooError(NOT_TRAINED)
        super().setup(stage)
        self._scored_by = {}
        if stage in ("validate", "test") and self.knows_its_data:
            datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
            self._scored_by = scored_by(self.members, datamodule, stage)
            if self._scored_by:
                datamodule.test_on(list(self._scored_by))
                rank_zero_info(
                    f"segzoo: members were trained on these images, so each of {len(self._scored_by)} is scored by the "
                    "one that was neither trained nor chosen by it (out of fold), and the mean of all is not scored"
                )

    def teardown(self, stage: str) -> None:
        """Lightning's hook: the data has the test part of its own split again."""
        if self._scored_by:
            self.trainer.datamodule.test_on(None)  # type: ignore[attr-defined]
            self._scored_by = {}

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the mean or, out of fold, each image by those who may."""
        if not self._scored_by:
            super().test_step(batch, batch_idx)
            return
        try:
            for place, identifier in enumerate(batch["id"]):
                self._scoring = self._scored_by[identifier]
                super().test_step({key: values[place : place + 1] for key, values in batch.items()}, batch_idx)
        finally:
            self._scoring = []


def mean_logits(logits: Sequence[Any], independent: bool) -> Tensor:
    """Return the logits of the mean of probabilities.

    Args:
        logits: of each network, [B, K, *S].
        independent: whether each channel is one of its own (sigmoid), rather than one of several (softmax).
    """
    stacked = torch.stack([one if one.dtype == torch.float64 else one.float() for one in logits])
    if independent:
        return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
    return F.log_softmax(stacked, dim=2).logsumexp(0) - math.log(len(logits))


def scored_by(members: Sequence[SegmentationNetwork], data: Any, stage: str) -> dict[str, list[SegmentationNetwork]]:
    """Return for each image that is to be tested the members that may score it; nothing where all may.

    Args:
        members: of the ensemble.
        data: DataModule.
        stage: Lightning's, "validate" or "test".

    Raises:
        SegzooError: members were trained on this data, and its folds do not tell which of them has seen what.
    """
    tested = data.describe()
    seen = [part for member in members for part in parts_of(member.data)]
    if not any(may_share_images(part, known) for part in parts_of(tested) for known in seen):
        return {}
    if all(same_split(tested, member.data) for member in members):
        return {}
    found: dict[str, list[SegmentationNetwork]] = {}
    known: list[SegmentationNetwork] = []
    for fold in getattr(data, "folds", list)():
        described = fold.describe()
        own = [
            member
            for member in members
            if same_split(described, member.data) and not other_splits(described, member.data.get("pretrained_on", []))
        ]
        known += own
        if own:
            found |= dict.fromkeys(fold.split_ids["test"], own)
    if stage == "validate" or len(known) < len(members):
        advice = "test it on other images, or split these as its members' were (--data.split, --data.seed)"
        if len(known) == len(members):
            advice = "segzoo test scores its members, each on what it was held out from"
        raise SegzooError(
            f"members of this ensemble were trained on images of {tested['dataset']} that others of them were held out "
            f"from, so its mean has no honest score there; {advice}"
        )
    return found
