"""Choice of a checkpoint's post-processing on validation images.

The rule: thresholds first, class by class over a grid, then, class by class, filled holes, the smallest part (a few
sizes, as shares of the median true part), and the largest component. Of the candidates for a step the one of the best
mean Dice is looked at, and taken only where its difference from what there is so far is above 0 with its whole 95 %
bootstrap interval, image by image, images of one group drawn together. Dice is the mean over the classes of an image,
at its own size.

Probabilities are computed once, and kept on disk; no more than one image's are in memory.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.segmentation import Segmentation
from segzoo.metrics.per_image import image_scores
from segzoo.metrics.statistics import interval
from segzoo.postprocessing import EVEN, Cleaning, Postprocessing
from segzoo.prediction.postprocess import Finishing, components
from segzoo.tasks import Task

GRID = (0.3, 0.35, 0.4, 0.45, 0.55, 0.6, 0.65, 0.7)  # of thresholds, beside the even one
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the median true part, as smallest parts
LEAST = 5  # groups of images, below which an interval says nothing
SLAB = 2**22  # probabilities that become a mask at once

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Image or volume to choose by, kept on disk.

    Attributes:
        group: images of one group are drawn together.
        probabilities: a .npy file, float32 [K, *S], on its own grid.
        label: likewise, int16 [*S] or [K, *S], negative where ignored.
        geometry: of a volume; None for an image.
    """

    group: str
    probabilities: Path
    label: Path
    geometry: Geometry | None


@dataclass(frozen=True)
class Trial:
    """Best candidate for a step, and what it changes.

    Attributes:
        name: of the class.
        step: what was tried: "threshold", "filled_holes", "smallest_part" or "largest_component".
        cleaning: of the class, with it.
        mean: of the differences in Dice.
        low: of their 95 % interval.
        high: likewise.
    """

    name: str
    step: str
    cleaning: Cleaning
    mean: float
    low: float
    high: float

    @property
    def taken(self) -> bool:
        """True where it helps by its interval."""
        return self.low > 0


@dataclass(frozen=True)
class Choice:
    """Post-processing that helps, and what was tried.

    Attributes:
        described: what was chosen; none where nothing helps.
        trials: all that was tried, in its order.
        before: mean Dice, and mean number of connected parts a class, without.
        after: the same with it.
    """

    described: Postprocessing
    trials: list[Trial]
    before: dict[str, float]
    after: dict[str, float]


def keep(folder: Path, number: int, group: str, found: Segmentation, label: npt.NDArray[np.int16]) -> Case:
    """Write what a case is chosen by.

    Args:
        folder: where to.
        number: of the case.
        group: of the image.
        found: its probabilities on its own grid.
        label: on the same grid.

    Raises:
        OSError: it cannot be written.
    """
    files = folder / f"{number}-probabilities.npy", folder / f"{number}-label.npy"
    np.save(files[0], np.asarray(found.probabilities, np.float32))
    np.save(files[1], label)
    return Case(group, *files, found.geometry)


class Tuner:
    """Search through post-processing for a model, by cases.

    Args:
        cases: of the validation part.
        task: number and kind of the classes.
        class_names: of the mask's values, or of its channels.
        spatial_dims: of the network.

    Raises:
        SegzooError: there are too few groups of images, or two classes have one name.
    """

    def __init__(self, cases: Sequence[Case], task: Task, class_names: Sequence[str], spatial_dims: int) -> None:
        self.cases, self.task, self.class_names, self.spatial_dims = cases, task, tuple(class_names), spatial_dims
        _, self.groups = np.unique([case.group for case in cases], return_inverse=True)
        if (count := len(set(self.groups))) < LEAST:
            raise SegzooError(
                f"{count} images to validate on, each group counted once, are too few to choose by: {LEAST} are the "
                "least; give more data, or split it otherwise"
            )
        if len(set(class_names)) < len(class_names):
            raise SegzooError(f"two of the classes {', '.join(class_names)} have one name; rename one of them")

    def choose(self) -> Choice:
        """Try one step after another; see the module's first lines for the rule."""
        chosen, trials = Postprocessing(), list[Trial]()
        (dice,), before = self.scores([chosen]), self.summary(chosen)
        for step in ("threshold", "filled_holes", "smallest_part", "largest_component"):
            for number, name in self.scored:
                now = chosen.classes.get(name, Cleaning())
                candidates = [replace(now, **values) for values in self.candidates(step, number)]
                if not candidates:
                    continue
                described = [Postprocessing({**chosen.classes, name: one}) for one in candidates]
                scores = self.scores(described)
                best = int(scores.mean(axis=1).argmax())
                changes = scores[best] - dice
                bounds = interval(changes, self.groups)
                trials.append(Trial(name, step, candidates[best], float(changes.mean()), *bounds))
                if trials[-1].taken:
                    chosen, dice = described[best], scores[best]
        return Choice(chosen, trials, before, self.summary(chosen))

    @property
    def scored(self) -> list[tuple[int, str]]:
        """Number and name of each class but the background."""
        first = self.task.first_foreground
        return [*enumerate(self.class_names)][first:]

    # ---- candidates

    def candidates(self, step: str, number: int) -> list[dict[str, Any]]:
        """Return what to try for a step and a class: values of a `Cleaning`."""
        if step == "threshold":
            return [{step: value} for value in GRID if value != EVEN]
        if step != "smallest_part":
            return [{step: True}]
        if not (sizes := [*self.true_sizes(number)]):
            return []
        shares = sorted({float(f"{share * np.median(sizes):.2g}") for share in SHARES})
        return [{step: size, "unit": self.unit} for size in shares]

    @property
    def unit(self) -> str:
        """Unit of sizes: that of the voxels where all cases say how large these are."""
        if any(case.geometry is None for case in self.cases):
            return "pixels"
        return "mm3" if self.spatial_dims == 3 else "mm2"

    def true_sizes(self, number: int) -> Iterator[float]:
        """Yield the sizes of all connected parts of a class in the labels."""
        finishing, unit = self.finishing(Postprocessing()), self.unit
        for case in self.cases:
            label = np.load(case.label)
            pixel = finishing.pixel(Cleaning(smallest_part=1, unit=unit), case.geometry)
            for piece in finishing.pieces(label, number):
                _, sizes = components(piece == (1 if self.task.multilabel else number))
                yield from sizes[1:] * pixel

    # ---- scores

    def finishing(self, described: Postprocessing) -> Finishing:
        """Return what applies post-processing."""
        return Finishing(described, self.task, self.class_names, self.spatial_dims)

    def scores(self, candidates: Sequence[Postprocessing]) -> Scores:
        """Return the Dice [candidate, case] of every case."""
        ways = [self.finishing(one) for one in candidates]
        found = np.empty((len(candidates), len(self.cases)))
        for place, case in enumerate(self.cases):
            probabilities, target = np.load(case.probabilities, mmap_mode="r"), torch.from_numpy(np.load(case.label))
            for way, row in zip(ways, found, strict=True):
                mask = torch.from_numpy(self.mask(way, probabilities, case.geometry))
                (scores,) = image_scores(mask[None].long(), target[None], self.task.num_classes, self.task.multilabel)
                row[place] = scores["dice"]
        return found

    def summary(self, described: Postprocessing) -> dict[str, float]:
        """Return the mean Dice, and the mean number of connected parts of a class in an image."""
        way, parts = self.finishing(described), list[int]()
        for case in self.cases:
            mask = self.mask(way, np.load(case.probabilities, mmap_mode="r"), case.geometry)
            for number, _ in self.scored:
                pieces = way.pieces(mask, number)
                value = 1 if self.task.multilabel else number
                parts.append(sum(len(components(piece == value)[1]) - 1 for piece in pieces))
        return {
            "dice": round(float(self.scores([described]).mean()), 6),
            "components": round(float(np.mean(parts)), 3),
        }

    def mask(self, way: Finishing, probabilities: npt.NDArray[np.float32], geometry: Geometry | None) -> Any:
        """Return the mask of probabilities [K, *S], slab by slab along the first side."""
        rows = max(1, SLAB // probabilities[:, 0].size)
        slabs = [
            way.mask(np.asarray(probabilities[None, :, start : start + rows]))[0]
            for start in range(0, probabilities.shape[1], rows)
        ]
        whole = np.concatenate(slabs, axis=1 - probabilities.ndim)
        return way.clean(whole.astype(np.uint8 if len(self.class_names) <= 256 else np.int32), geometry)
