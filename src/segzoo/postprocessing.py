"""Description of what is done to a prediction afterwards, as a checkpoint's config.json holds it.

It belongs to the contract: chosen once on validation images (``segzoo tune``), then applied wherever the checkpoint
predicts. What applies it is `segzoo.prediction.postprocess`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from segzoo.errors import SegzooError
from segzoo.tasks import Task

EVEN = 0.5  # the threshold that leaves a class as it is
THRESHOLDS, SIZES, SCORES = (0.001, 0.999), (0, 1e9), (-1e9, 1e9)  # least and most
TEMPERATURES = (0.1, 10.0)  # likewise: beyond them float32 ends
DOUBTS = {  # scores of what to look at, and what they are
    "entropy": "mean entropy within 10 pixels of a boundary",
    "flips": "what the Dice of mirrored copies' masks lacks of 1",
    "members": "what the Dice of the members' masks lacks of 1",
}
UNITS = {"pixels": (2, 3), "mm2": (2,), "mm3": (3,)}  # of sizes: the dimensions of the models that know them


@dataclass(frozen=True)
class Cleaning:
    """Post-processing of one class, in the order in which it is done.

    Attributes:
        threshold: probability above which a class that is decided on its own is there. Of several that exclude each
            other, each class's probability is multiplied by (1 - threshold) / threshold before the largest is taken:
            for two classes that is the same.
        filled_holes: background that the class encloses becomes part of it.
        smallest_part: connected parts that are smaller are taken away; 0 takes none.
        unit: of that size: "pixels" (of a volume: voxels), "mm2" or "mm3".
        largest_component: only the largest connected part is kept.

    Raises:
        SegzooError: a value is not of its kind, or out of range.

    Example:
        >>> from segzoo.postprocessing import Cleaning
        >>> print(Cleaning(threshold=0.4, smallest_part=20))
        threshold 0.4, no part below 20 pixels
    """

    threshold: float = EVEN
    filled_holes: bool = False
    smallest_part: float = 0
    unit: str = "pixels"
    largest_component: bool = False

    def __post_init__(self) -> None:
        require_number("threshold", self.threshold, *THRESHOLDS)
        require_number("smallest_part", self.smallest_part, *SIZES)
        if self.unit not in list(UNITS):
            raise SegzooError(f"unit must be one of {', '.join(UNITS)}, not {self.unit!r}.")
        for name in ("filled_holes", "largest_component"):
            if not isinstance(getattr(self, name), bool):
                raise SegzooError(f"{name} must be true or false, not {getattr(self, name)!r}.")

    def __bool__(self) -> bool:
        return self != Cleaning(unit=self.unit)

    @property
    def cleans(self) -> bool:
        """True where it does more than to choose a threshold."""
        return self.filled_holes or self.smallest_part > 0 or self.largest_component

    def __str__(self) -> str:
        """Return what is done, in words."""
        said = [f"threshold {self.threshold:g}"] if self.threshold != EVEN else []
        said += ["holes filled"] if self.filled_holes else []
        said += [f"no part below {self.smallest_part:g} {self.unit}"] if self.smallest_part else []
        said += ["largest component only"] if self.largest_component else []
        return ", ".join(said) or "as it is"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.json: of what it does, no more."""
        unit = {"unit"} if self.smallest_part else set()
        done = {one.name for one in fields(self) if getattr(self, one.name) != one.default}
        return {name: value for name, value in asdict(self).items() if name in (done - {"unit"}) | unit}


@dataclass(frozen=True)
class Postprocessing:
    """Post-processing of a checkpoint; none is false.

    Masks are made of the probabilities before the temperature, so that it changes none of them.

    Attributes:
        classes: what is done to a class, by its name; nothing to one that is not here.
        tuned: how that was chosen, in plain values: on what ("data", "images"), and the scores "before" and "after"
            and of each "doubt".
        temperature: what the logits of the probabilities that are given out are divided by: above 1 they are less sure.
        doubt: score that says which predictions to look at first, of `DOUBTS`; "" where none was chosen.

    Raises:
        SegzooError: the temperature is out of range, or the score is none.

    Example:
        >>> from segzoo.postprocessing import Cleaning, Postprocessing
        >>> print(Postprocessing({"lesion": Cleaning(filled_holes=True)}, temperature=1.5))
        lesion: holes filled; temperature 1.5
    """

    classes: Mapping[str, Cleaning] = field(default_factory=dict)
    tuned: Mapping[str, Any] = field(default_factory=dict)
    temperature: float = 1
    doubt: str = ""

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature, *TEMPERATURES)
        if self.doubt not in ("", *DOUBTS):
            raise SegzooError(f"doubt must be one of {', '.join(DOUBTS)}, not {self.doubt!r}.")

    def __bool__(self) -> bool:
        return self.changes_masks or self.changes_probabilities or self.doubt != ""

    def __str__(self) -> str:
        """Return what is done, in words."""
        said = [f"{name}: {cleaning}" for name, cleaning in self.classes.items() if cleaning]
        said += [f"temperature {self.temperature:g}"] if self.changes_probabilities else []
        said += [f"doubt by {self.doubt}"] if self.doubt else []
        return "; ".join(said)

    @property
    def changes_masks(self) -> bool:
        """True where a mask may be another one than without."""
        return any(self.classes.values())

    @property
    def changes_probabilities(self) -> bool:
        """True where probabilities are others than without."""
        return self.temperature != 1

    @property
    def of_mask(self) -> "Postprocessing":
        """Part that makes the mask."""
        return Postprocessing(self.classes)

    def of(self, class_names: Iterable[str]) -> list[Cleaning]:
        """Return what is done to each class, in their order."""
        return [self.classes.get(name, Cleaning()) for name in class_names]

    def thresholds(self, task: Task, class_names: Sequence[str]) -> list[float] | None:
        """Return a threshold for each channel of the probabilities; None where all are even.

        Args:
            task: number and kind of the classes.
            class_names: of the mask's values, or of its channels.
        """
        found = [cleaning.threshold for cleaning in self.of(class_names)]
        channels = found[-task.num_classes :]  # a binary network has none for the background
        return None if set(channels) == {EVEN} else channels

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.json."""
        stated: dict[str, Any] = {
            "classes": {name: cleaning.to_dict() for name, cleaning in self.classes.items() if cleaning}
        }
        stated |= {"temperature": self.temperature} if self.changes_probabilities else {}
        stated |= {"doubt": self.doubt} if self.doubt else {}
        return stated | ({"tuned": dict(self.tuned)} if self.tuned else {})

    @classmethod
    def from_dict(cls, stored: Any, task: Task, class_names: Sequence[str], spatial_dims: int) -> Self:
        """Read what `to_dict` wrote.

        Args:
            stored: the JSON object.
            task: number and kind of the classes.
            class_names: of the mask's values, or of its channels.
            spatial_dims: of the network.

        Raises:
            SegzooError: it holds what this version does not know, so that its masks would be others, or what does not
                fit the model.
        """
        known = [one.name for one in fields(cls)]
        entries = object_of("its post-processing", stored, known)
        scored = task.foreground(class_names)
        classes = {
            name: cleaning_of(name, values, spatial_dims)
            for name, values in object_of("its post-processing's classes", entries.get("classes", {}), scored).items()
        }
        tuned = entries.get("tuned", {})
        if not isinstance(tuned, dict):
            raise SegzooError(f"its post-processing's tuned must be an object, not {tuned!r}.")
        for part in ("before", "after", "doubt"):
            scores = object_of(f"the scores {part}", tuned.get(part, {}))
            for name, score in scores.items():
                require_number(f"{name} {part}", score, *SCORES)
        return cls(classes, tuned, entries.get("temperature", 1), entries.get("doubt", ""))


def cleaning_of(name: str, stored: Any, spatial_dims: int) -> Cleaning:
    """Return what is done to a class, of its JSON object.

    Raises:
        SegzooError: it is none, or has a unit that the model's input does not have.
    """
    values = object_of(f"the post-processing of {name}", stored, [one.name for one in fields(Cleaning)])
    try:
        found = Cleaning(**values)
    except SegzooError as error:
        raise SegzooError(f"of the class {name}, {error}") from error
    if spatial_dims not in UNITS[found.unit]:
        raise SegzooError(f"the class {name} has a size in {found.unit}, and the model is of {spatial_dims}D inputs.")
    return found


def require_number(name: str, value: Any, least: float, most: float) -> None:
    """Refuse what is no number from ``least`` to ``most``.

    Raises:
        SegzooError: saying so.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:  # NaN included
        raise SegzooError(f"{name} must be a number from {least:g} to {most:g}, not {value!r}.")


def object_of(what: str, stored: Any, known: Iterable[str] | None = None) -> dict[str, Any]:
    """Return a JSON object.

    Args:
        what: it is, for the sentence.
        stored: value.
        known: names that it may have; None takes all.

    Raises:
        SegzooError: it is none, or has others.
    """
    if not isinstance(stored, dict):
        raise SegzooError(f"{what} must be an object, not {str(stored)[:100]!r}.")
    if known is not None and (unknown := sorted(set(stored) - set(known))):
        raise SegzooError(f"{what} has the unknown entry {unknown[0]!r}; known are {', '.join(known)}.")
    return stored
