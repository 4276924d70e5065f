"""Task of a model: what its classes are, and what its logits and masks mean.

Everything that depends on "binary, multi-class or multi-label?" is asked here. Arrays are used by their own methods
alone, so that a mask can be taken of NumPy's without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral  # NumPy's too
from typing import Any, Self

from segzoo.errors import SegzooError

MOST_LABEL = 2**16 - 1  # value in a mask's file


@dataclass(frozen=True)
class Task:
    """Number and kind of the classes.

    Args:
        num_classes: channels of the logits; 1 is binary (sigmoid), more is multi-class (softmax, class 0 the
            background) unless ``multilabel``.
        multilabel: every class is a mask of its own (sigmoid a class); they may overlap.
        region_values: the whole number that each mask of a multi-label task is written as, all into one file, each over
            those before it (nnU-Net's ``regions_class_order``); none: each mask has a file of its own.

    Raises:
        SegzooError: a number or a word that is not one, or no value for each mask.

    Example:
        >>> from segzoo.tasks import Task
        >>> Task(num_classes=3).default_class_names()
        ('background', 'class 1', 'class 2')
    """

    num_classes: int = 1
    multilabel: bool = False
    region_values: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        require_count("num_classes", self.num_classes)
        if not isinstance(self.multilabel, bool):  # "no" would count as yes
            raise SegzooError(f"multilabel must be True or False, not {self.multilabel!r}")
        values = self.region_values
        if values and not (self.multilabel and len(values) == self.num_classes and all(map(is_label, values))):
            raise SegzooError(
                f"region_values must be a whole number from 1 to {MOST_LABEL} for each class of a multi-label model, "
                f"not {list(values)} for {self.num_classes}"
            )

    @classmethod
    def of_classes(cls, class_names: Sequence[str], multilabel: bool) -> Self:
        """Return the task of data: two classes of which one is the background are binary."""
        return cls(1 if len(class_names) == 2 and not multilabel else len(class_names), multilabel)

    # ---- what the classes are

    @property
    def independent(self) -> bool:
        """True where each channel is decided on its own (by a sigmoid)."""
        return self.multilabel or self.num_classes == 1

    @property
    def named_classes(self) -> int:
        """Number of names: one for every value of a mask or, in multi-label, for every channel."""
        return 2 if self.num_classes == 1 and not self.multilabel else self.num_classes

    @property
    def first_foreground(self) -> int:
        """Lowest number of a class that is scored: the background of a mask is not."""
        return 0 if self.multilabel else 1

    def default_class_names(self) -> tuple[str, ...]:
        """Return names for classes that nobody has named yet."""
        numbered = tuple(f"class {index}" for index in range(self.first_foreground, self.named_classes))
        return numbered if self.multilabel else ("background", *numbered)

    def foreground(self, class_names: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the classes that are scored and drawn."""
        return tuple(class_names[self.first_foreground :])

    def mask_names(self, class_names: Sequence[str]) -> list[str] | None:
        """Return the names of the files that a mask becomes: one a class in multi-label, else None, for one file."""
        return list(class_names) if self.multilabel and not self.region_values else None

    def fits(self, class_names: Any) -> bool:
        """Return whether these are names for all classes: a list of as many words."""
        words = isinstance(class_names, list | tuple) and all(isinstance(name, str) for name in class_names)
        return words and len(class_names) == self.named_classes

    # ---- what logits and masks mean

    def activate(self, logits: Any) -> Any:
        """Return probabilities of logits, tensors [B, K, *S]."""
        return logits.sigmoid() if self.independent else logits.softmax(dim=1)

    def tempered(self, probabilities: Any, temperature: float) -> Any:
        """Return what `activate` makes of the logits of probabilities, divided by a temperature.

        Args:
            probabilities: tensors or arrays [B, K, *S].
            temperature: above 0.
        """
        given = probabilities.clip(0, 1)  # rounding may have left more
        found = given ** (1 / temperature)
        if self.independent:
            return found / (found + (1 - given) ** (1 / temperature))
        return found / found.sum(axis=1, keepdims=True)

    def logits_of(self, probabilities: Any, least: float) -> Any:
        """Return logits that `activate` turns into these probabilities, tensors [B, K, *S].

        Args:
            probabilities: of a stitched volume, for the loss.
            least: probability to take for 0 in multi-class, whose logarithm is finite.
        """
        return probabilities.logit(eps=1e-6) if self.independent else probabilities.clamp(min=least).log()

    def mask(self, probabilities: Any, thresholds: Any = None) -> Any:
        """Return what is most likely, of tensors or arrays [B, K, *S].

        Args:
            probabilities: of each class.
            thresholds: one for each channel [K], a tensor or array as the probabilities are; None has all at 0.5.

        Returns:
            [B, *S]: class numbers, or True where a binary class is; in multi-label True or False [B, K, *S].
        """
        if thresholds is not None:
            least = thresholds.reshape(1, -1, *[1] * (probabilities.ndim - 2))
            if not self.independent:
                return (probabilities * ((1 - least) / least)).argmax(axis=1)
            found = probabilities > least
            return found if self.multilabel else found[:, 0]
        if self.multilabel:
            return probabilities > 0.5
        return probabilities[:, 0] > 0.5 if self.num_classes == 1 else probabilities.argmax(axis=1)


def is_label(value: Any) -> bool:
    """Return whether a value can mark a class in a mask's file."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 < int(value) <= MOST_LABEL


def require_count(name: str, number: Any) -> None:
    """Refuse what is not a number of channels or classes.

    Raises:
        SegzooError: it is not a whole number, or below 1.
    """
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise SegzooError(f"{name} must be a whole number, not {number!r}")
    if number < 1:
        raise SegzooError(f"{name} ({number}) must be at least 1")
