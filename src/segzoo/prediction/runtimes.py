"""Exported files, opened by ONNX Runtime or OpenVINO."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segzoo.checkpoints.metadata import Metadata
from segzoo.checkpoints.weights import sha256
from segzoo.errors import MissingFileError, MissingPackageError, SegzooError, first_line

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


FACTS = "segzoo"  # the metadata's key, in ONNX and in the extra files of torch.export
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
        MissingPackageError: it, or any, is not installed.
    """
    for backend in [wanted] if wanted else BACKENDS:
        if find_spec(backend) is not None:
            return backend
    missing = wanted or next(iter(BACKENDS))
    raise MissingPackageError(f"exported files need {missing} to run: pip install 'medsegzoo[{missing}]'")


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
    def metadata(self) -> Metadata:
        """Description of the file by itself, checked."""
        return Metadata.read(self.path, self.session.facts)

    @property
    def facts(self) -> dict[str, Any]:
        """Entries of the metadata."""
        return self.metadata.entries

    @property
    def mask_names(self) -> list[str] | None:
        """Names of the classes where each has a mask of its own (multi-label), else None."""
        return self.metadata.mask_names

    @property
    def identity(self) -> dict[str, str]:
        """What tells its masks from those of any other model."""
        return {"exported": sha256(self.path), "backend": self.backend}


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
        raise MissingFileError(f"there is no file {path}; `segzoo export` writes one from a checkpoint")
    model = ExportedModel(path, choose_backend(backend))
    assert model.metadata
    return model


# ---- size and speed


def open_session(path: Path, threads: int | None = None) -> "InferenceSession":
    """A file, ready to run on the CPU; None is as many threads as PyTorch takes."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()  # of its own accord it binds them to busy cores
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
