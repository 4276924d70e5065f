"""Choice of a checkpoint's post-processing on validation images.

The rule: thresholds first, class by class over a grid, then, class by class, filled holes, the smallest part (a few
sizes, as shares of the median true part), and the largest component. Of the candidates for a step the one of the best
mean Dice is looked at, and taken only where its difference from what there is so far is above 0 with its whole 95 %
bootstrap interval, image by image, images of one group drawn together. Dice is the mean over the classes of an image,
at its own size.

Then a temperature, the one of the least negative log-likelihood (NLL), images counting alike, some pixels of each. It
is taken where that falls with its whole interval and the expected calibration error falls, too; no mask changes by it.
At last, of the scores of doubt, the one whose order of the images is most like that of their Dice (Spearman).

Probabilities are computed once, and kept on disk; no more than one image's are in memory.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.segmentation import Segmentation
from segzoo.metrics.calibration import calibration
from segzoo.metrics.doubt import rank_correlation
from segzoo.metrics.per_image import image_scores
from segzoo.metrics.statistics import interval
from segzoo.postprocessing import EVEN, TEMPERATURES, Cleaning, Postprocessing
from segzoo.prediction.postprocess import Finishing, components
from segzoo.tasks import Task

GRID = (0.3, 0.35, 0.4, 0.45, 0.55, 0.6, 0.65, 0.7)  # of thresholds, beside the even one
SHARES = (0.01, 0.03, 0.1, 0.3)  # of the median true part, as smallest parts
LEAST = 5  # groups of images, below which an interval says nothing
SLAB = 2**22  # probabilities that become a mask at once
PIXELS = 2**15  # of an image, that a temperature is chosen by
RIGHT = 1e-7  # from 0 and from 1, beyond which float32 knows no probabilities

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """Image or volume to choose by, kept on disk.

    Attributes:
        group: images of one group are drawn together.
        probabilities: a .npy file, float32 [K, *S], on its own grid.
        label: likewise, int16 [*S] or [K, *S], negative where ignored.
        geometry: of a volume; None for an image.
        doubts: scores of what computes, by their names.
    """

    group: str
    probabilities: Path
    label: Path
    geometry: Geometry | None
    doubts: Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """Best candidate for a step, and what it changes.

    Attributes:
        name: of the class, or of what else it changes.
        step: what was tried: "threshold", "filled_holes", "smallest_part", "largest_component" or "temperature".
        value: of it.
        unit: of that, if it has one.
        score: what it is to make better: "Dice", or "NLL", which is to fall.
        mean: of the differences, above 0 where it is better.
        low: of their 95 % interval.
        high: likewise.
        allowed: False where it makes something else worse.
    """

    name: str
    step: str
    value: float | bool
    unit: str
    score: str
    mean: float
    low: float
    high: float
    allowed: bool = True

    @property
    def taken(self) -> bool:
        """True where it helps by its interval."""
        return self.low > 0 and self.allowed


@dataclass(frozen=True)
class Choice:
    """Post-processing that helps, and what was tried.

    Attributes:
        described: what was chosen; none where nothing helps.
        trials: all that was tried, in its order.
        before: mean Dice, mean number of connected parts a class, and both calibration errors, without.
        after: the same with it.
        doubt: Spearman's correlation with Dice of each score of doubt that has one.
    """

    described: Postprocessing
    trials: list[Trial]
    before: dict[str, float]
    after: dict[str, float]
    doubt: dict[str, float]


def keep(folder: Path, number: int, group: str, found: Segmentation, label: npt.NDArray[np.int16]) -> Case:
    """Write what a case is chosen by.

    Args:
        folder: where to.
        number: of the case.
        group: of the image.
        found: its probabilities on its own grid, without a temperature, and its doubts.
        label: on the same grid.

    Raises:
        OSError: it cannot be written.
    """
    files = folder / f"{number}-probabilities.npy", folder / f"{number}-label.npy"
    np.save(files[0], np.asarray(found.probabilities, np.float32))
    np.save(files[1], label)
    return Case(group, *files, found.geometry, found.doubts)


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
        (dice,) = self.scores([chosen])
        before = self.summary(chosen, dice)
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
                value, unit = getattr(candidates[best], step), candidates[best].unit * (step == "smallest_part")
                trials.append(Trial(name, step, value, unit, "Dice", *self.mean_and_interval(changes)))
                if trials[-1].taken:
                    chosen, dice = described[best], scores[best]
        trials.append(self.temperature(chosen))
        if trials[-1].taken:
            chosen = replace(chosen, temperature=trials[-1].value)
        doubt = self.correlations(dice)
        best_doubt = min(doubt, key=lambda kind: doubt[kind], default="")
        if best_doubt and doubt[best_doubt] < 0:
            chosen = replace(chosen, doubt=best_doubt)
        return Choice(chosen, trials, before, self.summary(chosen, dice), doubt)

    def mean_and_interval(self, changes: Scores) -> tuple[float, float, float]:
        """Return the mean of differences image by image, and the bounds of its 95 % interval."""
        return float(changes.mean()), *interval(changes, self.groups)

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

    # ---- calibration and doubt

    def temperature(self, chosen: Postprocessing) -> Trial:
        """Try the temperature of the least negative log-likelihood beside none."""
        from scipy.optimize import minimize_scalar  # takes a tenth of a second

        some = [self.pixels(number, case) for number, case in enumerate(self.cases)]
        bounds = [math.log(bound) for bound in TEMPERATURES]
        least = minimize_scalar(lambda log: self.losses(some, math.exp(log)).mean(), bounds=bounds, method="bounded")
        temperature = float(f"{math.exp(least.x):.3g}")
        changes = self.losses(some, 1) - self.losses(some, temperature)
        without, by_it = (self.errors(replace(chosen, temperature=one))["ece"] for one in (1, temperature))
        found = self.mean_and_interval(changes)
        return Trial("probabilities", "temperature", temperature, "", "NLL", *found, allowed=by_it < without)

    def pixels(self, number: int, case: Case) -> tuple[Scores, npt.NDArray[np.int64]]:
        """Return the probabilities [K, N] of some pixels of a case, drawn evenly, and their labels [N].

        Of classes that are decided each on its own, the pixels of all of them are drawn together: K is 1.
        """
        probabilities, label = np.load(case.probabilities, mmap_mode="r"), np.load(case.label)
        flat = probabilities.reshape(1 if self.task.independent else len(probabilities), -1)
        known = np.flatnonzero(label >= 0)
        if len(known) > PIXELS:
            known = np.sort(np.random.default_rng(number).choice(known, PIXELS, replace=False))
        return flat[:, known].astype(np.float64).clip(RIGHT, 1 - RIGHT), label.reshape(-1)[known].astype(np.int64)

    def losses(self, some: "Sequence[tuple[Scores, npt.NDArray[np.int64]]]", temperature: float) -> Scores:
        """Return the negative log-likelihood [case] of pixels at a temperature."""
        found = []
        for probabilities, label in some:
            tempered = self.task.tempered(probabilities[None], temperature)[0]
            if self.task.independent:
                right = np.where(label > 0, tempered[0], 1 - tempered[0])
            else:
                right = np.take_along_axis(tempered, label[None], axis=0)[0]
            found.append(-np.log(right.clip(1e-300)).mean() if len(label) else 0.0)
        return np.array(found)

    def errors(self, described: Postprocessing) -> dict[str, float]:
        """Return the mean calibration error of the images, of all pixels and near boundaries."""
        way, found = self.finishing(described), list[dict[str, float]]()
        for case in self.cases:
            probabilities = np.load(case.probabilities, mmap_mode="r")
            mask = self.mask(way, probabilities, case.geometry)
            one = calibration(probabilities, mask, np.load(case.label), lambda some: way.given_out(some[None])[0])
            found.append(one.scores)
        means = {name: np.array([one[name] for one in found]) for name in found[0]}
        return {name: float(values[np.isfinite(values)].mean()) for name, values in means.items() if any(values >= 0)}

    def correlations(self, dice: Scores) -> dict[str, float]:
        """Return how the order of the images by each doubt is correlated with that by their Dice."""
        found: dict[str, float] = {}
        for kind in self.cases[0].doubts:
            value = rank_correlation(np.array([case.doubts[kind] for case in self.cases]), dice)
            found |= {kind: round(value, 4)} if math.isfinite(value) else {}
        return found

    # ---- all of it

    def summary(self, described: Postprocessing, dice: Scores) -> dict[str, float]:
        """Return the mean Dice, the mean number of connected parts of a class in an image, and calibration errors."""
        way, parts = self.finishing(described), list[int]()
        for case in self.cases:
            mask = self.mask(way, np.load(case.probabilities, mmap_mode="r"), case.geometry)
            for number, _ in self.scored:
                pieces = way.pieces(mask, number)
                value = 1 if self.task.multilabel else number
                parts.append(sum(len(components(piece == value)[1]) - 1 for piece in pieces))
        return {
            "dice": round(float(dice.mean()), 6),
            "components": round(float(np.mean(parts)), 3),
            **{name: round(value, 6) for name, value in self.errors(described).items()},
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
