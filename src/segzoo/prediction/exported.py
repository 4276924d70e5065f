"""Files of `segzoo export` as what segments: ONNX Runtime or OpenVINO in place of PyTorch.

Images, and the slices that a network for images sees of a volume, take numpy alone. Only the sliding window of a
network for volumes needs torch, which takes longer to import than an image to segment.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import SegzooError
from segzoo.imaging.images import as_image
from segzoo.imaging.overlay import to_uint8
from segzoo.imaging.readers import reader_of
from segzoo.imaging.segmentation import Segmentation
from segzoo.imaging.volumes import Volume
from segzoo.prediction.predictor import enough_memory
from segzoo.prediction.runtimes import ExportedModel, FloatArray, thread_count

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.preprocessing.volume import VolumePreprocessing


IMAGE_AXES = (2, 3)  # of [B, C, H, W], along which test-time augmentation mirrors


# ---- predict


class ExportedPredictor:
    """An exported file as :mod:`segzoo.prediction` takes what segments.

    Masks are those of the checkpoint that was exported, but for pixels where rounding decides.

    Args:
        model: the file.
        tta: average over mirrored copies.
        overlap: of a volume's windows.
    """

    batch_size = 1  # as a checkpoint has it on a CPU

    def __init__(self, model: ExportedModel, *, tta: bool = False, overlap: float = 0.5) -> None:
        self.model, self.tta, self.overlap = model, tta, overlap
        facts, threads = model.facts, thread_count()
        name = facts.get("checkpoint", {}).get("name") or facts["model"].get("name")
        self.channels = facts["preprocessing"]["channels"]
        self.spatial_dims = 3 if "patch_size" in facts["preprocessing"] else 2
        self.description = (
            f"{model.path}, exported from {name}; {model.session.runtime} "
            f"on the CPU, {threads} thread{'s' * (threads > 1)}, {facts['precision']}"
        )

    @cached_property
    def contract(self) -> "VolumePreprocessing":
        """That of a network for volumes."""
        from segzoo.preprocessing.volume import VolumePreprocessing

        return VolumePreprocessing.from_dict(self.model.facts["preprocessing"])

    def read(self, file: Path) -> npt.NDArray[np.uint8] | Volume:
        """An image or a volume of a size that the exported file takes."""
        with enough_memory(file):
            reader = reader_of(file)
            given = (reader.for_volumes if self.spatial_dims == 3 else reader.for_images)(self.channels)
        self.check_size(file, given)
        return given

    def key(self, given: npt.NDArray[np.uint8] | Volume) -> None:
        """Each is segmented alone."""

    def segment(self, given: Sequence[npt.NDArray[np.uint8] | Volume]) -> list[Segmentation]:
        """The segmentation of one input."""
        with enough_memory("it"):
            return [self.segmentation(one) for one in given]

    def check_size(self, file: Path, given: npt.NDArray[np.uint8] | Volume) -> None:
        """Refuse what an exported file of one size cannot segment as the checkpoint does."""
        taken = self.model.session.size
        if taken is None:
            return
        words = " x ".join(map(str, taken))
        if self.spatial_dims == 3:
            assert isinstance(given, Volume)
            grid = self.contract.grid(given.geometry)
            if any(side < window for side, window in zip(grid, taken, strict=True)):
                raise SegzooError(
                    f"{file} has {' x '.join(map(str, grid))} voxels, fewer than the windows of {words} that "
                    f"{self.model.path} takes; segment it with the checkpoint"
                )
            return
        size = given.geometry.shape[1:] if isinstance(given, Volume) else given.shape[:2]
        if taken not in (size, tuple(self.model.facts["preprocessing"]["image_size"] or ())):
            raise SegzooError(
                f"{file} is {' x '.join(map(str, size))} and {self.model.path} takes only {words}; export it again "
                "without --size"
            )

    def segmentation(self, given: npt.NDArray[np.uint8] | Volume) -> Segmentation:
        """What the network sees in an input."""
        names = tuple(self.model.facts["class_names"])
        if not isinstance(given, Volume):
            found = self.of_image(given)
        else:
            found = self.of_volume(given) if self.spatial_dims == 3 else self.of_slices(given)
        if np.isnan(found.sum()):  # whose mask would be an empty one
            raise SegzooError(f"{self.model.path} gives NaN for this input: its weights are not finite")
        return Segmentation(
            self.mask(found),
            found,
            names,
            given.array if isinstance(given, Volume) else given,
            given.geometry if isinstance(given, Volume) else None,
        )

    def mask(self, probabilities: FloatArray) -> npt.NDArray[np.integer]:
        """As a model's own ``mask`` has it: integers [*S], or [K, *S] for multi-label, of probabilities [K, *S]."""
        facts = self.model.facts
        if facts["multilabel"]:
            return (probabilities > 0.5).astype(np.uint8)
        if facts["num_classes"] == 1:
            return (probabilities[0] > 0.5).astype(np.uint8)
        return probabilities.argmax(axis=0).astype(np.uint8 if len(facts["class_names"]) <= 256 else np.int32)

    def of_image(self, image: npt.NDArray[np.uint8]) -> FloatArray:
        """Probabilities [K, H, W] of an image [H, W, C]."""
        size = image.shape[:2]
        x = image.transpose(2, 0, 1).astype(np.float32)
        x = resized(x, self.model.session.size or size)  # a file of the network's own size leaves that to its user
        return resized(self.run(x[None], IMAGE_AXES)[0], size)

    def of_slices(self, volume: Volume) -> FloatArray:
        """Probabilities [K, D, H, W] of a volume, as a network for images sees its slices."""
        from tqdm import tqdm

        slices = to_uint8(volume.array).transpose(1, 2, 3, 0)
        found = np.empty((self.model.facts["num_classes"], *volume.geometry.shape), np.float32)
        for index, one in enumerate(tqdm(slices, disable=None)):  # None: shown on a terminal
            found[:, index] = self.of_image(as_image(one, self.channels))
        return found

    def of_volume(self, volume: Volume) -> FloatArray:
        """Probabilities [K, D, H, W] of a volume, window by window."""
        import sys

        import torch

        from segzoo.prediction.window import slide

        axes = tuple(2 + axis for axis in self.contract.mirror_axes)

        def run(window: "Tensor") -> "Tensor":
            return torch.from_numpy(self.run(window.numpy(), axes))

        probabilities = slide(
            run,
            self.contract(volume)[None],
            self.model.session.size or self.contract.patch_size,
            overlap=self.overlap,
            progress=sys.stderr.isatty(),
        )
        return self.contract.restore(probabilities, volume.geometry)[0].numpy()

    def run(self, x: FloatArray, axes: Sequence[int]) -> FloatArray:
        """Probabilities [B, K, *S] of inputs [B, C, *S]; with ``tta``, their mean over mirrorings along these axes."""
        counts = range(len(axes) + 1) if self.tta else (0,)
        subsets = [subset for count in counts for subset in combinations(axes, count)]
        run = self.model.run
        found = [np.flip(run(np.ascontiguousarray(np.flip(x, subset))), subset) for subset in subsets]
        return np.mean(found, axis=0)


def resized(planes: FloatArray, size: Sequence[int]) -> FloatArray:
    """Planes [C, H, W] at another height and width, as `Preprocessing` resizes: bilinear with antialiasing."""
    height, width = size
    if planes.shape[1:] == (height, width):
        return planes
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(plane).resize((width, height), bilinear)) for plane in planes])
