"""Judge of a test: how calibrated its probabilities are, and whether doubt finds the images where they are wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from segzoo.metrics.calibration import BAND, BINS, Curves, calibration
from segzoo.metrics.doubt import worth
from segzoo.metrics.reliability import draw_curves, write_curves
from segzoo.postprocessing import DOUBTS
from segzoo.prediction.doubt import disagreement, entropies, kind_of, near_boundary
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.torch_backend import TorchBackend

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

TABLE, PICTURE = "reliability.csv", "reliability.png"
PROTOCOLS = {
    "ece": f"expected calibration error of all pixels, {BINS} bins, mean over the images",
    "ece_boundary": f"the same within {BAND} pixels of the boundaries of truth and prediction, images that have any",
}


@dataclass(frozen=True)
class Verdict:
    """Outcome of a test.

    Attributes:
        scores: what was measured, by its name.
        protocols: how each is counted.
    """

    scores: dict[str, float] = field(default_factory=dict)
    protocols: dict[str, str] = field(default_factory=dict)


class Judge:
    """Judge of a network's predictions, image by image; of all that it keeps no more than the bins.

    Args:
        network: in eval mode when it is tested.
    """

    def __init__(self, network: "SegmentationNetwork") -> None:
        backend = TorchBackend(network)
        self.kind = kind_of(backend)
        self.pipeline = Pipeline(backend, doubt=(self.kind,), keep=None)
        self.curves = Curves()

    def scores(
        self, image: Tensor, grid: Any, restored: Tensor, mask: Tensor, target: npt.NDArray[Any]
    ) -> dict[str, float]:
        """Return an image's scores: "ece", "ece_boundary" and "doubt".

        Args:
            image: preprocessed, [1, C, *S].
            grid: that probabilities are brought to.
            restored: probabilities [1, K, *S] on that grid, without a temperature.
            mask: of them, post-processed, [1, *S] or, in multi-label, [1, K, *S].
            target: the truth, of one image.
        """
        found = restored.cpu().numpy()
        one = calibration(self.pipeline.given_out(found[0]), mask[0].cpu().numpy(), target)
        self.curves.add(one)
        return {**one.scores, "doubt": self.doubt(image, grid, found)}

    def doubt(self, image: Tensor, grid: Any, found: npt.NDArray[np.float32]) -> float:
        """Return the doubt of an image, as `Pipeline.doubt` has it."""
        pipeline, task = self.pipeline, self.pipeline.backend.task
        mask = pipeline.mask(found[0])
        if self.kind == "entropy":
            return near_boundary(entropies(found[0], task), mask)
        masks = [
            pipeline.mask(np.asarray(pipeline.contract.restore(other.probabilities(image), grid)[0], np.float32))
            for other in pipeline.others[self.kind]
        ]
        return disagreement(mask, masks, task)

    def verdict(self, rows: Sequence[dict[str, Any]]) -> Verdict:
        """Return the outcome of all images' scores, their Dice among them."""
        columns = {name: np.array([row[name] for row in rows]) for name in ("dice", "doubt", *PROTOCOLS)}
        errors = {name: columns[name][np.isfinite(columns[name])] for name in PROTOCOLS}
        scores = {name: float(values.mean()) for name, values in errors.items() if len(values)}
        protocols = {name: words for name, words in PROTOCOLS.items() if name in scores}
        scored = np.isfinite(columns["dice"])
        if scored.any():
            found, words = worth(columns["doubt"][scored], columns["dice"][scored]), DOUBTS[self.kind]
            scores |= found.scores
            said = {"doubt_spearman": f"doubt is {words}", "doubt_auroc": f"doubt is {words}; finds {found.failed}"}
            protocols |= {name: said[name] for name in found.scores}
        return Verdict({name: round(value, 6) for name, value in scores.items()}, protocols)

    def write(self, folder: Path) -> None:
        """Write the reliability curves as a table and, where there is matplotlib, as a picture."""
        write_curves(self.curves, folder / TABLE)
        if find_spec("matplotlib") is not None:
            draw_curves(self.curves, folder / PICTURE)
