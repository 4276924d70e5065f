"""Augmentation that moves image and mask together."""

import torch
from torchvision import tv_tensors


class RandomFlipRotate90:
    """Flips and 90-degree rotations that BUSI, polyp and skin papers train with: one of a square's 8 symmetries.

    All are equally likely, drawn from torch's generator. An image that is not square keeps its shape: it is flipped
    and turned by 180 degrees only.
    """

    def __call__(self, image: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """Move an image ``[C, H, W]`` and a mask ``[H, W]`` or ``[K, H, W]`` alike."""
        horizontal, vertical, transpose = torch.randint(2, (3,)).tolist()
        axes = [axis for axis, chosen in ((-1, horizontal), (-2, vertical)) if chosen]
        swap = transpose and image.shape[-1] == image.shape[-2]

        def move(x: torch.Tensor) -> torch.Tensor:
            x = x.as_subclass(torch.Tensor)
            x = x.transpose(-1, -2) if swap else x
            return x.flip(axes) if axes else x

        return tv_tensors.Image(move(image)), tv_tensors.Mask(move(mask))
