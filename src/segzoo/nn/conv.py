"""Convolution, batch norm and ReLU, which every convolutional network is full of."""

from torch import nn

from segzoo.nn.fuse import ActivatedConv2d, fold_norm


class ConvNormReLU(nn.Sequential):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, bias: bool = True) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=bias),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def fuse(self) -> None:
        """Make one layer of the three, in place."""
        self[0] = joined(*self)
        del self[1:]


def joined(conv: nn.Module, norm: nn.Module, activation: nn.Module) -> ActivatedConv2d:
    """Make one layer of the three, as they are in eval mode."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return ActivatedConv2d(fold_norm(conv, norm).to(conv.weight), activation)
