"""Files of `segzoo export` as what segments: ONNX Runtime or OpenVINO in place of PyTorch.

Images, and the slices that a network for images sees of a volume, take numpy alone. Only the sliding window of a
network for volumes needs torch, which takes longer to import than an image to segment.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.checkpoint import refuse_strange_classes
from segzoo.errors import MissingError, SegzooError
from segzoo.io import as_image
from segzoo.prediction import enough_memory, read_file
from segzoo.segmentation import Segmentation, to_uint8
from segzoo.volumes import Volume
from segzoo.weights import sha256

if TYPE_CHECKING:
    from torch import Tensor

    from segzoo.volume_preprocessing import VolumePreprocessing

FACTS = "segzoo"  # the metadata's key, in ONNX and in the extra files of torch.export
IMAGE_AXES = (2, 3)  # of [B, C, H, W], along which test-time augmentation mirrors

FloatArray = npt.NDArray[np.float32]


# ---- backends


@dataclass(frozen=True)
class Session:
    """A file, opened by what runs it.

    Attributes:
        runtime: the name and version of that.
        facts: the JSON that `segzoo export` wrote; None where there is none.
        size: sides of the inputs; None where they vary.
        run: from inputs, float32 [B, C, *S], to probabilities, float32 [B, K, *S].
    """

    runtime: str
    facts: str | None
    size: tuple[int, ...] | None
    run: Callable[[FloatArray], FloatArray]


def open_onnxruntime(path: Path, threads: int) -> Session:
    """By ONNX Runtime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # said, for of its own accord it binds its threads to cores, taken or not
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    sides = session.get_inputs()[0].shape[2:]
    return Session(
        f"ONNX Runtime {onnxruntime.__version__}",
        session.get_modelmeta().custom_metadata_map.get(FACTS),
        tuple(sides) if all(isinstance(side, int) for side in sides) else None,
        lambda image: session.run(["probabilities"], {"image": image})[0],
    )


def open_openvino(path: Path, threads: int) -> Session:
    """By OpenVINO, on the CPU."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    metadata = model.get_rt_info("framework").value if model.has_rt_info("framework") else {}
    sides = list(model.input(0).partial_shape)[2:]
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",  # the default is bfloat16 where the CPU has it, which masks would show
            "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,  # or several processes would share the same few cores
        },
    )
    return Session(
        f"OpenVINO {openvino.__version__.partition('-')[0]}",
        metadata.get(FACTS),
        tuple(side.get_length() for side in sides) if all(side.is_static for side in sides) else None,
        lambda image: compiled({"image": image})["probabilities"],
    )


BACKENDS: dict[str, Callable[[Path, int], Session]] = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}


def choose_backend(wanted: str | None) -> str:
    """The backend asked for, or the first that is installed.

    Raises:
        MissingError: it, or any, is not installed.
    """
    for backend in [wanted] if wanted else BACKENDS:
        if find_spec(backend) is not None:
            return backend
    missing = wanted or next(iter(BACKENDS))
    raise MissingError(f"exported files need {missing} to run: pip install 'medsegzoo[{missing}]'")


def thread_count() -> int:
    """As torch has it: ``OMP_NUM_THREADS``, or as many as there are cores for this process."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- files


class ExportedModel:
    """An exported file and the backend that is to run it.

    Args:
        path: of the file.
        backend: one of `BACKENDS`.

    Raises:
        SegzooError: by every attribute, that the file cannot be opened or is not one that segzoo wrote.
    """

    def __init__(self, path: Path, backend: str) -> None:
        self.path, self.backend = path, backend

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions cannot go to another process, which opens its own, with as many threads as it may have."""
        return ExportedModel, (self.path, self.backend)

    @cached_property
    def session(self) -> Session:
        """The opened file."""
        try:
            return BACKENDS[self.backend](self.path, thread_count())
        except Exception as error:  # either backend raises many kinds; all mean the same here
            raise SegzooError(
                f"{self.path} cannot be opened by {self.backend}: it is damaged or of another kind; export it again "
                f"({first_line(error)})"
            ) from error

    def run(self, x: FloatArray) -> FloatArray:
        """Probabilities [B, K, *S] of inputs [B, C, *S].

        Raises:
            SegzooError: the backend cannot compute them, mostly for want of memory, or they are of other classes than
                the metadata announce.
        """
        try:
            found = self.session.run(x)
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise SegzooError(
                f"{self.backend} cannot compute an input of {' x '.join(map(str, x.shape[2:]))} ({first_line(error)})"
            ) from error
        if found.shape[1] != self.facts["num_classes"]:
            raise SegzooError(
                f"{self.path} gives {found.shape[1]} classes where its metadata announce {self.facts['num_classes']}; "
                "export it again"
            )
        return found

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the file says of itself, checked."""
        if self.session.facts is None:
            raise SegzooError(f"{self.path} was not written by segzoo export, so nothing says what it takes and gives")
        try:
            facts: dict[str, Any] = json.loads(self.session.facts)
            refuse_strange_facts(self.path, facts)
        except ValueError as error:  # a SegzooError is one, too
            raise SegzooError(
                f"{self.path} was not written by segzoo export, or by another version of it; export it again "
                f"({first_line(error)})"
            ) from error
        return facts

    @property
    def mask_names(self) -> list[str] | None:
        """The classes' names where each has a mask of its own (multi-label), else None."""
        return self.facts["class_names"] if self.facts["multilabel"] else None

    @property
    def identity(self) -> dict[str, str]:
        """What tells its masks from those of any other model."""
        return {"exported": sha256(self.path), "backend": self.backend}


def refuse_strange_facts(path: Path, facts: Any) -> None:
    """The metadata say what the file takes and gives, as a checkpoint's config does.

    Raises:
        SegzooError: they do not.
    """
    needed = {"model", "preprocessing", "num_classes", "multilabel", "class_names", "precision"}
    if not isinstance(facts, dict) or needed - set(facts):
        lacking = ", ".join(sorted(needed - set(facts))) if isinstance(facts, dict) else "everything"
        raise SegzooError(f"its metadata lack {lacking}")
    for part in ("model", "checkpoint"):
        if not isinstance(facts.get(part, {}), dict):
            raise SegzooError(f"its metadata give its {part} as {facts[part]!r}")
    if type(facts["num_classes"]) is not int or type(facts["multilabel"]) is not bool:
        raise SegzooError(f"num_classes is {facts['num_classes']!r} and multilabel {facts['multilabel']!r}")
    refuse_strange_classes(path, facts["class_names"], facts)
    preprocessing = facts["preprocessing"]
    if not isinstance(preprocessing, dict) or type(preprocessing.get("channels")) is not int:
        raise SegzooError(f"its metadata give its preprocessing as {preprocessing!r}")
    if "patch_size" in preprocessing:
        from segzoo.volume_preprocessing import VolumePreprocessing

        VolumePreprocessing.from_dict(preprocessing)
        return
    size = preprocessing.get("image_size", ())  # Preprocessing itself would import torch
    if size is not None and not (isinstance(size, list) and [type(side) for side in size] == [int, int]):
        raise SegzooError(f"its metadata give its preprocessing as {preprocessing!r}")


def first_line(error: Exception) -> str:
    """What a backend says first, of what may be pages."""
    return str(error).strip().partition("\n")[0][:200]


def open_exported(path: Path, backend: str | None = None) -> ExportedModel:
    """An exported file, found good.

    Args:
        path: an .onnx file.
        backend: one of `BACKENDS`; None takes the first that is installed.

    Raises:
        MissingError: there is no such file, or the backend is not installed.
        SegzooError: it cannot be opened, or is not one that segzoo wrote.
    """
    if not path.is_file():
        raise MissingError(f"there is no file {path}; `segzoo export` writes one from a checkpoint")
    model = ExportedModel(path, choose_backend(backend))
    assert model.facts
    return model


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
        from segzoo.volume_preprocessing import VolumePreprocessing

        return VolumePreprocessing.from_dict(self.model.facts["preprocessing"])

    def read(self, file: Path) -> npt.NDArray[np.uint8] | Volume:
        """An image or a volume of a size that the exported file takes."""
        with enough_memory(file):
            given = read_file(file, self.channels, self.spatial_dims)
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

        from segzoo.inference import slide

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
