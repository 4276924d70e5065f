"""From an image as it is on disk to a mask on the same grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segzoo.errors import SegzooError
from segzoo.io import as_image, read_image, write_mask

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

# one colour a class, told apart by most colour-blind readers too (Okabe and Ito's palette)
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass  # not frozen: Trainer.predict takes no frozen ones
class Segmentation:
    """What a model sees in one image, on the image's own grid.

    Attributes:
        mask: integers [H, W], indices into ``class_names``; multi-label: 0 or 1 [K, H, W].
        probabilities: float32 [K, H, W], K the model's num_classes (1 for binary).
        class_names: name of every mask value, or of every channel for multi-label.
        image: the image itself, uint8 [H, W, C], for the overlay; None where it is not at hand.
    """

    mask: np.ndarray
    probabilities: np.ndarray
    class_names: tuple[str, ...]
    image: np.ndarray | None = None

    def save(self, path: str | Path) -> None:
        """Write the mask as a PNG of class indices (multi-label: one file a class, named after it)."""
        path = Path(path)
        if self.mask.ndim == 2:
            write_mask(path, self.mask)
            return
        for name, mask in zip(self.class_names, self.mask, strict=True):
            write_mask(path.with_name(f"{path.stem}_{name.replace(' ', '-')}{path.suffix}"), mask)

    def overlay(self) -> Image.Image:
        """The image with every class tinted and outlined in its colour."""
        if self.image is None:
            raise SegzooError("this segmentation does not hold its image, so there is nothing to draw on")
        return draw_overlay(self.image, self.class_masks())

    def class_masks(self) -> list[np.ndarray]:
        """A boolean [H, W] for every class but the background."""
        if self.mask.ndim == 3:
            return [mask.astype(bool) for mask in self.mask]
        return [self.mask == index for index in range(1, len(self.class_names))]

    def foreground_names(self) -> tuple[str, ...]:
        """The names that belong to :meth:`class_masks`."""
        return self.class_names if self.mask.ndim == 3 else self.class_names[1:]


def draw_overlay(image: np.ndarray, masks: Sequence[np.ndarray]) -> Image.Image:
    """An RGB picture of ``image`` (uint8 [H, W, C]) with each mask (bool [H, W]) tinted and outlined."""
    grey = image.shape[2] != 3
    picture = np.repeat(image[:, :, :1], 3, axis=2) if grey else image.copy()
    for index, mask in enumerate(masks):
        colour = np.array(COLOURS[index % len(COLOURS)])
        picture[mask] = (0.75 * picture[mask] + 0.25 * colour).astype(np.uint8)
        picture[outline(mask)] = colour
    return Image.fromarray(picture)


def outline(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask (bool [H, W]) that touch what is outside it."""
    padded = np.pad(mask, 1, mode="edge")
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def predict(
    model: "SegmentationModule", image: "str | Path | Image.Image | np.ndarray | Tensor", *, tta: bool = False
) -> Segmentation:
    """Segment one image with its model's own preprocessing; see :meth:`SegmentationModule.predict`.

    The network runs in its deployed form, whole image at the size it was trained for, on its own device.
    """
    channels = model.preprocessing.channels
    pixels = read_image(image, channels) if isinstance(image, str | Path) else as_image(image, channels)
    network = model.deploy() if model.is_deployable else model
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            batch = model.preprocessing(pixels)[None].to(next(model.parameters()))
            probabilities = flip_averaged(network, batch) if tta else network.activate(network(batch))
            restored = model.preprocessing.restore(probabilities, pixels.shape[:2])
            mask = network.mask(restored)
    finally:
        network.train(was_training)
    dtype = np.uint8 if len(model.class_names) <= 256 else np.int32
    return Segmentation(
        mask[0].cpu().numpy().astype(dtype), restored[0].float().cpu().numpy(), model.class_names, pixels
    )


def flip_averaged(network: "SegmentationModule", batch: Tensor) -> Tensor:
    """Mean probabilities over all mirrorings of the spatial axes, each mirrored back."""
    axes = range(2, batch.ndim)
    subsets = [[axis for bit, axis in enumerate(axes) if code >> bit & 1] for code in range(2 ** len(axes))]
    flipped = [network.activate(network(batch.flip(subset))).flip(subset) for subset in subsets]
    return torch.stack(flipped).mean(dim=0)
