"""Base of the input contracts: what everything above asks them, so that nobody else asks "images or volumes?".

A contract is a few plain values, stored in a checkpoint's config.json. Torch is imported where tensors are made, since
an exported file for images needs none.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real  # NumPy's too
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.preprocessing.ranges import Features, Ranges

if TYPE_CHECKING:
    from torch import Tensor

Box: TypeAlias = tuple[slice, ...]  # a place in a volume
MOST, LEAST = 1e9, 1e-9  # of intensities and lengths: far outside what scanners give, far inside what float32 holds


@dataclass
class Prepared:
    """Input as a network sees it, with the way back.

    Attributes:
        image: the image itself, uint8 [H, W, C], or the volume's intensities, float32 [C, D, H, W]; None where no
            overlay is drawn.
        batch: tensor or array [1, C, *S]; None for a volume that a network for images goes through slice by slice.
        grid: where `restore` brings probabilities to.
        geometry: of the volume; None for an image.
        slices: batches [B, C, *S] of such a volume, each made when its turn comes.
        key: inputs of one key can be segmented together; None: this one is segmented alone.
        unlike: what of it is unlike what the model was trained on, in words.
    """

    image: npt.NDArray[Any] | None
    batch: Any
    grid: Any
    geometry: Geometry | None = None
    slices: Iterable[Any] | None = None
    key: Hashable | None = None
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class InputContract(ABC):
    """Way from an input as it is to what the network sees, and back.

    Attributes:
        spatial_dims: of the network.
        form: of its batches, in words.
        channels: of its inputs.
    """

    spatial_dims: ClassVar[int]
    form: ClassVar[str]

    channels: int

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, ...] | None:
        """Sides of the windows that an input is segmented in; None: in one piece."""

    @property
    @abstractmethod
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes along which the network has seen mirrored inputs: test-time augmentation mirrors these."""

    # ---- to the network, and back

    @abstractmethod
    def read(self, source: Any) -> Any:
        """Return an image, uint8 [H, W, C], or a volume, of whatever ``predict`` was given.

        Args:
            source: a path, what :func:`segzoo.imaging.readers.reader_of` gives, or an input in memory.

        Raises:
            MissingError: there is no such file.
            SegzooError: it cannot be read, or is not what the model takes.
        """

    @abstractmethod
    def prepare(self, given: Any) -> Prepared:
        """Preprocess what `read` gave.

        Raises:
            SegzooError: it does not fit the model.
        """

    @abstractmethod
    def __call__(self, given: Any) -> Any:
        """Preprocess what `read` gave to one input [C, *S], without the way back."""

    @abstractmethod
    def restore(self, probabilities: Any, grid: Any) -> Any:
        """Bring probabilities [B, K, *S] to an input's own grid, as `Prepared` names it."""

    def restore_along(self, parts: Iterable[Any], grid: Any) -> Iterator[tuple[Box, Any]]:
        """Bring probabilities of a volume, some rows at a time, to its own grid; see `VolumePreprocessing`."""
        raise NotImplementedError  # images are seen in one piece

    @abstractmethod
    def with_channels(self, channels: int) -> Self:
        """Return the same contract for inputs of another number of channels."""

    def with_intensity_range(self, values: tuple[float, float]) -> Self:
        """Return the same contract for images whose stored values of this range become 0..255.

        Raises:
            SegzooError: it is no range, or the model is one of volumes, which it normalises itself.
        """
        raise SegzooError("intensity_range is for models of images, and this one is of volumes; leave it out")

    # ---- what inputs are like

    @abstractmethod
    def features(self, given: Any) -> Features:
        """Return the features of what `read` gave; see `segzoo.preprocessing.ranges`."""

    @property
    @abstractmethod
    def expected(self) -> Ranges:
        """Ranges of features that the contract by itself tells."""

    # ---- for files and examples

    @abstractmethod
    def require_size(self, given: Any, size: tuple[int, ...], file: object, model: Path) -> None:
        """Refuse what an exported file of one size cannot segment as the network does.

        Args:
            given: of `read`.
            size: the sides that the file takes.
            file: names the input.
            model: the exported file.

        Raises:
            SegzooError: saying so.
        """

    @abstractmethod
    def for_graph(self, given: Any, size: Sequence[int] | None) -> "tuple[Tensor, Tensor]":
        """Return what an exported graph takes of an input, and what the network itself does: both [1, C, *S].

        Args:
            given: of `read`.
            size: the sides that the graph takes; None where they vary.
        """

    @abstractmethod
    def excerpt(self, image: npt.NDArray[Any], most: int) -> npt.NDArray[Any]:
        """Return an example small enough to keep; of an image one of ``most`` pixels a side."""

    @abstractmethod
    def noise(self) -> npt.NDArray[np.uint8]:
        """Return made-up intensities in the form of an input."""

    # ---- as config.json has it

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for config.json (tuples as lists)."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SegzooError: If a key is unknown or a value does not fit.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise SegzooError(f"Unknown preprocessing key {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        try:
            return cls(**config)
        except TypeError as error:
            raise SegzooError(f"The preprocessing {dict(config)} cannot be read: {error}.") from error


def _plain(value: Any) -> Any:
    """Return a value with its tuples as lists."""
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


# ---- numbers of a contract


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a number of a contract that intensities can be reckoned with.

    Args:
        name: of the entry, for the sentence.
        value: to check.
        positive: whether it is divided by.

    Raises:
        SegzooError: it is none, is not finite, or is outside of reason.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise SegzooError(f"{name} must be a number, not {value!r}.")
    try:
        found = float(value)
    except OverflowError:  # of a whole number
        found = math.inf
    if not (LEAST if positive else -MOST) <= found <= MOST:
        least = f"{LEAST:g}" if positive else f"{-MOST:g}"
        raise SegzooError(f"{name} must be a number from {least} to {MOST:g}, not {value!r}.")
    return found


def numbers(name: str, values: Any, *, positive: bool = False) -> tuple[float, ...]:
    """Return a list of such numbers.

    Raises:
        SegzooError: it is no list, or one of it is not `number`'s.
    """
    return tuple(number(name, value, positive=positive) for value in listed(name, values))


def sides(name: str, values: Any, dims: int) -> tuple[int, ...]:
    """Return the sides of what a network sees.

    Args:
        name: of the entry, for the sentence.
        values: as many whole numbers as ``dims``.
        dims: 2 of images, 3 of volumes.

    Raises:
        SegzooError: they are not, or make more than is taken.
    """
    found = tuple(values) if isinstance(values, Iterable) and not isinstance(values, str | Mapping) else ()
    whole = all(isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in found)
    if len(found) != dims or not whole:
        kind = "a height and a width" if dims == 2 else "three numbers above 0"
        raise SegzooError(f"{name} must be {kind}, not {values!r}.")
    limits.NETWORK_INPUT.check(math.prod(map(int, found)), f"{name} asks for")
    return tuple(map(int, found))


def listed(name: str, values: Any) -> list[Any]:
    """Return the values of a list.

    Raises:
        SegzooError: it is none.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise SegzooError(f"{name} must be a list, not {values!r}.")
    return list(values)
