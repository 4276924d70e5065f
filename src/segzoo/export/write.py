"""Trained network as one file that runs without segzoo: intensities in, probabilities out.

The graph of a model for images takes raw intensities (0..255) at any size. Inside, it resizes and normalises them as
the checkpoint's contract says, runs the deployed network, and brings the probabilities back to the image's own size.
Volumes are normalised as a whole and segmented in windows; the graph of a model for volumes takes these, normalised.

What was written is run once, on a real image (in int8 on the images that calibrated it), and refused where it does not
agree with Python.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from segzoo.checkpoints.finite import require_finite
from segzoo.checkpoints.folder import drafting
from segzoo.checkpoints.metadata import Metadata
from segzoo.errors import SegzooError, cause_of, first_line
from segzoo.export.base import ExportFormat, Request
from segzoo.export.check import compare, compare_masks, sample_for
from segzoo.export.formats import choose_format
from segzoo.export.graph import AXES, dynamic_shapes, example_input
from segzoo.postprocessing import EVEN, Postprocessing

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


TOLERANCES = {"float32": 5e-5, "float16": 2e-2, "int8": 0.1}  # of the largest logit; in int8 1 - Dice of the masks


@dataclass(frozen=True)
class Exported:
    """Written file, and how well it agrees.

    Attributes:
        path: the file.
        difference: the largest difference of a logit from Python's, of the largest logit; in int8 what the Dice of its
            masks with Python's lacks of 1.
        image: what that was measured on.
        precision: as asked for.
        size: bytes, of all its files.
        left: what the file leaves of the checkpoint's post-processing to `segzoo predict`, in words; nothing is "".
    """

    path: Path
    difference: float
    image: str
    precision: str
    size: int
    left: str = ""

    def __str__(self) -> str:
        left = f"; not in the graph, and done by segzoo predict: {self.left}" if self.left else ""
        return f"{self.path}: {self.size / 1e6:.1f} MB; {self.agreement} ({self.image}){left}"

    @property
    def agreement(self) -> str:
        """Agreement with Python, in words."""
        if self.precision == "int8":
            return f"its masks agree with Python's to a Dice of {1 - self.difference:.3f}"
        return f"agrees with Python to {self.difference:.1e} of the largest logit"


# ---- export


def export(
    model: "SegmentationNetwork",
    path: str | Path,
    *,
    format: str | None = None,
    precision: str = "float32",
    size: Sequence[int] | None = None,
    image: Any = None,
    calibration: Sequence[Any] = (),
    details: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a model's deployed form as one file, and check it; see the module's first lines for what is in it.

    Args:
        model: trained; it stays as it is.
        path: the file to write: ``.onnx``, ``.xml`` (OpenVINO, with a ``.bin`` beside it), ``.pte`` (ExecuTorch) or
            ``.pt2``.
        format: "onnx", "openvino", "executorch" or "torch-export"; None is what the suffix says.
        precision: "float32"; "float16" for half the size and for devices that compute in it; or "int8" for a third of
            the size, for LV-UNet and CMUNeXt in ONNX and for CMUNeXt in OpenVINO, where it saves time too.
        size: sides of the inputs, fixed; None lets them vary. At the network's own size images are not resized, which
            is the fastest form. The batch always varies.
        image: a real one to check the file with: whatever ``predict`` takes. None takes one that segzoo ships.
        calibration: real images, some 30 and none to test on, that int8 takes its ranges from: whatever ``predict``
            takes.
        details: plain values to add to the metadata, such as the licence.

    Raises:
        MissingPackageError: a package that writes or runs the format is not installed.
        SegzooError: the model cannot be deployed as it is, the file cannot be written, what was written computes
            something else, or int8 gains nothing.
    """
    path = Path(path)
    writer = choose_format(path, format)
    refuse_precision(model, writer, precision, calibration)
    refuse_place(path, writer)
    if size is None and writer.needs_size:
        raise SegzooError(f"{writer.suffix} files take inputs of one size: give it with --size")
    writer.require_packages(precision)
    require_finite(model.state_dict(), "this model")
    network = model.deploy().cpu()
    rounded = {name: value.half() for name, value in network.state_dict().items()} if precision == "float16" else {}
    require_finite(network.state_dict() | rounded, f"this model, deployed in {precision},")
    if not writer.channels_last:
        network.to(memory_format=torch.contiguous_format)
    sides = len(AXES) if network.spatial_dims == 3 else len(AXES) - 1
    if size is not None and not is_size(size, sides):
        raise SegzooError(f"size must give {' and '.join(AXES[-sides:])}, not {size!r}")
    facts = metadata_of(model, precision, details or {})
    source, raw = (str(image), image) if image is not None else sample_for(network)
    x = example_input(network, size)
    request = Request(network, precision, x, dynamic_shapes(x, size), facts, size, calibration)
    try:
        with drafting(path.parent, path.name) as folder:
            draft = folder / f"draft{writer.suffix}"
            draft.touch()
            writer.write(request, draft)
            if precision == "int8":
                source = f"the {len(calibration)} images that calibrated it"
                difference = compare_masks(network, writer.open(draft), calibration, size)
            else:
                difference = compare(network, writer.open(draft), raw, size)
            if not difference <= TOLERANCES[precision]:  # NaN included
                raise SegzooError(f"{path} was not written: {refusal(difference, precision, source)}")
            written = [draft, draft.with_suffix(writer.companion)] if writer.companion else [draft]
            bytes_written = sum(file.stat().st_size for file in written)
            for file in reversed(written):  # the file itself at last: it tells whether its companion is its own
                os.replace(file, path.with_suffix(file.suffix) if file is not draft else path)
    except SegzooError:
        raise
    except Exception as error:  # the exporter says in an error of its own that its temporary files have no room
        if (reason := cause_of(error, OSError)) is not None:
            raise SegzooError(f"{path} cannot be written ({reason.strerror or reason})") from error
        raise SegzooError(
            f"{path} was not written: this {type(model).__name__} cannot be exported, or what was written not be run "
            f"({type(error).__name__}: {first_line(error)}); try a file of another format, or another version of "
            f"{' or '.join(('torch', *writer.packages))}"
        ) from error
    return Exported(path, difference, source, precision, bytes_written, str(left_out(network)))


def left_out(network: "SegmentationNetwork") -> Postprocessing:
    """Return what of a network's post-processing its graph does not do.

    All but thresholds and temperature, of volumes these too; to say what to look at is no part of a prediction.
    """
    described = network.postprocessing
    if network.spatial_dims == 3:
        return Postprocessing(described.classes, temperature=described.temperature)
    return Postprocessing({name: replace(cleaning, threshold=EVEN) for name, cleaning in described.classes.items()})


def refusal(difference: float, precision: str, source: str) -> str:
    """Why a file that differs from Python by so much is not written, and what to do."""
    if precision == "int8":
        return (
            f"its masks agree with Python's only to a Dice of {1 - difference:.3f} on {source}, where "
            f"{1 - TOLERANCES[precision]:.1f} is the least; calibrate with more images, or export in float16"
        )
    return (
        f"its logits differ from Python's by up to {difference:.1e} of the largest on {source}, where "
        f"{TOLERANCES[precision]:.0e} is rounding; try another version of torch or onnxruntime"
    )


def refuse_place(path: Path, writer: ExportFormat) -> None:
    """Refuse a name beside which a file would be written over that belongs to something else.

    Raises:
        SegzooError: saying so.
    """
    if not writer.companion:
        return
    if path.suffix.lower() != writer.suffix:
        raise SegzooError(f"{path} gets a {writer.companion} file beside it: end its name in {writer.suffix}")
    beside = path.with_suffix(writer.companion)
    if beside.exists() and not path.exists():
        raise SegzooError(f"{beside} is in the way: there is no {path.name} that it belongs to; name another file")


def refuse_precision(
    model: "SegmentationNetwork", writer: ExportFormat, precision: str, calibration: Sequence[Any]
) -> None:
    """Refuse what cannot be written in a precision.

    Raises:
        SegzooError: saying so.
    """
    if precision not in TOLERANCES:
        raise SegzooError(f"precision must be one of {', '.join(TOLERANCES)}, not {precision!r}")
    if precision == "int8" and not model.int8_files:
        raise SegzooError(
            "int8 is for LV-UNet and CMUNeXt, whose masks were found to stay as they are; export a "
            f"{type(model).__name__} in float16"
        )
    if precision == "int8" and writer.suffix not in model.int8_files:
        raise SegzooError(
            f"{type(model).__name__} in int8 is for {' and '.join(model.int8_files)} files: end the name so"
        )
    if precision not in writer.precisions:
        raise SegzooError(f"{writer.suffix} files are written in {', '.join(writer.precisions)}, not in {precision}")
    if precision == "int8" and not len(calibration):
        raise SegzooError(
            "int8 needs real images to find its ranges with: give the dataset's folder with --data, or, in Python, "
            "images as calibration"
        )


def is_size(size: Any, sides: int) -> bool:
    """Return whether it is so many lengths, in whole numbers."""
    whole = isinstance(size, Sequence) and all(isinstance(side, int | np.integer) for side in size)
    return whole and len(size) == sides and min(size) > 0


def metadata_of(model: "SegmentationNetwork", precision: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a file says of itself."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    state_sha256 = hashlib.sha256(save(tensors)).hexdigest()
    return Metadata.of(model, state_sha256=state_sha256, precision=precision, details=details).entries
