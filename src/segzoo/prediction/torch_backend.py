"""PyTorch as a backend: a network in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from segzoo.errors import SegzooError, first_line
from segzoo.imaging.geometry import Geometry
from segzoo.prediction.backend import NO_BFLOAT16
from segzoo.prediction.pipeline import Pipeline
from segzoo.prediction.postprocess import Finishing
from segzoo.prediction.several import segment_all

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork

BATCH_IMAGES = 16  # on a GPU
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # what processors multiply bfloat16 by, as torch names it


class TorchBackend:
    """Backend of a network, in eval mode, best in its deployed form, on the device it shall run on.

    On a CPU images go one by one: in batches of 4 or 8 a CMUNeXt at 256 x 256 takes 1.2 to 1.4 times as long an image,
    since what passes between its layers no longer stays in the cache. ``torch.compile`` waits to be asked for: it takes
    longer than most folders do, and a small network on a fast GPU waits for files, not for its layers.

    Args:
        network: what computes.
        report: what was loaded, for the description.
        precision: what layers compute in by autocast; None is the network's own. Probabilities are at least float32.
        compiled: compile the network first, for the size that the contract has.

    Raises:
        SegzooError: it cannot be compiled here.
    """

    subject = "the network"

    def __init__(
        self,
        network: "SegmentationNetwork",
        report: str = "",
        *,
        precision: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.network, self.precision = network, precision
        self.forward: Callable[[Tensor], Any] = network
        self.contract, self.task, self.class_names = network.preprocessing, network.task, tuple(network.class_names)
        self.postprocessing, self.ranges = network.postprocessing, network.data.get("ranges", {})
        self._parameter = next(network.parameters())
        self.device = self._parameter.device
        on_gpu = self.device.type == "cuda"
        self.batch_size = BATCH_IMAGES if on_gpu else 1
        threads = torch.get_num_threads()
        where = (
            f"on {torch.cuda.get_device_name(self.device)}, batches of {self.batch_size}"
            if on_gpu
            else f"on the CPU, {threads} thread{'s' * (threads > 1)}"
        )
        numbers = str(precision or self._parameter.dtype).removeprefix("torch.")
        self.description = f"{report}; {where}, {numbers}{', compiled' * compiled}"
        if compiled:
            self.compile()

    @property
    def members(self) -> "list[TorchBackend]":
        """Backends of an ensemble's networks."""
        return [TorchBackend(member, precision=self.precision) for member in self.network.members]

    def require_size(self, given: Any, file: object) -> None:
        """Take inputs of all sizes."""

    def place(self, batch: Any) -> Tensor:
        """Bring inputs to the network's device and type."""
        return torch.as_tensor(batch).to(self._parameter)

    @torch.no_grad()
    def compute(self, batch: Tensor) -> Tensor:
        """Return the network's probabilities."""
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            return self.network.activate(self.forward(batch))

    def compile(self) -> None:
        """Compile the network, and run it once, which is when that happens.

        Raises:
            SegzooError: it cannot be compiled here.
        """
        self.forward = torch.compile(self.network)
        try:
            self.compute(self.place(self.contract(self.contract.read(self.contract.noise()))[None]))
        except Exception as error:  # whatever a compiler of code and one of C++ may meet
            missing = "InvalidCxxCompiler" in str(error)  # not by its class, which takes seconds to import
            why = "there is no C++ compiler, such as g++" if missing else first_line(error)
            raise SegzooError(f"the network cannot be compiled here ({why}); predict without compiling it") from error

    def flip(self, batch: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return a mirrored copy."""
        return batch.flip(axes)

    def fetch(self, probabilities: Tensor) -> Tensor:
        """Bring probabilities from the device."""
        return probabilities.cpu()


def precision_on(device: torch.device, wanted: str = "auto") -> torch.dtype | None:
    """Return what a device shall compute in, None for the network's own type; "auto" is bfloat16 on a GPU that has it.

    Raises:
        SegzooError: bfloat16 is asked for where there are no instructions for it.
    """
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" and has_bfloat16(device) else None
    if wanted == "bfloat16" and not has_bfloat16(device):
        raise SegzooError(NO_BFLOAT16.format("GPU" if device.type == "cuda" else "processor"))
    return torch.bfloat16 if wanted == "bfloat16" else None


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 by instructions of its own; True where that is not known."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # which older versions of torch lack
        return True
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in BFLOAT16)


def choose_device(wanted: str) -> str:
    """Return the device for "auto": a GPU where there is one.

    Raises:
        SegzooError: a GPU is asked for where there is none.
    """
    gpus = torch.cuda.is_available()
    if wanted.startswith("cuda") and not gpus:
        raise SegzooError("there is no GPU here that torch can use; leave --device out, or say --device cpu")
    return wanted if wanted != "auto" else "cuda" if gpus else "cpu"


# ---- a model in memory


def predict(model: "SegmentationNetwork", image: Any, *, tta: bool = False, overlap: float = 0.5) -> Any:
    """Segment one input, or a list of them, as :meth:`segzoo.SegmentationModule.predict` says.

    The network runs in its deployed form, which is kept for the next call, on its own device: over an image at the size
    it was trained for, over a volume window by window, and, where it is a network for images, slice by slice along a
    volume's first axis.
    """
    network = model.deployed_form() if model.is_deployable else model
    with evaluating(network) if network is model else nullcontext():  # the form is in eval mode, and nobody else has it
        return segment_all(Pipeline(TorchBackend(network), tta=tta, overlap=overlap), image)


@contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and every module back into its own: a frozen encoder keeps its eval mode."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def predict_probabilities(
    network: "SegmentationNetwork", batch: Tensor, *, tta: bool = False, overlap: float = 0.5
) -> Tensor:
    """Return probabilities [B, K, *S], on the CPU, of a preprocessed batch [B, C, *S] on any device.

    Args:
        network: in eval mode.
        batch: seen in one piece or, as the contract says, by the sliding window.
        tta: average each window over its mirrorings along the contract's ``mirror_axes``.
        overlap: of the windows, as part of their length.
    """
    found: Tensor = Pipeline(TorchBackend(network), tta=tta, overlap=overlap).probabilities(batch)
    return found


def finished(
    network: "SegmentationNetwork", probabilities: Tensor, geometry: Geometry | None, *, scale: float = 1
) -> Tensor:
    """Return the masks of probabilities [B, K, *S], with the network's post-processing, as `SegmentationNetwork.mask`.

    Args:
        network: with a description of it.
        probabilities: of inputs.
        geometry: says how large a volume's voxels are.
        scale: pixels of the input's own grid to one of these.

    Raises:
        SegzooError: it needs to know how large a pixel is, and nothing says that.
    """
    if not network.postprocessing.changes_masks:
        return network.mask(probabilities)
    dims = network.preprocessing.spatial_dims
    finishing = Finishing(network.postprocessing, network.task, network.class_names, dims)
    masks = finishing.mask(probabilities.cpu().numpy()).astype(np.int64)
    cleaned = [finishing.clean(mask, geometry, scale) for mask in masks]
    return torch.from_numpy(np.stack(cleaned)).to(probabilities.device)


def given_out(network: "SegmentationNetwork", probabilities: Tensor) -> Tensor:
    """Return the probabilities [B, K, *S] that a network gives out, by its temperature where it has one."""
    temperature = network.postprocessing.temperature
    return probabilities if temperature == 1 else network.task.tempered(probabilities, temperature)
