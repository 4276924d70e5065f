"""Interface of an export format: how a deployed network is written as one file, and how that is run to check it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from segzoo.errors import MissingPackageError
from segzoo.export.graph import Graph, interpolate

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


@dataclass(frozen=True)
class Request:
    """Order for a file: what is to be written, and how.

    Attributes:
        network: deployed, on the CPU.
        precision: one of the format's.
        example: inputs [2, C, *S] to trace with.
        dynamic: which of their axes vary, as :func:`torch.export.export` takes it.
        facts: plain values that the file says of itself, to be stored as JSON.
        size: fixed sides of the inputs; None where they vary.
        calibration: images for int8, whatever ``predict`` takes.
    """

    network: "SegmentationNetwork"
    precision: str
    example: Tensor
    dynamic: tuple[dict[int, Any]]
    facts: Mapping[str, Any]
    size: Sequence[int] | None = None
    calibration: Sequence[Any] = ()


class ExportFormat(ABC):
    """Format; one object of each subclass is in :data:`segzoo.export.formats.FORMATS`.

    Attributes:
        suffix: of its files.
        precisions: that it can be written in.
        packages: that write or run it, by the names that they are imported by.
        extra: of medsegzoo, that brings these packages.
        companion: suffix of a second file that belongs to each; empty where there is none.
        needs_size: whether its inputs have one size, which must be given.
        channels_last: whether the network may keep that layout of its tensors.
        resize: how its graph brings images to a height and width.
    """

    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16")
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    companion: ClassVar[str] = ""
    needs_size: ClassVar[bool] = False
    channels_last: ClassVar[bool] = True
    resize: ClassVar[Callable[[Tensor, Sequence[int]], Tensor]] = staticmethod(interpolate)

    @abstractmethod
    def write(self, request: Request, path: Path) -> None:
        """Write the file.

        Raises:
            SegzooError: it would gain nothing in this precision.
        """

    @abstractmethod
    def open(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Return a function from inputs [B, C, *S] to the logits [B, K, *S] that a file computes."""

    def graph(self, request: Request) -> Graph:
        """Return the network with its contract around it, in this format's operations."""
        precision = "float32" if request.precision == "int8" else request.precision  # quantised when it is written
        return Graph(request.network, precision, type(self).resize).eval()

    def require_packages(self, precision: str) -> None:
        """Refuse at once what would fail after a minute.

        Raises:
            MissingPackageError: a package that writes or runs the format is not installed.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            how = f"medsegzoo[{self.extra}]" if self.extra else " ".join(missing)
            raise MissingPackageError(f"{self.suffix} files need {' and '.join(missing)}: pip install '{how}'")
