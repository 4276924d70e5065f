"""ONNX Runtime and OpenVINO as backends: exported files. Images need no torch, which takes longer to import."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segzoo.checkpoints.metadata import Metadata
from segzoo.errors import MissingPackageError, SegzooError, first_line
from segzoo.paths import require_file
from segzoo.postprocessing import Postprocessing
from segzoo.prediction.backend import NO_BFLOAT16, Backend
from segzoo.prediction.onnx_bytes import has_external_data
from segzoo.preprocessing.base import InputContract
from segzoo.preprocessing.exported import FloatArray, exported_contract
from segzoo.preprocessing.ranges import Ranges
from segzoo.tasks import Task

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


FACTS = "segzoo"  # the metadata's key, in ONNX and in the extra files of torch.export
UNTEMPERED = "uncalibrated"  # the output of probabilities without a temperature, in files of a checkpoint with one
WEIGHTS = "segzoo_weights"  # that of the sha256 of OpenVINO's .bin, in the .xml that it belongs to


# ---- backends


@dataclass(frozen=True)
class Session:
    """Exported file, opened by what runs it.

    Attributes:
        runtime: the name and version of that.
        facts: the JSON that `segzoo export` wrote; None where there is none.
        size: sides of the inputs; None where they vary.
        run: from inputs, float32 [B, C, *S], to probabilities, float32 [B, K, *S], without a temperature.
    """

    runtime: str
    facts: str | None
    size: tuple[int, ...] | None
    run: Callable[[FloatArray], FloatArray]


def open_onnxruntime(content: bytes, threads: int, weights: bytes = b"", precision: str = "auto") -> Session:
    """Open a file's content by ONNX Runtime, on the CPU, which computes in what the file is written in."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads  # said, for of its own accord it binds its threads to cores, taken or not
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    sides = session.get_inputs()[0].shape[2:]
    wanted = untempered(output.name for output in session.get_outputs())
    return Session(
        f"ONNX Runtime {onnxruntime.__version__}",
        session.get_modelmeta().custom_metadata_map.get(FACTS),
        tuple(sides) if all(isinstance(side, int) for side in sides) else None,
        lambda image: session.run([wanted], {"image": image})[0],
    )


def open_openvino(content: bytes, threads: int, weights: bytes = b"", precision: str = "auto") -> Session:
    """Open a file's content by OpenVINO, on the CPU; the weights are those beside an .xml file."""
    openvino = import_openvino()
    model, compiled = compile_openvino(content, threads, weights, precision)
    metadata = model.get_rt_info("framework").value if model.has_rt_info("framework") else {}
    sides = list(model.input(0).partial_shape)[2:]
    wanted = untempered(name for output in model.outputs for name in output.get_names())
    return Session(
        f"OpenVINO {openvino.__version__.partition('-')[0]}",
        metadata.get(FACTS),
        tuple(side.get_length() for side in sides) if all(side.is_static for side in sides) else None,
        lambda image: compiled({"image": image})[wanted],
    )


def untempered(outputs: Iterable[str]) -> str:
    """Return which of a file's outputs are the probabilities that masks are made of."""
    return UNTEMPERED if UNTEMPERED in set(outputs) else "probabilities"


def compile_openvino(content: bytes, threads: int, weights: bytes = b"", precision: str = "auto") -> tuple[Any, Any]:
    """Return OpenVINO's model of a file's content, and what it compiles of it for the CPU.

    Raises:
        SegzooError: the CPU has no instructions for bfloat16, which was asked for.
    """
    core = import_openvino().Core()
    in_bfloat16 = precision == "bfloat16"
    if in_bfloat16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise SegzooError(NO_BFLOAT16.format("processor"))
    model = core.read_model(content, weights) if weights else core.read_model(content)
    options = {
        # of its own accord it takes bfloat16 where the CPU has it, which masks would show
        "INFERENCE_PRECISION_HINT": "bf16" if in_bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # or several processes would share the same few cores
    }
    return model, core.compile_model(model, "CPU", options)


def import_openvino() -> Any:
    """Import OpenVINO."""
    return import_unreported("openvino")


def import_unreported(package: str) -> Any:
    """Import one of OpenVINO's packages, which report to their maker that they were, unless another is not there."""
    reporter = "openvino_telemetry"
    hidden = reporter not in sys.modules
    if hidden:
        sys.modules[reporter] = None  # type: ignore[assignment]
    try:
        return import_module(package)
    finally:
        if hidden:
            del sys.modules[reporter]


BACKENDS: dict[str, Callable[[bytes, int, bytes, str], Session]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
RUN_BY = {".onnx": tuple(BACKENDS), ".xml": ("openvino",)}  # backends by the suffix of what they run


def choose_backend(wanted: str | None, suffix: str = ".onnx") -> str:
    """Return the backend asked for, or the first that is installed.

    Raises:
        MissingPackageError: it, or any, is not installed.
        SegzooError: it does not run such files.
    """
    backends = RUN_BY[suffix]
    if wanted and wanted not in backends:
        raise SegzooError(f"{wanted} does not run {suffix} files; leave --backend out, or say {' or '.join(backends)}")
    for backend in [wanted] if wanted else backends:
        if find_spec(backend) is not None:
            return backend
    missing = wanted or backends[0]
    raise MissingPackageError(f"exported files need {missing} to run: pip install 'medsegzoo[{missing}]'")


def thread_count() -> int:
    """Return what torch would: ``OMP_NUM_THREADS``, or as many as there are cores for this process."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    if said.isdigit() and int(said) > 0:
        return int(said)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- files


def read_weights(path: Path, content: bytes) -> bytes:
    """Return the weights that OpenVINO keeps beside an .xml file, found to be its own; of other files nothing.

    Raises:
        MissingFileError: they are not there.
        SegzooError: they are another file's, or the .xml file does not say which are its own.
    """
    if path.suffix.lower() != ".xml":
        return b""
    stated = re.search(rb'<%s value="([0-9a-f]{64})" */>' % WEIGHTS.encode(), content)
    if stated is None:
        raise SegzooError(f"{path} was not written by segzoo export, so nothing says what it takes and gives")
    beside = path.with_suffix(".bin")
    require_file(beside, f"; it holds the weights of {path.name}, and lies beside it")
    weights = beside.read_bytes()
    if hashlib.sha256(weights).hexdigest() != stated[1].decode():
        raise SegzooError(f"{beside} does not hold the weights of {path.name} (its sha256 differs); export both again")
    return weights


class ExportedModel:
    """Exported file with what runs it, a :class:`segzoo.prediction.backend.Backend`.

    Masks are those of the checkpoint that was exported, but for pixels where rounding decides.

    Args:
        path: of the file.
        backend: one of `BACKENDS`.
        digest: sha256 of the file that another process has opened; None takes what is there.
        precision: "bfloat16" by OpenVINO; "auto" and "float32" are what the file is written in.

    Raises:
        SegzooError: by every attribute, that the file cannot be opened or is not one that segzoo wrote.
    """

    batch_size = 1  # as a checkpoint has it on a CPU
    members: tuple[Backend, ...] = ()  # which the graph has made one
    device = "cpu"

    def __init__(self, path: Path, backend: str, digest: str | None = None, precision: str = "auto") -> None:
        self.path, self.backend, self.digest, self.precision = path, backend, digest, precision
        self.subject = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the session behind: another process opens its own, with as many threads as it may have."""
        return ExportedModel, (self.path, self.backend, self.digest, self.precision)

    @cached_property
    def session(self) -> Session:
        """File as its backend has opened it: read once, so that what its hash is of is what computes."""
        try:
            content = self.path.read_bytes()
            if has_external_data(content):
                raise SegzooError(
                    f"{self.path} keeps weights in another file, so nothing vouches for what it computes; export it "
                    "again, or save it with its weights inside"
                )
            digest = hashlib.sha256(content).hexdigest()
            if digest != (self.digest or digest):
                raise SegzooError(f"{self.path} has changed since this run began; start it again")
            self.digest = digest
            return BACKENDS[self.backend](content, thread_count(), read_weights(self.path, content), self.precision)
        except (SegzooError, MemoryError):
            raise
        except Exception as error:  # either backend raises many kinds; all mean the same here
            raise SegzooError(
                f"{self.path} cannot be opened by {self.backend}: it is damaged or of another kind; export it again "
                f"({first_line(error)})"
            ) from error

    @cached_property
    def metadata(self) -> Metadata:
        """Description of the file by itself, checked."""
        return Metadata.read(self.path, self.session.facts)

    # ---- to be told from others

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.metadata.mask_names

    @property
    def volume_channels(self) -> int:
        """Number of channels that it takes of a volume."""
        return self.metadata.volume_channels

    @property
    def identity(self) -> dict[str, str]:
        """Hash and backend, which tell its masks from those of any other model."""
        assert self.session
        return {"exported": str(self.digest), "backend": self.backend}

    # ---- as a backend

    @property
    def description(self) -> str:
        """One line for people: what computes, and how."""
        threads = thread_count()
        return (
            f"{self.path}, exported from {self.metadata.name}; {self.session.runtime} on the CPU, {threads} "
            f"thread{'s' * (threads > 1)}, {self.metadata.precision}"
            f"{' computed in bfloat16' * (self.precision == 'bfloat16')}"
        )

    @cached_property
    def contract(self) -> InputContract:
        """Contract of what the graph leaves to its user."""
        return exported_contract(self.metadata.contract, self.session.size)

    @property
    def task(self) -> Task:
        """Number and kind of the classes."""
        return self.metadata.task

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the mask's values, or of the channels."""
        return self.metadata.class_names

    @property
    def postprocessing(self) -> Postprocessing:
        """Description of what belongs to its masks."""
        return self.metadata.postprocessing

    @property
    def ranges(self) -> Ranges:
        """Ranges of the inputs that it was trained on; nothing where they were not kept."""
        return self.metadata.data.get("ranges", {})

    def require_size(self, given: Any, file: object) -> None:
        """Refuse an input that a file of one size does not take."""
        if self.session.size is not None:
            self.contract.require_size(given, self.session.size, file, self.path)

    def place(self, batch: Any) -> FloatArray:
        """Return inputs as an array."""
        return np.ascontiguousarray(batch, np.float32)

    def compute(self, batch: FloatArray) -> FloatArray:
        """Return the probabilities that the file gives.

        Raises:
            SegzooError: the backend cannot compute them, mostly for want of memory, or they are of other classes than
                the metadata announce.
        """
        try:
            found = self.session.run(np.ascontiguousarray(batch))
        except MemoryError:
            raise
        except Exception as error:  # as above
            raise SegzooError(
                f"{self.backend} cannot compute an input of {' x '.join(map(str, batch.shape[2:]))} "
                f"({first_line(error)})"
            ) from error
        if found.shape[1] != self.task.num_classes:
            raise SegzooError(
                f"{self.path} gives {found.shape[1]} classes where its metadata announce {self.task.num_classes}; "
                "export it again"
            )
        return found

    def flip(self, batch: FloatArray, axes: tuple[int, ...]) -> FloatArray:
        """Return a mirrored view."""
        return np.flip(batch, axes)

    def fetch(self, probabilities: FloatArray) -> FloatArray:
        """Return probabilities, which are in the CPU's memory already."""
        return probabilities


def open_exported(path: Path, backend: str | None = None, precision: str = "auto") -> ExportedModel:
    """Open an exported file and find it good.

    Args:
        path: an .onnx file, or an .xml file with its .bin beside it.
        backend: one of `BACKENDS`; None takes the first that is installed, for bfloat16 OpenVINO.
        precision: as of `ExportedModel`.

    Raises:
        MissingError: there is no such file, or the backend is not installed.
        SegzooError: it cannot be opened, is not one that segzoo wrote, or not computed in such a precision here.
    """
    require_file(path, "; `segzoo export` writes one from a checkpoint")
    if precision == "bfloat16":
        if backend == "onnxruntime":
            raise SegzooError(f"{backend} computes in what {path} is written in; for bfloat16 take openvino")
        backend = "openvino"
    model = ExportedModel(path, choose_backend(backend, path.suffix.lower()), precision=precision)
    assert model.metadata
    return model


# ---- size and speed


def open_session(path: Path, threads: int | None = None) -> "InferenceSession":
    """Open a file to run on the CPU; None is as many threads as PyTorch takes."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()  # of its own accord it binds them to busy cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
