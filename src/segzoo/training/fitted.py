"""Losses of torch and MONAI as they are: each gets the label that it wants, and pixels without one count nowhere.

The zoo's own form is logits [B, K, *S] with class numbers [B, *S] or, in multi-label, floats [B, K, *S]; negative is
ignored. Torch and MONAI want other shapes and types, one-hot or not, after a sigmoid, a softmax or neither, and most of
their losses know nothing of ignored pixels. What of them is in the table below is fitted to a model's task, and the
rest is refused by name. Anybody else's loss is called in the zoo's own form.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from segzoo.errors import SegzooError
from segzoo.tasks import Task
from segzoo.training.losses import check_label, mean_where, weight_of

BINARY, CLASSES, LABELS = "binary", "multi-class", "multi-label"
ALL = (BINARY, CLASSES, LABELS)
WEIGHTS = ("weight", "pos_weight", "class_weight")  # of classes, as losses call them
SIDE = 12  # pixels of the square that a loss is tried on


@dataclass(frozen=True)
class Wanted:
    """Form in which a loss wants its arguments.

    Args:
        tasks: for which it is defined.
        numbers: in multi-class, class numbers rather than one channel a class.
        probabilities: rather than logits, and without a flag that tells it to make them of logits.
        by_place: where a pixel lies matters, as for distances; else pixels can be left out.
        pooled: it averages over all pixels of a batch, rather than over images.
    """

    tasks: tuple[str, ...] = ALL
    numbers: bool = False
    probabilities: bool = False
    by_place: bool = False
    pooled: bool = False


BY_PLACE = Wanted(probabilities=True, by_place=True)
KNOWN = {
    "torch.CrossEntropyLoss": Wanted((CLASSES,), numbers=True, pooled=True),
    "torch.BCEWithLogitsLoss": Wanted((BINARY, LABELS)),
    "monai.DiceLoss": Wanted(),
    "monai.DiceCELoss": Wanted((BINARY, CLASSES), numbers=True),  # of several channels it takes a softmax
    "monai.DiceFocalLoss": Wanted(),
    "monai.FocalLoss": Wanted(pooled=True),
    "monai.GeneralizedDiceLoss": Wanted(),
    "monai.GeneralizedDiceFocalLoss": Wanted(),
    "monai.GeneralizedWassersteinDiceLoss": Wanted((CLASSES,), numbers=True),
    "monai.TverskyLoss": Wanted(),
    "monai.MCCLoss": Wanted(),
    "monai.AsymmetricUnifiedFocalLoss": Wanted((BINARY,), probabilities=True),
    "monai.BoundaryLoss": BY_PLACE,
    "monai.HausdorffDTLoss": BY_PLACE,
    "monai.LogHausdorffDTLoss": BY_PLACE,
    "monai.SoftclDiceLoss": BY_PLACE,
    "monai.SoftDiceclDiceLoss": BY_PLACE,
}
INSTEAD = {
    "torch.BCELoss": "it takes probabilities, and BCEWithLogitsLoss is the same for logits",
    "torch.NLLLoss": "it takes log-probabilities, and CrossEntropyLoss is the same for logits",
    "monai.AUCMLoss": "it has parameters of its own, which nothing would train",
    "monai.DeepSupervisionLoss": "a model with deep supervision sees to that itself; give the loss that is inside",
    "monai.MaskedDiceLoss": "pixels without a label are left out of any loss here; give DiceLoss",
    "monai.MaskedLoss": "pixels without a label are left out of any loss here; give the loss that is inside",
    "monai.NACLLoss": "it compares each pixel's logits with its neighbours' labels, so that none can be left out",
}


def fitted(loss: nn.Module, task: Task) -> nn.Module:
    """Return a loss that takes what the zoo's models give: one of torch or MONAI fitted, any other as it is.

    Args:
        loss: of torch, of MONAI, or somebody's own.
        task: what the classes are.

    Raises:
        SegzooError: it is not defined for this task, or nothing here can be given to it.

    Example:
        >>> import torch
        >>> from segzoo.tasks import Task
        >>> from segzoo.training.fitted import fitted
        >>> loss = fitted(torch.nn.CrossEntropyLoss(), Task(num_classes=3))
        >>> round(loss(torch.zeros(1, 3, 2, 2), torch.tensor([[[0, 2], [1, -1]]])).item(), 4)
        1.0986
    """
    name = name_of(loss)
    if name is None or isinstance(loss, FittedLoss):
        return loss
    require_known(name, task)
    made = FittedLoss(loss, KNOWN[name], name, task)
    made.try_out()
    return made


def name_of(loss: nn.Module) -> str | None:
    """Return what a loss is called in the table, by whose ``forward`` it has; None where that is somebody else's."""
    home = next((kind for kind in type(loss).__mro__ if "forward" in vars(kind)), nn.Module)
    if home.__module__ == "torch.nn.modules.loss":
        return f"torch.{home.__name__}"
    return f"monai.{home.__name__}" if home.__module__.startswith("monai.losses.") else None


def kind_of(task: Task) -> str:
    """Return the task in a word of the table."""
    return LABELS if task.multilabel else BINARY if task.num_classes == 1 else CLASSES


def require_known(name: str, task: Task) -> None:
    """Refuse a loss that cannot be given what it wants.

    Raises:
        SegzooError: saying why, or what there is instead.
    """
    package, _, short = name.partition(".")
    kind = kind_of(task)
    there = [one.partition(".")[2] for one, wanted in KNOWN.items() if one.startswith(package) and kind in wanted.tasks]
    takes = f"of {package}, a {kind} model takes {', '.join(there)}"
    if name not in KNOWN:
        raise SegzooError(f"{package}'s {short} cannot train a model here: {INSTEAD.get(name, takes)}")
    if kind not in KNOWN[name].tasks:
        raise SegzooError(
            f"{package}'s {short} is for {' and '.join(KNOWN[name].tasks)} models, and this one is {kind} "
            f"(num_classes={task.num_classes}, multilabel={task.multilabel}); {takes}"
        )


def activation_of(part: Any) -> Callable[[Tensor], Tensor]:
    """Return the activation that the flags of a loss of MONAI ask for."""
    if part.other_act is not None:
        chosen: Callable[[Tensor], Tensor] = part.other_act
        return chosen
    return torch.sigmoid if part.sigmoid else partial(torch.softmax, dim=1)


class FittedLoss(nn.Module):
    """Loss of torch or MONAI in the zoo's own form.

    Args:
        loss: is copied, and its flags set.
        wanted: the form that it wants.
        name: for sentences.
        task: what the classes are.

    Raises:
        SegzooError: its options contradict the task.
    """

    def __init__(self, loss: nn.Module, wanted: Wanted, name: str, task: Task) -> None:
        super().__init__()
        self.loss: Any = copy.deepcopy(loss)
        self.wanted, self.name, self.task = wanted, name, task
        self.elements = name == "torch.BCEWithLogitsLoss"
        parts = list(self.loss.modules())
        if any(getattr(part, "reduction", "mean") == "none" for part in parts):
            raise SegzooError(f"{self.said} with reduction 'none' is no number that could be lowered; leave that out")
        said = [getattr(part, flag, False) for part in parts for flag in ("softmax", "use_softmax")]
        if task.independent and any(said):
            raise SegzooError(f"{self.said}: softmax is for several classes that exclude each other; leave it out")
        self.activate: Callable[[Tensor], Tensor] = task.activate
        self.pooled = wanted.pooled or any(getattr(part, "batch", False) for part in parts)
        self.set_flags()
        self.weighed = any(getattr(part, key, None) is not None for part in parts for key in WEIGHTS)
        self.weights: Tensor | None
        self.register_buffer("weights", None)

    @property
    def said(self) -> str:
        """Name of the loss for sentences, such as "monai's DiceLoss"."""
        return self.name.replace(".", "'s ")

    def set_flags(self) -> None:
        """Tell the loss which form its arguments have; what says no activation gets that of the task."""
        numbers = self.wanted.numbers and not self.task.independent
        for part in self.loss.modules():
            if hasattr(part, "to_onehot_y"):
                part.to_onehot_y = numbers
            if hasattr(part, "include_background") and self.task.independent:
                part.include_background = True  # no channel is one
            if not hasattr(part, "other_act"):
                continue
            if not (part.sigmoid or part.softmax or part.other_act is not None):
                part.sigmoid, part.softmax = self.task.independent, not self.task.independent
            if self.wanted.probabilities:
                self.activate = activation_of(part)
                part.sigmoid, part.softmax, part.other_act = False, False, None

    def weigh(self, weights: Tensor) -> None:
        """Let rare classes count more, where the loss takes weights of classes.

        Args:
            weights: ``[K]``, of each class; of a sigmoid a channel ``[K, 2]``, of pixels without and with the class.

        Raises:
            SegzooError: it takes none, or was given some.
        """
        if self.weighed:
            raise SegzooError(f"{self.said} was given weights of its own; leave these or class_weights out")
        taken = self.elements
        if self.elements:
            self.weights = weights
        elif self.name == "monai.DiceCELoss" and self.task.independent:
            self.loss.binary_cross_entropy.pos_weight, taken = weights[0, 1:] / weights[0, :1], True
        elif not self.task.independent:
            for part in self.loss.modules():
                if isinstance(part, nn.CrossEntropyLoss):
                    part.weight, taken = weights, True
                elif hasattr(part, "class_weight"):
                    part.class_weight, taken = weights if part.include_background else weights[1:], True
        if not taken:
            raise SegzooError(
                f"{self.said} takes no weights of classes in a {kind_of(self.task)} model; leave class_weights out, or "
                "take segzoo's DiceCELoss"
            )

    def try_out(self) -> None:
        """Compute it once, of a made-up label: weights of another number of classes are known before the training.

        Raises:
            SegzooError: it fails, or is not finite.
        """
        classes = self.task.num_classes
        device = next((tensor.device for tensor in self.loss.buffers()), torch.device("cpu"))
        logits = torch.linspace(-1, 1, classes * SIDE * SIDE, device=device).reshape(1, classes, SIDE, SIDE)
        place = torch.arange(SIDE, device=device)[:, None] + torch.arange(SIDE, device=device)
        label = (place // 5 % self.task.named_classes)[None]
        if self.task.multilabel:
            label = (place // 5 % 2).float().expand_as(logits).clone()
        label[..., -1] = -1
        try:
            with torch.no_grad():
                found = self(logits, label)
        except SegzooError:
            raise
        except Exception as error:  # a list of weights of another length, and whatever else somebody may give
            raise SegzooError(
                f"{self.said} with these options fits no model of num_classes={classes}; give its weights one number a "
                "class, or leave them out"
            ) from error
        if found.numel() != 1 or not bool(found.isfinite().all()):
            raise SegzooError(f"{self.said} with these options is not one finite number; check them")

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss of one batch.

        Args:
            logits: ``[B, K, *S]``, any float type (half precision is raised to float32 first).
            label: ``[B, *S]`` integers, or ``[B, K, *S]`` floats for multi-label; negative = ignored.

        Raises:
            ValueError: The shapes do not fit, or (checked on CPU only) a label is beyond the classes.
        """
        check_label(logits, label)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        valid = (label if self.task.multilabel else label.unsqueeze(1)) >= 0
        if not bool(valid.any()):
            return 0 * logits.sum()
        if self.elements:
            return self.of_elements(logits, label, valid)
        if bool(valid.all()):
            return self.loss(self.input(logits), self.target(logits, label))
        if self.wanted.by_place:
            # a pixel where neither anything is nor was predicted adds no overlap and no error
            return self.loss(self.input(logits) * valid, self.target(logits, label.clamp(min=0)) * valid)
        return self.of_labelled(logits, label, valid)

    def input(self, logits: Tensor) -> Tensor:
        """Return logits, or the probabilities of a loss that wants these."""
        return self.activate(logits) if self.wanted.probabilities else logits

    def target(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return a label without ignored pixels in the form that the loss wants."""
        if self.task.multilabel:
            return label.to(logits.dtype)
        if self.task.num_classes == 1:
            return label.unsqueeze(1).to(logits.dtype)
        if self.wanted.numbers:
            return label.long() if self.name.startswith("torch") else label.unsqueeze(1).long()
        return torch.zeros_like(logits).scatter_(1, label.long().unsqueeze(1), 1.0)

    def of_elements(self, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Binary cross-entropy of the elements that have a label."""
        target = self.target(logits, label).clamp(min=0)
        options = {"weight": self.loss.weight, "pos_weight": self.loss.pos_weight}
        for key, given in options.items():
            if given is not None and given.ndim == 1:  # one a class, as torch's documentation says it
                options[key] = given.reshape(-1, *[1] * (logits.ndim - 2))
        found = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none", **options)
        if self.weights is not None:
            found = found * weight_of(self.weights, target)
        return (found * valid).sum() if self.loss.reduction == "sum" else mean_where(found, valid)

    def of_labelled(self, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        """Return a loss for which no place matters of the pixels that have a label, as if there were no others.

        Raises:
            SegzooError: classes of one pixel are ignored apart from each other.
        """
        kept = valid.all(1)
        if self.task.multilabel and bool((kept != valid.any(1)).any()):
            raise SegzooError(
                f"{self.said} cannot ignore some classes of a pixel and count others, as this label asks it to (-1); "
                "take segzoo's DiceCELoss or torch's BCEWithLogitsLoss"
            )
        marked = label if self.task.multilabel else label.unsqueeze(1)
        if self.pooled:
            return self.of_row(logits, marked, kept)
        images = [i for i in range(len(kept)) if bool(kept[i].any())]
        losses = torch.stack([self.of_row(logits[[i]], marked[[i]], kept[[i]]) for i in images])
        return losses.sum() if getattr(self.loss, "reduction", "mean") == "sum" else losses.mean()

    def of_row(self, logits: Tensor, marked: Tensor, kept: Tensor) -> Tensor:
        """Return the loss of the pixels that are kept, laid out as one image of one row.

        Args:
            logits: ``[B, K, *S]``.
            marked: label, ``[B, 1 or K, *S]``.
            kept: which pixels, ``[B, *S]``.
        """
        rest = [1] * (kept.ndim - 2)
        row, label = (x.movedim(1, 0)[:, kept].reshape(1, x.shape[1], -1, *rest) for x in (logits, marked))
        return self.loss(self.input(row), self.target(row, label if self.task.multilabel else label[:, 0]))
