"""One pipeline from an input to its segmentation, whatever computes.

Read, prepare, probabilities (over mirrored copies, window by window, slice by slice), restore, mask, post-process:
the input contract knows what an image or a volume needs, the backend computes, and this puts them in order.
"""

import math
import os
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.readers import Reader, reader_of
from segzoo.imaging.segmentation import Segmentation
from segzoo.paths import require_file
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.backend import Backend
from segzoo.prediction.doubt import CHOSEN, DEFAULT, disagreement, entropies, kind_of, near_boundary, others
from segzoo.prediction.postprocess import Finishing, Step, checked, chosen
from segzoo.prediction.window import require_overlap, slide, slide_along, window_of
from segzoo.preprocessing.base import Box, Prepared
from segzoo.preprocessing.ranges import unlike

PART = 2**20  # pixels whose classes are compared at once
FloatArray = npt.NDArray[np.float32]
Keep: TypeAlias = Callable[[tuple[int, ...]], Any]  # from a shape [K, *S] to what parts of an array are assigned to


def in_memory(shape: tuple[int, ...]) -> FloatArray:
    """Return an array for the probabilities of a volume."""
    return np.empty(shape, np.float32)


class Pipeline:
    """Model, made once, that segments one input after another.

    Args:
        backend: what computes.
        tta: average over mirrored copies.
        overlap: of a volume's windows, as part of their length.
        postprocessing: steps that change a mask, in their order: names of the table `POSTPROCESSING`, or functions.
        intensity_range: the stored values that become 0 and 255, in place of the model's own; None leaves it.
        raw: leave out the post-processing that belongs to the checkpoint.
        keep: makes what holds the probabilities of a volume; None holds none but of the rows that are computed, unless
            a step of ``postprocessing`` may look at them.
        doubt: scores that say which predictions to look at first, of `segzoo.postprocessing.DOUBTS`, or "chosen"; with
            any, inputs are also compared with those of the training.

    Attributes:
        batch_size: how many inputs of one key are segmented together.
        description: what computes, and how, in one line for people.
        progressed: called whenever a part of an input was computed.

    Raises:
        MissingError: there is no such step.
        SegzooError: ``overlap`` is out of range, or a model of volumes is given an ``intensity_range``.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        tta: bool = False,
        overlap: float = 0.5,
        postprocessing: Sequence[str | Step] = (),
        intensity_range: tuple[float, float] | None = None,
        raw: bool = False,
        keep: Keep | None = in_memory,
        doubt: Sequence[str] = (),
    ) -> None:
        require_overlap(overlap)
        contract = backend.contract
        self.backend = backend
        self.contract = contract if intensity_range is None else contract.with_intensity_range(intensity_range)
        self.tta, self.overlap = tta, overlap
        own = Postprocessing() if raw else backend.postprocessing
        self.finishing = Finishing(own, backend.task, backend.class_names, contract.spatial_dims)
        self.thresholds, self.steps = self.finishing.thresholds, [*self.finishing.steps, *chosen(postprocessing)]
        kinds = [kind_of(backend) if kind == CHOSEN else kind for kind in doubt]
        self.others = {kind: [self.alike(other) for other in others(backend, kind)] for kind in kinds}
        self.calibrates, self.batch_size = own.changes_probabilities, backend.batch_size
        said = [backend.description, str(own), *(self.of_doubt() if doubt else [])]
        self.description = "; ".join(filter(None, said))
        self.keep = in_memory if keep is None and postprocessing else keep
        self.progressed: Callable[[], object] = lambda: None

    def of_doubt(self) -> list[str]:
        """Return what is to be said of doubts and of ranges: where they are not the checkpoint's."""
        wanted = self.backend.postprocessing.doubt
        said = [f"what doubt by {wanted} needs is not at hand, so it is by {DEFAULT}"]
        said = said if wanted and wanted not in self.others else []
        if not self.backend.ranges:
            said.append("it keeps no ranges of its training inputs, so others are compared with its contract alone")
        return said

    def alike(self, backend: Backend) -> "Pipeline":
        """Return what makes masks of the same inputs as this one does before it cleans them, by another backend."""
        found = Pipeline(backend, overlap=self.overlap, raw=True, keep=None)
        found.thresholds = self.thresholds
        return found

    def __call__(self, source: Any) -> Segmentation:
        """Segment one input: a path, or an image or volume in memory."""
        return self.segment([self.read(source)])[0]

    # ---- read

    def read(self, source: Any, *, drawn: bool = True) -> Prepared:
        """Return an input, ready to be segmented; may be called by several threads.

        Args:
            source: a path, or an image or volume in memory.
            drawn: keep the image itself, for an overlay.

        Raises:
            MissingError: there is no such file.
            SegzooError: it cannot be read, or is not what this model takes.
        """
        source = reader_of(source) if isinstance(source, str | os.PathLike) else source
        if isinstance(source, Reader) and not source.folders:
            require_file(source.path)  # whoever reads it
        given = self.contract.read(source)
        file = source.path if isinstance(source, Reader) else None
        self.backend.require_size(given, file or "the input")
        try:
            prepared = self.contract.prepare(given)
        except SegzooError as error:
            raise SegzooError(f"{file}: {error}" if file else str(error)) from error
        if self.others:
            prepared = replace(prepared, unlike=self.unlike(given))
        return prepared if drawn else replace(prepared, image=None)

    def unlike(self, given: Any) -> tuple[str, ...]:
        """Return what of an input is unlike what the model was trained on or, where nobody knows that, made for."""
        ranges = self.backend.ranges
        where = "in training" if ranges else "the model expects"
        return unlike(self.contract.features(given), ranges or self.contract.expected, where)

    def key(self, given: Prepared) -> Hashable | None:
        """Return what inputs have in common that can be segmented together; None: this one is segmented alone."""
        return given.key

    # ---- segment

    def segment(self, given: Sequence[Prepared]) -> list[Segmentation]:
        """Return the segmentations of up to ``batch_size`` inputs of one key, in their order.

        Raises:
            SegzooError: they cannot be segmented.
        """
        if given[0].geometry is not None:
            return [self.of_volume(one) for one in given]
        batch = given[0].batch if len(given) == 1 else np.concatenate([one.batch for one in given])
        found = self.probabilities(batch)
        return [self.of_image(one, self.restored(found[i : i + 1], one)[0]) for i, one in enumerate(given)]

    def of_image(self, given: Prepared, probabilities: FloatArray) -> Segmentation:
        """Return what probabilities [K, H, W] on an image's own grid say."""
        refuse_nan(probabilities, self.backend.subject)
        entropy = entropies(probabilities, self.backend.task) if "entropy" in self.others else None
        return self.finished(self.mask(probabilities), self.given_out(probabilities), given, entropy)

    def of_volume(self, given: Prepared) -> Segmentation:
        """Return a volume's segmentation: a part of it becomes a part of the mask as soon as it is computed."""
        assert given.geometry is not None  # as of every volume
        task, shape = self.backend.task, given.geometry.shape
        whole = (task.num_classes, *shape)
        probabilities = np.empty((0, *shape), np.float32) if self.keep is None else self.keep(whole)
        mask: npt.NDArray[Any] = np.empty(whole if task.multilabel else shape, self.mask_type)
        entropy = np.empty(shape, np.float16) if "entropy" in self.others else None
        for place, part in self.by_windows(given) if given.slices is None else self.by_slices(given):
            refuse_nan(part, self.backend.subject)
            everywhere: tuple[Any, ...] = (..., *place)  # in the masks of all classes, if there are several
            mask[everywhere] = self.mask(part)
            if entropy is not None:
                entropy[tuple(place)] = entropies(part, task)
            if self.keep is not None:
                probabilities[everywhere] = self.given_out(part)
        return self.finished(mask, probabilities, given, entropy)

    def given_out(self, probabilities: FloatArray) -> FloatArray:
        """Return the probabilities [K, *S] that are given out, of those that the mask is made of."""
        if not self.calibrates:
            return probabilities
        found: FloatArray = self.finishing.given_out(probabilities[None])[0]
        return found

    def by_windows(self, given: Prepared) -> Iterator[tuple[Box, FloatArray]]:
        """Yield places of a volume and their probabilities [K, d, h, w], as windows go along it."""
        assert given.geometry is not None  # as of every volume
        assert self.contract.patch_size is not None  # as in every contract for volumes
        size, classes = given.batch.shape[2:], self.backend.task.num_classes
        held = (classes + 1) * math.prod([*window_of(self.contract.patch_size, size)[:1], *size[1:]])
        own = math.prod(given.geometry.shape)
        kept = classes * own if self.keep is in_memory else 0
        marks = own * (3 if "entropy" in self.others else 1)
        limits.require_memory(4 * (held + kept) + marks, "its probabilities")
        rows = slide_along(
            self.averaged,
            given.batch,
            self.contract.patch_size,
            overlap=self.overlap,
            device=self.backend.device,
            progress=sys.stderr.isatty(),
        )
        for place, part in self.contract.restore_along(rows, given.grid):
            yield place, np.asarray(part[0], np.float32)

    def by_slices(self, given: Prepared) -> Iterator[tuple[Box, FloatArray]]:
        """Yield places of a volume and their probabilities, as a network for images sees its slices [B, C, H, W]."""
        from tqdm import tqdm  # takes longer to import than an image to segment

        first = 0
        for batch in tqdm(given.slices, disable=None):  # None: shown on a terminal
            some = self.restored(self.probabilities(batch), given)
            yield (slice(first, first + len(some)), slice(None), slice(None)), some.swapaxes(0, 1)
            first += len(some)

    def probabilities(self, batch: Any) -> Any:
        """Return probabilities [B, K, *S] of a preprocessed batch, in one piece or by the sliding window.

        Args:
            batch: [B, C, *S], tensor or array, wherever it lies.
        """
        patch = self.contract.patch_size
        if patch is None:
            return self.backend.fetch(self.averaged(batch))
        stitched = (len(batch), self.backend.task.num_classes, *batch.shape[2:])
        limits.require_memory(4 * math.prod(stitched), "its probabilities")
        return slide(self.averaged, batch, patch, overlap=self.overlap, device=self.backend.device)

    def averaged(self, batch: Any) -> Any:
        """Return probabilities of a batch; with ``tta``, their mean over all mirrorings that the network knows."""
        backend = self.backend
        batch = backend.place(batch)
        total = self.computed(batch)
        if not self.tta:
            return total
        axes = [2 + axis for axis in self.contract.mirror_axes]
        subsets = [tuple(axis for bit, axis in enumerate(axes) if code >> bit & 1) for code in range(2 ** len(axes))]
        for subset in subsets[1:]:  # the first one mirrors nothing
            total += backend.flip(self.computed(backend.flip(batch, subset)), subset)
        total /= len(subsets)
        return total

    def computed(self, batch: Any) -> Any:
        """Return probabilities of a batch that is in its place."""
        found = self.backend.compute(batch)
        self.progressed()
        return found

    def restored(self, probabilities: Any, given: Prepared) -> FloatArray:
        """Return probabilities [B, K, *S] on an input's own grid, as an array."""
        return np.asarray(self.contract.restore(probabilities, given.grid), np.float32)

    def finished(
        self, mask: npt.NDArray[Any], probabilities: Any, given: Prepared, entropy: npt.NDArray[Any] | None
    ) -> Segmentation:
        """Return the segmentation of a mask on an input's own grid, post-processed.

        Args:
            mask: before it is cleaned.
            probabilities: that are given out.
            given: the input.
            entropy: of every pixel, where a doubt is made of it.
        """
        names, values = self.backend.class_names, self.backend.task.region_values
        doubts = {kind: self.doubt(kind, given, mask, entropy) for kind in self.others}
        found = Segmentation(
            mask, probabilities, names, given.image, given.geometry, values, doubts=doubts, unlike=given.unlike
        )
        for step in self.steps:
            found = replace(found, mask=checked(step, found))
        return found

    def doubt(self, kind: str, given: Prepared, mask: npt.NDArray[Any], entropy: npt.NDArray[Any] | None) -> float:
        """Return a score of a mask, before it is cleaned."""
        if kind == "entropy":
            assert entropy is not None  # as of every input, where it is asked for
            return near_boundary(entropy, mask)
        masks = [other.segment([given])[0].mask for other in self.others[kind]]
        return disagreement(mask, masks, self.backend.task)

    def mask(self, probabilities: FloatArray) -> npt.NDArray[Any]:
        """Return the mask of probabilities [K, *S], part by part along the first side, as a maximum takes 20 bytes."""
        axes = probabilities.ndim - 1
        count = len(probabilities[0]) if axes == 3 else -(-probabilities[0].size // PART)  # planes, or rows
        parts = np.array_split(probabilities, count, axis=1)
        masks = [self.whole_numbers(self.backend.task.mask(part[None], self.thresholds)[0]) for part in parts]
        return np.concatenate(masks, axis=-axes) if len(masks) > 1 else masks[0]

    def whole_numbers(self, mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a mask of classes, or of True and False, in the type that masks have."""
        if mask.dtype == bool and self.mask_type is np.uint8:
            return mask.view(np.uint8)  # the same bytes
        return mask.astype(self.mask_type)

    @property
    def mask_type(self) -> type:
        """Type of a mask's values."""
        return np.uint8 if len(self.backend.class_names) <= 256 else np.int32


def refuse_nan(probabilities: Any, subject: str = "the network") -> None:
    """Refuse what has no mask: comparisons with NaN are false, so that it would be an empty one; nor has infinity.

    Args:
        probabilities: a tensor or an array.
        subject: what gave them.

    Raises:
        SegzooError: a probability is NaN or infinite.
    """
    total = probabilities.sum()
    if total - total != 0:
        raise SegzooError(
            f"{subject} gives NaN for this input: its weights are not finite, as a training that diverged leaves them"
        )
