"""Intensities of a volume's channels: from what a scanner gives to what a network sees."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segzoo.errors import SegzooError
from segzoo.preprocessing.base import number, numbers

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Intensity:
    """Way from raw intensities to a network's range, the same for all channels that it is used on.

    Args:
        kind: "zscore", by each channel's own mean and standard deviation; or "window", for CT.
        window: Lowest and highest intensity, for "window" alone, as are:
        mean: To subtract.
        std: To divide by.

    Raises:
        SegzooError: If a value does not fit.
    """

    kind: str = "zscore"
    window: tuple[float, ...] | None = None
    mean: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", numbers("window", self.window))
        for name, positive in (("mean", False), ("std", True)):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), positive=positive)
        if self.kind == "window":
            if self.window is None or self.mean is None or self.std is None or len(self.window) != 2:
                raise SegzooError('intensity "window" needs window=(lowest, highest), a mean and a std.')
            if self.window[0] >= self.window[1]:
                raise SegzooError(f"window must rise, not be {list(self.window)}.")
        elif self.kind != "zscore":
            raise SegzooError(f'intensity must be "zscore" or "window", not {self.kind!r}.')
        elif (self.window, self.mean, self.std) != (None, None, None):
            raise SegzooError(
                'window, mean and std belong to intensity "window"; "zscore" takes them from each volume.'
            )

    def normalize(self, image: "Tensor") -> "Tensor":
        """Bring intensities ``[C, *S]`` to the network's range; a constant channel becomes 0."""
        if self.window is not None and self.mean is not None and self.std is not None:
            return image.clamp(*self.window).sub_(self.mean).div_(self.std)
        import torch

        std, mean = torch.std_mean(image, dim=tuple(range(1, image.ndim)), correction=0, keepdim=True)
        return (image - mean).div_(torch.where(std > 0, std, 1))
