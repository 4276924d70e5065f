"""From an image or a volume as it is on disk to a mask on the same grid."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segzoo.errors import MissingError, SegzooError
from segzoo.geometry import Geometry
from segzoo.io import as_image
from segzoo.prediction import enough_memory, no_volume, read_file, require_overlap
from segzoo.preprocessing import Preprocessing
from segzoo.segmentation import Segmentation, to_uint8
from segzoo.volume_preprocessing import VolumePreprocessing
from segzoo.volumes import Volume

if TYPE_CHECKING:
    from segzoo.hub import Checkpoint
    from segzoo.module import SegmentationModule

BATCH_VOXELS = 128**3  # on a GPU, small windows run together until they hold as many; a CPU gains nothing by it
BATCH_SLICES = 8
BATCH_IMAGES = 16  # on a GPU
CPU = torch.device("cpu")


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
    given = prepare(model.preprocessing, image)
    network = model.deploy() if model.is_deployable else model
    was_training = network.training
    network.eval()
    try:
        return segment(network, [given], overlap, tta)[0]
    finally:
        network.train(was_training)


class NetworkPredictor:
    """A network as :mod:`segzoo.prediction` takes what segments; the results are those of :func:`predict`.

    On a CPU images go one by one: in batches of 4 or 8 a CMUNeXt at 256 x 256 takes 1.2 to 1.4 times as long an image,
    since what passes between its layers no longer stays in the cache. There is no ``torch.compile`` either: compiling
    takes longer than most folders do, and a small network on a fast GPU waits for files, not for its layers.

    Args:
        network: in eval mode, best in its deployed form, on the device it shall run on. On a GPU it computes in
            bfloat16 where the GPU can, and its probabilities in float32.
        report: what was loaded, for the description.
        tta: average over mirrored copies.
        overlap: of a volume's windows.
    """

    def __init__(self, network: "SegmentationModule", report: str, *, tta: bool = False, overlap: float = 0.5) -> None:
        self.network, self.tta, self.overlap = network, tta, overlap
        self.device = next(network.parameters()).device
        on_gpu = self.device.type == "cuda"
        self.precision = torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(False) else torch.float32
        self.batch_size = BATCH_IMAGES if on_gpu else 1
        threads = torch.get_num_threads()
        where = (
            f"on {torch.cuda.get_device_name(self.device)}, batches of {self.batch_size}"
            if on_gpu
            else f"on the CPU, {threads} thread{'s' * (threads > 1)}"
        )
        self.description = f"{report}; {where}, {str(self.precision).removeprefix('torch.')}"

    def read(self, file: Path) -> "Prepared":
        """An image or a volume, preprocessed."""
        with enough_memory(file):
            return prepare(self.network.preprocessing, file)

    def key(self, given: "Prepared") -> tuple[int, ...] | None:
        """The size at which the network sees an image; volumes are segmented alone."""
        return None if given.batch is None or isinstance(given.given, Volume) else tuple(given.batch.shape)

    def segment(self, given: "Sequence[Prepared]") -> list[Segmentation]:
        """The segmentations of inputs of one key."""
        lower = self.precision != torch.float32
        with enough_memory("it"), torch.autocast(self.device.type, self.precision, enabled=lower):
            return segment(self.network, given, self.overlap, self.tta)


def load_predictor(
    checkpoint: "Checkpoint", device: str = "auto", *, tta: bool = False, overlap: float = 0.5
) -> NetworkPredictor:
    """A checkpoint's network, deployed.

    Args:
        checkpoint: its files checked.
        device: "cpu", "cuda" (or one of several: "cuda:1"), or "auto" for a GPU where there is one.
        tta: average over mirrored copies.
        overlap: of a volume's windows.

    Raises:
        SegzooError: the weights cannot be loaded, or there is no such device.
    """
    from segzoo.hub import load

    model = load(checkpoint)
    network = model.deploy() if model.is_deployable else model
    return NetworkPredictor(network.to(choose_device(device)), str(model.load_report), tta=tta, overlap=overlap)


def choose_device(wanted: str) -> str:
    """The device for "auto": a GPU where there is one.

    Raises:
        SegzooError: a GPU is asked for where there is none.
    """
    gpus = torch.cuda.is_available()
    if wanted.startswith("cuda") and not gpus:
        raise SegzooError("there is no GPU here that torch can use; leave --device out, or say --device cpu")
    return wanted if wanted != "auto" else "cuda" if gpus else "cpu"


@dataclass
class Prepared:
    """An input and what the network sees of it.

    Attributes:
        given: the image, uint8 [H, W, C], or the volume.
        batch: float32 [1, C, *S]; None for a volume that a network for images goes through slice by slice.
    """

    given: npt.NDArray[np.uint8] | Volume
    batch: Tensor | None


def prepare(
    preprocessing: Preprocessing | VolumePreprocessing, image: "str | Path | Image.Image | np.ndarray | Tensor | Volume"
) -> Prepared:
    """Read an input and preprocess it.

    Raises:
        MissingError: there is no such file.
        SegzooError: it cannot be read, or does not fit the model.
    """
    given = read_input(preprocessing, image)
    if isinstance(given, Volume):
        if not isinstance(preprocessing, VolumePreprocessing):
            return Prepared(given, None)
        try:
            return Prepared(given, preprocessing(given)[None])
        except SegzooError as error:
            raise SegzooError(f"{image}: {error}" if isinstance(image, str | Path) else str(error)) from error
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    return Prepared(given, preprocessing(given)[None])


@torch.inference_mode()
def segment(network: "SegmentationModule", inputs: Sequence[Prepared], overlap: float, tta: bool) -> list[Segmentation]:
    """The segmentations of images that the network sees at one size, or of a single volume.

    Args:
        network: in eval mode.
        inputs: what `prepare` gave.
        overlap: of a volume's windows.
        tta: average over mirrored copies.

    Raises:
        SegzooError: ``overlap`` is out of range.
    """
    first = inputs[0]
    if isinstance(first.given, Volume):
        return [segmentation(network, volume_probabilities(network, first, overlap, tta), first)]
    batch = torch.cat([one.batch for one in inputs if one.batch is not None])
    probabilities = predict_probabilities(network, batch, tta=tta)
    return [
        segmentation(network, restored(network, found[None], one), one)
        for found, one in zip(probabilities, inputs, strict=True)
    ]


def restored(network: "SegmentationModule", probabilities: Tensor, prepared: Prepared) -> Tensor:
    """Probabilities [1, K, H, W] on an image's own grid."""
    preprocessing, image = network.preprocessing, prepared.given
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    assert isinstance(image, np.ndarray)
    return preprocessing.restore(probabilities, image.shape[:2])


def segmentation(network: "SegmentationModule", probabilities: Tensor, prepared: Prepared) -> Segmentation:
    """What probabilities [1, K, *S] on an input's own grid say."""
    given = prepared.given
    refuse_nan(probabilities)
    return Segmentation(
        network.mask(probabilities)[0].numpy().astype(np.uint8 if len(network.class_names) <= 256 else np.int32),
        probabilities[0].float().numpy(),
        network.class_names,
        given.array if isinstance(given, Volume) else given,
        given.geometry if isinstance(given, Volume) else None,
    )


def refuse_nan(probabilities: Tensor) -> None:
    """Refuse what has no mask: comparisons with NaN are false, so that it would be an empty one.

    Raises:
        SegzooError: a probability is NaN.
    """
    if probabilities.sum().isnan():
        raise SegzooError(
            "the network gives NaN for this input: its weights are not finite, as a training that diverged leaves them"
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
        return Volume(volume_array(image.array, image.geometry.shape), image.geometry)
    if isinstance(image, str | Path):
        return read_file(image, channels, preprocessing.spatial_dims)
    if isinstance(image, Image.Image):
        if preprocessing.spatial_dims == 3:
            raise no_volume("a picture")
        return as_image(image, channels)
    if preprocessing.spatial_dims == 2 and np.ndim(image) == 4 and channels in np.shape(image)[1::2]:
        raise SegzooError(
            f"An array of shape {list(np.shape(image))} is a batch of images, or a volume of {channels} slices; give "
            "images one by one, and such a volume as segzoo.volumes.Volume."
        )
    if preprocessing.spatial_dims == 3 or np.ndim(image) == 4:
        return as_volume(preprocessing, image)
    return as_image(image, channels)


def as_volume(preprocessing: Preprocessing | VolumePreprocessing, values: np.ndarray | Tensor) -> Volume:
    """A volume [D, H, W] or [C, D, H, W] in memory, taken to lie as the model wants it."""
    array = volume_array(values)
    if isinstance(preprocessing, VolumePreprocessing):
        spacing = preprocessing.spacing or (1.0, 1.0, 1.0)
        return Volume(array, Geometry.along_axes(array.shape[1:], spacing, preprocessing.orientation))
    return Volume(array, Geometry.along_axes(array.shape[1:]))


def volume_array(values: np.ndarray | Tensor, shape: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
    """Voxels in memory as float32 [C, D, H, W].

    Args:
        values: [D, H, W] or [C, D, H, W].
        shape: of the grid that they lie on, where that is known.

    Raises:
        SegzooError: they are of another shape, no numbers, or not finite.
    """
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    array = array[None] if array.ndim == 3 else array
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "biuf":
        raise SegzooError(
            f"A volume must be numbers of shape [D, H, W] or [C, D, H, W], not {array.dtype} of shape "
            f"{list(array.shape)}."
        )
    if shape is not None and array.shape[1:] != tuple(shape):
        raise SegzooError(f"The volume's array is {list(array.shape[1:])} voxels, its geometry {list(shape)}.")
    array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite([array.min(), array.max()]).all():
        raise SegzooError("The volume holds NaN or infinite voxels.")
    return array


def volume_probabilities(network: "SegmentationModule", prepared: Prepared, overlap: float, tta: bool) -> Tensor:
    """Probabilities [1, K, D, H, W] on a volume's own grid."""
    preprocessing, volume = network.preprocessing, prepared.given
    assert isinstance(volume, Volume)
    if isinstance(preprocessing, VolumePreprocessing):
        assert prepared.batch is not None
        progress = sys.stderr.isatty()
        probabilities = predict_probabilities(network, prepared.batch, overlap=overlap, tta=tta, progress=progress)
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
    """Probabilities of a preprocessed batch, in one piece or by `slide`, its windows on the network's device.

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
    parameter = next(network.parameters())

    def run(window: Tensor) -> Tensor:
        window = window.to(parameter)  # its device and dtype
        return mirror_averaged(network, window) if tta else network.activate(network(window))

    patch = network.preprocessing.patch_size or batch.shape[2:]
    return slide(run, batch, patch, overlap=overlap, device=parameter.device, progress=progress)


def slide(
    run: Callable[[Tensor], Tensor],
    batch: Tensor,
    patch: Sequence[int],
    *,
    overlap: float = 0.5,
    device: torch.device = CPU,
    progress: bool = False,
) -> Tensor:
    """Probabilities of a preprocessed batch, in one piece or by a sliding window.

    Windows have the patch's size, or the batch's own along axes where that is smaller. They weigh most at their centre
    (a Gaussian, its standard deviation an eighth of the window) and are averaged after the activation, as in nnU-Net.
    Each is put in place on the CPU, so that the memory needed beyond the result does not depend on how many there are.

    Args:
        run: from windows ``[B, C, *S]`` to their probabilities ``[B, K, *S]``.
        batch: ``[B, C, *S]`` on any device.
        patch: the window's sides.
        overlap: part of its length that a window shares with the next one along each axis, at least 0 and below 1.
        device: where windows run.
        progress: show a bar on stderr that counts the batches of windows.

    Returns:
        ``[B, K, *S]`` on the CPU.

    Raises:
        MissingError: monai is not installed and windows have to be put together, as under torch.hub may be.
        SegzooError: ``overlap`` is out of range.
    """
    require_overlap(overlap)
    size = tuple(batch.shape[2:])
    window = tuple(min(sides) for sides in zip(patch, size, strict=True))
    if window == size:
        return run(batch).cpu()
    try:
        from monai.inferers.utils import sliding_window_inference
    except ImportError:
        raise MissingError("volumes larger than the model's window need another package: pip install monai") from None
    stitched = sliding_window_inference(
        batch.float(),  # in which windows are added up
        window,
        1 if device.type == "cpu" else max(1, BATCH_VOXELS // math.prod(window)),
        run,
        overlap=overlap,
        roi_weight_map=window_weights(window),  # MONAI's own is flat far from the centre along more than one axis
        sw_device=device,
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
