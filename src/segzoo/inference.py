"""From an image or a volume as it is on disk to a mask on the same grid."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segzoo.errors import SegzooError
from segzoo.io import as_image, read_image
from segzoo.preprocessing import Preprocessing
from segzoo.segmentation import Segmentation, to_uint8
from segzoo.volume_preprocessing import VolumePreprocessing
from segzoo.volumes import VOLUME_SUFFIXES, Geometry, Volume, is_volume, read_volume

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

BATCH_VOXELS = 128**3  # on a GPU, small windows run together until they hold as many; a CPU gains nothing by it
BATCH_SLICES = 8


# ---- predict


def predict(
    model: "SegmentationModule",
    image: "str | Path | Image.Image | np.ndarray | Tensor | Volume",
    *,
    tta: bool = False,
    overlap: float = 0.5,
) -> Segmentation:
    """Segment one image or volume with its model's own preprocessing; see :meth:`SegmentationModule.predict`.

    The network runs in its deployed form on its own device: over an image at the size it was trained for, over a
    volume window by window, and, where it is a network for images, slice by slice along a volume's first axis.
    """
    given = read_input(model.preprocessing, image)
    network = model.deploy() if model.is_deployable else model
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            if isinstance(given, Volume):
                restored = volume_probabilities(network, given, overlap, tta)
            else:
                restored = image_probabilities(network, given, tta)
            mask = network.mask(restored)[0].numpy()
    finally:
        network.train(was_training)
    return Segmentation(
        mask.astype(np.uint8 if len(model.class_names) <= 256 else np.int32),
        restored[0].float().numpy(),
        model.class_names,
        given.array if isinstance(given, Volume) else given,
        given.geometry if isinstance(given, Volume) else None,
    )


def read_input(
    preprocessing: Preprocessing | VolumePreprocessing, image: "str | Path | Image.Image | np.ndarray | Tensor | Volume"
) -> npt.NDArray[np.uint8] | Volume:
    """An image [H, W, C] or a volume, whatever ``predict`` was given.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or it is an image where the model takes volumes.
    """
    channels = preprocessing.channels
    if isinstance(image, Volume):
        return image
    if isinstance(image, str | Path) and is_volume(image):
        # the slices of a volume are grey, also to a model that takes RGB
        return read_volume(image, 1 if preprocessing.spatial_dims == 2 and channels == 3 else channels)
    if isinstance(image, str | Path | Image.Image):
        if preprocessing.spatial_dims == 3:
            what = "a picture" if isinstance(image, Image.Image) else image
            raise SegzooError(f"This model segments volumes ({', '.join(VOLUME_SUFFIXES)}), and {what} is none.")
        return as_image(image, channels) if isinstance(image, Image.Image) else read_image(image, channels)
    if preprocessing.spatial_dims == 3 or np.ndim(image) == 4:
        return as_volume(preprocessing, image)
    return as_image(image, channels)


def as_volume(preprocessing: Preprocessing | VolumePreprocessing, values: np.ndarray | Tensor) -> Volume:
    """A volume [D, H, W] or [C, D, H, W] in memory, taken to lie as the model wants it."""
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise SegzooError(
            f"A volume must be numbers of shape [D, H, W] or [C, D, H, W], not {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    array = array.astype(np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise SegzooError("The volume holds NaN or infinite voxels.")
    if isinstance(preprocessing, VolumePreprocessing):
        spacing = preprocessing.spacing or (1.0, 1.0, 1.0)
        return Volume(array, Geometry.along_axes(array.shape[1:], spacing, preprocessing.orientation))
    return Volume(array, Geometry.along_axes(array.shape[1:]))


def image_probabilities(network: "SegmentationModule", image: npt.NDArray[np.uint8], tta: bool) -> Tensor:
    """Probabilities [1, K, H, W] on an image's own grid."""
    preprocessing = network.preprocessing
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    probabilities = predict_probabilities(network, preprocessing(image)[None], tta=tta)
    return preprocessing.restore(probabilities, image.shape[:2])


def volume_probabilities(network: "SegmentationModule", volume: Volume, overlap: float, tta: bool) -> Tensor:
    """Probabilities [1, K, D, H, W] on a volume's own grid."""
    preprocessing = network.preprocessing
    if isinstance(preprocessing, VolumePreprocessing):
        batch = preprocessing(volume)[None]
        progress = sys.stderr.isatty()
        probabilities = predict_probabilities(network, batch, overlap=overlap, tta=tta, progress=progress)
        return preprocessing.restore(probabilities, volume.geometry)
    depth, height, width = volume.geometry.shape
    intensities = to_uint8(volume.array)
    restored = torch.empty(1, network.num_classes, depth, height, width)
    for start in tqdm(range(0, depth, BATCH_SLICES), disable=None):  # None: shown on a terminal
        slices = intensities[:, start : start + BATCH_SLICES].transpose(1, 2, 3, 0)
        batch = torch.stack([preprocessing(as_image(one, preprocessing.channels)) for one in slices])
        found = preprocessing.restore(predict_probabilities(network, batch, tta=tta), (height, width))
        restored[0, :, start : start + BATCH_SLICES] = found.movedim(0, 1)
    return restored


def predict_probabilities(
    network: "SegmentationModule",
    batch: Tensor,
    *,
    overlap: float = 0.5,
    tta: bool = False,
    progress: bool = False,
) -> Tensor:
    """Probabilities of a preprocessed batch, in one piece or by a sliding window.

    Windows have the contract's patch size, or the batch's own along axes where that is smaller. They weigh most at
    their centre (a Gaussian, its standard deviation an eighth of the window) and are averaged after the activation, as
    in nnU-Net. Each runs on the network's device and is put in place on the CPU, so that the memory needed beyond the
    result does not depend on how many there are.

    Args:
        network: in eval mode.
        batch: ``[B, C, *S]`` on any device.
        overlap: part of its length that a window shares with the next one along each axis, at least 0 and below 1.
        tta: average each window over its mirrorings along the contract's ``mirror_axes``.
        progress: show a bar on stderr that counts the batches of windows.

    Returns:
        ``[B, K, *S]`` on the CPU.

    Raises:
        SegzooError: ``overlap`` is out of range.
    """
    if not 0 <= overlap < 1:
        raise SegzooError(f"overlap must be at least 0 and below 1, not {overlap}.")
    parameter = next(network.parameters())

    def run(window: Tensor) -> Tensor:
        window = window.to(parameter)  # its device and dtype
        return mirror_averaged(network, window) if tta else network.activate(network(window))

    size = tuple(batch.shape[2:])
    patch = network.preprocessing.patch_size or size
    window = tuple(min(sides) for sides in zip(patch, size, strict=True))
    if window == size:
        return run(batch).cpu()
    from monai.inferers.utils import sliding_window_inference

    stitched = sliding_window_inference(
        batch.float(),  # in which windows are added up
        window,
        1 if parameter.device.type == "cpu" else max(1, BATCH_VOXELS // math.prod(window)),
        run,
        overlap=overlap,
        roi_weight_map=window_weights(window),  # MONAI's own is flat far from the centre along more than one axis
        sw_device=parameter.device,
        device="cpu",
        progress=progress,
    )
    assert isinstance(stitched, Tensor)  # as is what run gives
    return stitched


def window_weights(size: Sequence[int]) -> Tensor:
    """A Gaussian over a window, 1 at its centre, its standard deviation an eighth of each side."""
    weights = torch.ones(())
    for side in size:
        offset = torch.arange(side) - (side - 1) / 2
        weights = weights[..., None] * torch.exp(-((offset / (side / 8)) ** 2) / 2)
    return weights


def mirror_averaged(network: "SegmentationModule", batch: Tensor) -> Tensor:
    """Mean probabilities over all mirrorings along the axes of the contract, each mirrored back."""
    axes = [2 + axis for axis in network.preprocessing.mirror_axes]
    subsets = [[axis for bit, axis in enumerate(axes) if code >> bit & 1] for code in range(2 ** len(axes))]
    total = network.activate(network(batch))
    for subset in subsets[1:]:
        total = total.add_(network.activate(network(batch.flip(subset))).flip(subset))
    return total.div_(len(subsets))
