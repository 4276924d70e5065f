"""A trained network as one file that runs without segzoo: intensities in, probabilities out.

The graph of a model for images takes raw intensities (0..255) at any size. Inside, it resizes and normalises them as
the checkpoint's contract says, runs the deployed network, and brings the probabilities back to the image's own size.
Volumes are normalised as a whole and segmented in windows; the graph of a model for volumes takes these, normalised.

What was written is run once, on a real image (in int8 on the images that calibrated it), and refused where it does not
agree with Python.
"""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo import __version__
from segzoo.checkpoint import read_config
from segzoo.errors import MissingError, SegzooError
from segzoo.exported import FACTS
from segzoo.hub import checkpoint_folders
from segzoo.inference import read_input
from segzoo.metrics import Dice
from segzoo.preprocessing import Preprocessing
from segzoo.probe import PROBE, relative_difference
from segzoo.quantization import open_session, quantize, refuse_what_gains_nothing
from segzoo.volume_preprocessing import VolumePreprocessing
from segzoo.volumes import Volume
from segzoo.weights import read_safetensors

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
TOLERANCES = {"float32": 5e-5, "float16": 2e-2, "int8": 0.1}  # of the largest logit; in int8 1 - Dice of the masks
OPSET = 20  # of ONNX: the first that knows GELU
OUTPUTS = ("probabilities", "logits")
AXES = ("depth", "height", "width")
LARGEST_FOLDED = 2**22  # elements of a constant


@dataclass(frozen=True)
class Exported:
    """What was written, and how well it agrees.

    Attributes:
        path: the file.
        difference: the largest difference of a logit from Python's, of the largest logit; in int8 what the Dice of its
            masks with Python's lacks of 1.
        image: what that was measured on.
        precision: as asked for.
    """

    path: Path
    difference: float
    image: str
    precision: str

    def __str__(self) -> str:
        return f"{self.path}: {self.path.stat().st_size / 1e6:.1f} MB; {self.agreement} ({self.image})"

    @property
    def agreement(self) -> str:
        """How well it agrees, in words."""
        if self.precision == "int8":
            return f"its masks agree with Python's to a Dice of {1 - self.difference:.3f}"
        return f"agrees with Python to {self.difference:.1e} of the largest logit"


# ---- the graph


class Graph(nn.Module):
    """A deployed network with what a checkpoint's contract does before and after it.

    Args:
        network: deployed.
        precision: "float32" or "float16", of the network alone: images and probabilities are float32.
        resize: to a height and width.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: "SegmentationModule", precision: str, resize: Callable[[Tensor, Sequence[int]], Tensor]
    ) -> None:
        super().__init__()
        self.resize = resize
        self.network = network.deploy().half() if precision == "float16" else network  # a copy: half() works in place
        self.dtype = torch.float16 if precision == "float16" else torch.float32
        contract = network.preprocessing
        self.contract = contract if isinstance(contract, Preprocessing) else None
        self.image_size = None if self.contract is None else self.contract.image_size  # None: nothing is resized
        if self.contract is not None:
            for name in ("mean", "std"):
                values = torch.tensor(getattr(self.contract, name)) * 255.0
                self.register_buffer(name, values[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [B, K, *S] of images [B, C, *S], and logits on the network's own grid."""
        size, x = image.shape[2:], image
        if self.image_size is not None:
            x = self.resize(x, self.image_size)
        if self.contract is not None:
            x = (x - self.mean) / self.std
        logits = self.logits(x)
        # flat, since ONNX Runtime would go on in its own layout, which has 16 channels for one class
        probabilities = self.network.activate(logits.flatten(2)).unflatten(2, logits.shape[2:])
        return probabilities if self.image_size is None else self.resize(probabilities, size), logits

    def logits(self, x: Tensor) -> Tensor:
        """The network's forward pass, padded and cropped without looking at the size, which may vary."""
        network = self.network
        strides = network.stride if isinstance(network.stride, tuple) else (network.stride,) * (x.ndim - 2)
        padded = x
        for axis, stride in enumerate(strides, 2):
            side = x.shape[axis]
            whole = (side + stride - 1) // stride * stride
            if not isinstance(side, int) or whole != side:
                padded = padded.index_select(axis, torch.arange(whole, device=x.device).clamp(max=side - 1))
        logits = network.compute_logits(padded.to(self.dtype))
        assert isinstance(logits, Tensor)  # deployed networks have one output
        for axis, side in enumerate(x.shape[2:], 2):  # not a slice, whose program would only do where it cuts something
            if not isinstance(side, int) or logits.shape[axis] != side:
                logits = logits.index_select(axis, torch.arange(side, device=x.device))
        return logits.float()


def interpolate(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, in the one operation that PyTorch has for it."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, as `Preprocessing` does it, in operations that every runtime has.

    ONNX's own antialiased Resize is ignored without a word by some runtimes, OpenVINO's among them.

    Args:
        x: [B, C, H, W].
        size: the height and width to reach; either may vary from call to call, as may those of x.
    """
    height, width = size  # rows first: columns need transposing, of what is smaller then
    return resize_rows(resize_rows(x, height).mT, width).mT


def resize_rows(x: Tensor, count: int) -> Tensor:
    """[B, C, count, W] of x [B, C, H, W]: each row a weighted sum of the rows under a triangle over its place."""
    own = x.shape[-2]
    if isinstance(own, int) and isinstance(count, int) and own == count:
        return x
    reach = (2 * torch.sym_max(own, count) + count - 1) // count + 1  # rows under a triangle
    reach = torch.sym_min(reach, 1 + 4 * torch.sym_max(own - count, count - own))  # one where nothing is to be resized
    step = torch.scalar_tensor(own, dtype=torch.float32) / count
    half = step.clamp(min=1)
    centre = (torch.arange(count) + 0.5) * step
    first = (centre - half + 0.5).floor().clamp(min=0)
    row = first[:, None] + torch.arange(reach)
    weight = (1 - ((row + 0.5 - centre[:, None]) / half).abs()).clamp(min=0) * (row < own)
    weight = weight / weight.sum(1, keepdim=True)
    rows = x.index_select(-2, row.clamp(max=own - 1).long().flatten()).unflatten(-2, row.shape)
    return (weight[:, None] @ rows).squeeze(-2)


# ---- export


def export(
    model: "SegmentationModule",
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
        path: the file to write, ``.onnx`` or ``.pt2``.
        format: "onnx" or "torch-export"; None is what the suffix says.
        precision: "float32"; "float16" for half the size and for devices that compute in it; or "int8" for a third of
            the size, in ONNX alone and for LV-UNet and CMUNeXt alone.
        size: sides of the inputs, fixed; None lets them vary. At the network's own size images are not resized, which
            is the fastest form. The batch always varies.
        image: a real one to check the file with: whatever ``predict`` takes. None takes one that segzoo ships.
        calibration: real images, some 30 and none to test on, that int8 takes its ranges from: whatever ``predict``
            takes.
        details: plain values to add to the metadata, such as the licence.

    Raises:
        MissingError: a package that writes or runs the format is not installed.
        SegzooError: the model cannot be deployed as it is, the file cannot be written, what was written computes
            something else, or int8 gains nothing.
    """
    path = Path(path)
    format = choose_format(path, format)
    if precision not in TOLERANCES:
        raise SegzooError(f"precision must be one of {', '.join(TOLERANCES)}, not {precision!r}")
    if precision == "int8":
        refuse_int8(model, format, calibration)
    if format == "onnx":
        require("onnxscript", "onnxruntime")
    network = model.deploy().cpu()
    if format == "onnx":
        network.to(memory_format=torch.contiguous_format)  # the only layout there; programs keep the one of `deploy`
    sides = len(AXES) if network.spatial_dims == 3 else len(AXES) - 1
    if size is not None and not is_size(size, sides):
        raise SegzooError(f"size must give {' and '.join(AXES[-sides:])}, not {size!r}")
    facts = {**describe(model), **(details or {}), "precision": precision}
    source, raw = (str(image), image) if image is not None else sample_for(network)
    x = example_input(network, size)
    dynamic = dynamic_shapes(x, size)
    draft = path.with_name(f".{path.name}.draft{SUFFIXES[format]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.touch()
        if precision == "int8":
            source = f"the {len(calibration)} images that calibrated it"
            write_int8(network, calibration, size, x, dynamic, facts, draft)
            difference = compare_masks(network, draft, calibration, size)
        else:
            if format == "onnx":
                write_onnx(Graph(network, precision, resize).eval(), x, dynamic, facts, draft)
            else:
                write_program(Graph(network, precision, interpolate).eval(), x, dynamic, facts, draft)
            difference = compare(network, draft, format, raw, size)
        if not difference <= TOLERANCES[precision]:  # NaN included
            raise SegzooError(f"{path} was not written: {refusal(difference, precision, source)}")
        os.replace(draft, path)
    except MissingError:  # which is an OSError, too
        raise
    except OSError as error:
        raise SegzooError(f"{path} cannot be written ({error.strerror})") from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return Exported(path, difference, source, precision)


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


def refuse_int8(model: "SegmentationModule", format: str, calibration: Sequence[Any]) -> None:
    """Refuse what int8 cannot be written for.

    Raises:
        SegzooError: saying so.
    """
    if not model.can_be_int8:
        raise SegzooError(
            "int8 is for LV-UNet and CMUNeXt, whose masks were found to stay as they are; export a "
            f"{type(model).__name__} in float16"
        )
    if format != "onnx":
        raise SegzooError("int8 is ONNX Runtime's: end the file in .onnx")
    if not len(calibration):
        raise SegzooError(
            "int8 needs real images to find its ranges with: give the dataset's folder with --data, or, in Python, "
            "images as calibration"
        )


def choose_format(path: Path, format: str | None) -> str:
    """The format asked for, or that of the suffix."""
    if format is not None and format not in SUFFIXES:
        raise SegzooError(f"format must be {' or '.join(SUFFIXES)}, not {format!r}")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    chosen = format or by_suffix.get(path.suffix.lower())
    if chosen is None:
        raise SegzooError(f"{path} says no format: end it in {' or '.join(by_suffix)}, or give {' or '.join(SUFFIXES)}")
    return chosen


def is_size(size: Any, sides: int) -> bool:
    """Whether it is so many lengths, in whole numbers."""
    whole = isinstance(size, Sequence) and all(isinstance(side, int | np.integer) for side in size)
    return whole and len(size) == sides and min(size) > 0


def require(*packages: str) -> None:
    """Refuse at once what would fail after a minute."""
    from importlib.util import find_spec

    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise MissingError(f"ONNX needs {' and '.join(missing)}: pip install 'medsegzoo[onnx]'")


def describe(model: "SegmentationModule") -> dict[str, Any]:
    """What a file says of itself, enough to use it without the checkpoint."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    return {
        "segzoo_version": __version__,
        "model": {"name": model.model_name, "arguments": model.arguments},
        "state_sha256": hashlib.sha256(save(tensors)).hexdigest(),
        "preprocessing": model.preprocessing.to_dict(),
        "num_classes": model.num_classes,
        "multilabel": model.multilabel,
        "class_names": list(model.class_names),
    }


def example_input(network: "SegmentationModule", size: Sequence[int] | None) -> Tensor:
    """What the graph is traced with: two images of no special size, or of the size that is to be fixed."""
    sides = size or ((300, 411) if network.spatial_dims == 2 else (40, 56, 72))
    return torch.rand(2, network.in_channels, *sides, generator=torch.Generator().manual_seed(0)) * 255


def dynamic_shapes(x: Tensor, size: Sequence[int] | None) -> tuple[dict[int, Any]]:
    """Which axes vary: the batch and, unless fixed, the sides."""
    axes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if size is None:
        spatial = x.ndim - 2
        axes |= {axis: torch.export.Dim(name) for axis, name in enumerate(AXES[-spatial:], 2)}
    return (axes,)


def write_onnx(graph: Graph, x: Tensor, dynamic: Any, facts: Mapping[str, Any], path: Path) -> None:
    """As ONNX, weights and metadata inside."""
    program = torch.onnx.export(
        graph,
        (x,),
        dynamo=True,
        dynamic_shapes=dynamic,
        opset_version=OPSET,
        input_names=["image"],
        output_names=list(OUTPUTS),
        verbose=False,
        optimize=False,
    )
    assert program is not None
    simplify(program.model)
    graph_of_onnx = program.model.graph
    for node in graph_of_onnx.all_nodes():  # the exporter leaves in every node where on this machine it comes from
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
            if not value.is_graph_output():
                value.shape = None  # sizes that vary are named after how they come about, and not all names hold
    graph_of_onnx.metadata_props.clear()
    program.model.metadata_props.clear()
    program.model.metadata_props[FACTS] = json.dumps(facts)
    program.save(path)


def simplify(model: Any) -> None:
    """Fold constants, and drop what is unused or there twice.

    That is the exporter's own optimisation but for its search for patterns, which runtimes do again when they load a
    file: it goes through the whole graph for every node, for ten minutes where there are thousands (Med-URWKV).
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    # what is made of weights too, such as resized position embeddings: in float16 not every runtime can
    fold_constants_ir(model, input_size_limit=LARGEST_FOLDED)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.DeduplicateInitializersPass()(model)
    common.CommonSubexpressionEliminationPass()(model)


def write_program(graph: Graph, x: Tensor, dynamic: Any, facts: Mapping[str, Any], path: Path) -> None:
    """As an exported program of PyTorch, metadata among its extra files."""
    program = torch.export.export(
        graph,
        (x,),
        dynamic_shapes=tuple({axis: torch.export.Dim.DYNAMIC for axis in axes} for axes in dynamic),  # least size found
        strict=False,
        prefer_deferred_runtime_asserts_over_guards=True,
    )
    with warnings.catch_warnings():
        # of weights in channels-last layout, which it saves whole for all that
        warnings.filterwarnings("ignore", message="No complete tensor found")
        whole = io.BytesIO()  # for on a full disk PyTorch ends the process
        torch.export.save(program, whole, extra_files={FACTS: json.dumps(facts)})
    path.write_bytes(whole.getbuffer())


def write_int8(
    network: "SegmentationModule",
    calibration: Sequence[Any],
    size: Sequence[int] | None,
    x: Tensor,
    dynamic: Any,
    facts: Mapping[str, Any],
    path: Path,
) -> None:
    """As ONNX in int8, by way of a file in float32."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float32.onnx"
        write_onnx(Graph(network, "float32", resize).eval(), x, dynamic, facts, whole)
        inputs = (check_inputs(network, image, size)[0].numpy() for image in calibration)  # some are large: one by one
        quantize(whole, path, inputs)
        refuse_what_gains_nothing(path, whole, check_inputs(network, calibration[0], size)[0].numpy())


# ---- check


def compare(network: "SegmentationModule", path: Path, format: str, raw: Any, size: Sequence[int] | None) -> float:
    """The largest difference of the file's logits from Python's on an image, of the largest logit."""
    x, batch = check_inputs(network, raw, size)
    with torch.inference_mode():
        expected = network(batch)
    return relative_difference(run(path, format, x), expected)


def compare_masks(
    network: "SegmentationModule", path: Path, images: Sequence[Any], size: Sequence[int] | None
) -> float:
    """What the mean Dice of a file's masks with Python's lacks of 1, on the network's own grid."""
    session, dice = open_session(path), Dice(network.num_classes, multilabel=network.multilabel)
    for image in images:
        x, batch = check_inputs(network, image, size)
        with torch.inference_mode():
            expected = network(batch)
        found = torch.from_numpy(session.run(["logits"], {"image": x.numpy()})[0])
        dice.update(*(network.mask(network.activate(logits)) for logits in (found, expected)))
    return 1 - dice.compute().item()


def check_inputs(network: "SegmentationModule", raw: Any, size: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    """What the file takes of an image, and what Python's network does."""
    given = read_input(network.preprocessing, raw)
    if isinstance(network.preprocessing, VolumePreprocessing):
        assert isinstance(given, Volume)
        depth, height, width = size or network.preprocessing.patch_size
        window = network.preprocessing(given)[None, :, :depth, :height, :width]
        if size is not None:  # of which the volume may not have as much
            depth, height, width = (side - own for side, own in zip(size, window.shape[2:], strict=True))
            window = F.pad(window, (0, width, 0, height, 0, depth), mode="replicate")
        return window, window
    assert isinstance(given, np.ndarray)
    if size is not None:
        resized = interpolate(torch.from_numpy(given.transpose(2, 0, 1).astype(np.float32))[None], size)
        given = resized[0].permute(1, 2, 0).round().numpy().astype(np.uint8)
    x = torch.from_numpy(given.transpose(2, 0, 1).astype(np.float32))[None]
    return x, network.preprocessing(given)[None]


def run(path: Path, format: str, x: Tensor) -> Tensor:
    """The logits that a file computes."""
    if format == "torch-export":
        with torch.inference_mode():
            return torch.export.load(path).module()(x)[1]
    return torch.from_numpy(open_session(path).run(["logits"], {"image": x.numpy()})[0])


def sample_for(network: "SegmentationModule") -> tuple[str, Any]:
    """An image or volume that a shipped checkpoint of the same kind has as its example; else noise."""
    for folder in checkpoint_folders().values():
        file = folder / PROBE
        with suppress(SegzooError):  # a checkpoint that is damaged has no part in this
            config = read_config(folder)
            if file.is_file() and config["preprocessing"]["channels"] == network.in_channels:
                image = read_safetensors(file)["image"]
                if (image.dtype == torch.uint8) == (network.spatial_dims == 2):
                    return config["example"]["source"], image.numpy()
    shape = network.preprocessing.patch_size or (256, 256)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, network.in_channels)).astype(np.uint8)
    return "noise, for lack of an image", noise if network.spatial_dims == 2 else np.moveaxis(noise, -1, 0)
