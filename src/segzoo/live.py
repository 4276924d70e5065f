"""Predictor: a model made once, that segments one image after another, as of a camera. Exported files need no torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, overload

from segzoo.checkpoints.opened import Checkpoint, Checkpoints
from segzoo.errors import SegzooError
from segzoo.hub.find import open_checkpoint
from segzoo.imaging.segmentation import Segmentation
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.runtimes import BACKENDS, RUN_BY, ExportedModel, open_exported
from segzoo.prediction.several import owned, segment_all, segment_each

Model: TypeAlias = Checkpoint | Checkpoints | ExportedModel
PRECISIONS = ("auto", "float32", "bfloat16")
PROGRAMS = {".pt2": "torch.export.load", ".pte": "ExecuTorch"}  # exported files that segzoo does not run


class Predictor:
    """Model that is ready to segment: loaded, deployed and checked once, and not looked at again.

    ``model.predict`` looks at every call whether its model has changed, for it may be trained in between; this does
    not, for nobody else has its network.

    Args:
        checkpoint_or_file: a checkpoint's folder or name, as of :func:`segzoo.from_pretrained`, or an .onnx or .xml
            file that segzoo has exported, which needs no torch. A list of checkpoints of the
            same classes and input is averaged.
        backend: "torch" for a checkpoint; "onnxruntime" or "openvino" for a file; "auto" takes the one that fits and
            is installed.
        device: "cpu", "cuda" (or one of several: "cuda:1"), or "auto" for a GPU where there is one. Files run on the
            CPU.
        tta: average over mirrored copies.
        overlap: of the windows that a volume is segmented in, as part of their length.
        intensity_range: stored values that become 0 and 255, of images of more than 8 bits; None is the model's own.
        compile: let `torch.compile` compile a checkpoint's network now, which takes a minute and, on a CPU, a C++
            compiler; worth it for thousands of frames. An exported file in its runtime is mostly faster still.
        precision: "bfloat16" for speed on a processor that has instructions for it, where a file takes OpenVINO;
            "float32"; or "auto", which is bfloat16 on a GPU that has it.

    Attributes:
        class_names: of the mask's values, or of its channels for multi-label.
        description: what computes, and how, in one line.

    Raises:
        MissingError: there is no such checkpoint or file, or the backend is not installed.
        SegzooError: it is damaged, does not go with the backend, the device or the precision, or cannot be compiled
            here.

    Example:
        >>> import numpy as np, segzoo
        >>> predictor = segzoo.Predictor("lv-unet-busi", device="cpu")
        >>> frame = np.zeros((266, 320, 3), np.uint8)
        >>> predictor(frame).mask.shape
        (266, 320)
        >>> [int(found.mask.sum()) for found in predictor.stream([frame, frame])]
        [0, 0]
    """

    def __init__(
        self,
        checkpoint_or_file: str | Path | list[str | Path],
        *,
        backend: str = "auto",
        device: str = "auto",
        tta: bool = False,
        overlap: float = 0.5,
        intensity_range: tuple[float, float] | None = None,
        compile: bool = False,
        precision: str = "auto",
    ) -> None:
        model = open_model(checkpoint_or_file, backend, device, precision)
        how: dict[str, Any] = {"tta": tta, "overlap": overlap, "intensity_range": intensity_range}
        self._pipeline = load_pipeline(model, device, compiled=compile, precision=precision, **how)
        self.class_names, self.description = self._pipeline.backend.class_names, self._pipeline.description

    @overload
    def __call__(self, image: list[Any]) -> list[Segmentation]: ...

    @overload
    def __call__(self, image: Any) -> Segmentation: ...

    def __call__(self, image: Any) -> Segmentation | list[Segmentation]:
        """Segment one image or volume, or a list of them; a GPU takes several of one size together.

        Args:
            image: as of ``model.predict``.

        Raises:
            SegzooError: one cannot be read or does not fit the model.
        """
        return segment_all(self._pipeline, image)

    def stream(self, frames: Iterable[Any]) -> Iterator[Segmentation]:
        """Segment one after another, in their order, while the next one is already being read.

        Frames are taken from ``frames`` and prepared by another thread, one ahead of the one that is segmented. One
        that is still ahead when the loop ends is lost.

        Args:
            frames: images or volumes, such as a generator that waits for a camera; it may use its buffer again.

        Raises:
            SegzooError: one cannot be read or does not fit the model; which one is said.
        """
        return segment_each(self._pipeline, owned(frames))

    def __repr__(self) -> str:
        return f"<segzoo.Predictor: {self.description}>"


# ---- load


def open_model(
    name_or_file: str | Path | list[str | Path], backend: str = "auto", device: str = "auto", precision: str = "auto"
) -> Model:
    """Find a checkpoint or an exported file.

    Args:
        name_or_file: as of `Predictor`.
        backend: likewise.
        device: likewise.
        precision: likewise.

    Raises:
        MissingError: there is none, or no such backend.
        SegzooError: it is damaged, or cannot do what is asked for.
    """
    if backend not in ("auto", "torch", *BACKENDS):
        raise SegzooError(f"backend is one of auto, torch, {', '.join(BACKENDS)}, not {backend!r}")
    if precision not in PRECISIONS:
        raise SegzooError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if isinstance(name_or_file, list):
        models = [open_model(one, backend, device) for one in name_or_file]
        if files := [one.path for one in models if isinstance(one, ExportedModel)]:
            raise SegzooError(f"{files[0]} cannot be averaged with others; take the checkpoints, or export an ensemble")
        return Checkpoints(tuple(one for one in models if isinstance(one, Checkpoint)))
    suffix = Path(name_or_file).suffix.lower() if isinstance(name_or_file, str | Path) else ""
    if suffix in PROGRAMS:
        runs = PROGRAMS[suffix]
        raise SegzooError(f"{name_or_file} is a program for {runs}; export an .onnx file to predict with it")
    if suffix in RUN_BY:
        if device.startswith("cuda"):
            raise SegzooError(f"{name_or_file} runs on the CPU; leave {device} out, or predict with the checkpoint")
        if backend == "torch":
            raise SegzooError(
                f"{name_or_file} is run by {' or '.join(RUN_BY[suffix])}; leave torch out, or name one of them"
            )
        return open_exported(Path(name_or_file), None if backend == "auto" else backend, precision)
    if backend in BACKENDS:
        raise SegzooError(
            f"{backend} runs .onnx files, and {name_or_file} is none; `segzoo export {name_or_file} FILE.onnx` "
            "writes it"
        )
    return open_checkpoint(name_or_file)


def load_pipeline(
    model: Model, device: str = "auto", *, compiled: bool = False, precision: str = "auto", **how: Any
) -> Pipeline:
    """Make what segments.

    Args:
        model: of `open_model`.
        device: of a checkpoint's network.
        compiled: compile that network first.
        precision: what that network computes in; a file has been opened for its own.
        **how: as of `Pipeline`.

    Raises:
        SegzooError: the weights cannot be loaded, there is no such device, or nothing is there to be compiled.
    """
    if isinstance(model, ExportedModel):
        if compiled:
            raise SegzooError(f"{model.path} is compiled by its runtime; leave compiling out, or take the checkpoint")
        return Pipeline(model, **how)
    from segzoo.hub import load  # imports torch

    return load.load_pipeline(model, device, compiled=compiled, precision=precision, **how)
