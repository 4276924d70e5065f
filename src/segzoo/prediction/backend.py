"""Interface of what computes: PyTorch, ONNX Runtime, OpenVINO."""

from collections.abc import Sequence
from typing import Any, Protocol

from segzoo.postprocessing import Postprocessing
from segzoo.preprocessing.base import InputContract
from segzoo.preprocessing.ranges import Ranges
from segzoo.tasks import Task

NO_BFLOAT16 = "this {} has no instructions for bfloat16; compute in float32"  # processor, GPU


class Backend(Protocol):
    """Way from preprocessed inputs to probabilities, by a network or by an exported file.

    Arrays are of the backend's own kind, tensors or NumPy's; only `place` takes either.
    """

    @property
    def description(self) -> str:
        """One line for people: what computes, and how."""

    @property
    def subject(self) -> str:
        """Word for what holds the weights, for sentences: "the network", or the file."""

    @property
    def contract(self) -> InputContract:
        """Contract of its inputs."""

    @property
    def task(self) -> Task:
        """Number and kind of the classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the mask's values, or of the channels."""

    @property
    def postprocessing(self) -> Postprocessing:
        """Description of what belongs to its masks."""

    @property
    def ranges(self) -> Ranges:
        """Ranges of the inputs that it was trained on; nothing where they were not kept."""

    @property
    def members(self) -> "Sequence[Backend]":
        """Backends of the networks whose mean this one is; none where it is not one of several at hand."""

    @property
    def batch_size(self) -> int:
        """Number of inputs of one size that it computes best together."""

    @property
    def device(self) -> Any:
        """Place where windows of a volume are computed, as torch names it."""

    def require_size(self, given: Any, file: object) -> None:
        """Refuse an input of a size that it does not take.

        Args:
            given: as the contract reads it.
            file: names the input.

        Raises:
            SegzooError: saying so.
        """

    def place(self, batch: Any) -> Any:
        """Bring inputs [B, C, *S] to where it computes."""

    def compute(self, batch: Any) -> Any:
        """Return probabilities [B, K, *S], at least float32, of inputs that `place` gave; they may be written to.

        Raises:
            SegzooError: they cannot be computed.
        """

    def flip(self, batch: Any, axes: tuple[int, ...]) -> Any:
        """Return inputs or probabilities, mirrored along some axes."""

    def fetch(self, probabilities: Any) -> Any:
        """Bring probabilities to the CPU's memory."""
