"""From a prepared input to a segmentation, by a network of PyTorch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from segzoo.errors import SegzooError
from segzoo.imaging.images import as_image
from segzoo.imaging.overlay import to_uint8
from segzoo.imaging.segmentation import Segmentation
from segzoo.imaging.volumes import Volume
from segzoo.prediction.inputs import Prepared, prepare
from segzoo.prediction.predictor import enough_memory
from segzoo.prediction.window import slide
from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


BATCH_SLICES = 8
BATCH_IMAGES = 16  # on a GPU


# ---- predict


def predict(
    model: "SegmentationNetwork",
    image: "str | Path | Image.Image | np.ndarray | Tensor | Volume",
    *,
    tta: bool = False,
    overlap: float = 0.5,
) -> Segmentation:
    """Segment one image or volume with its model's own preprocessing; see :meth:`segzoo.SegmentationModule.predict`.

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

    def __init__(self, network: "SegmentationNetwork", report: str, *, tta: bool = False, overlap: float = 0.5) -> None:
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


def choose_device(wanted: str) -> str:
    """The device for "auto": a GPU where there is one.

    Raises:
        SegzooError: a GPU is asked for where there is none.
    """
    gpus = torch.cuda.is_available()
    if wanted.startswith("cuda") and not gpus:
        raise SegzooError("there is no GPU here that torch can use; leave --device out, or say --device cpu")
    return wanted if wanted != "auto" else "cuda" if gpus else "cpu"


@torch.inference_mode()
def segment(
    network: "SegmentationNetwork", inputs: Sequence[Prepared], overlap: float, tta: bool
) -> list[Segmentation]:
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


def restored(network: "SegmentationNetwork", probabilities: Tensor, prepared: Prepared) -> Tensor:
    """Probabilities [1, K, H, W] on an image's own grid."""
    preprocessing, image = network.preprocessing, prepared.given
    assert isinstance(preprocessing, Preprocessing)  # no other reads images
    assert isinstance(image, np.ndarray)
    return preprocessing.restore(probabilities, image.shape[:2])


def segmentation(network: "SegmentationNetwork", probabilities: Tensor, prepared: Prepared) -> Segmentation:
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


def volume_probabilities(network: "SegmentationNetwork", prepared: Prepared, overlap: float, tta: bool) -> Tensor:
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
    network: "SegmentationNetwork",
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


def mirror_averaged(network: "SegmentationNetwork", batch: Tensor) -> Tensor:
    """Mean probabilities over all mirrorings along the axes of the contract, each mirrored back."""
    axes = [2 + axis for axis in network.preprocessing.mirror_axes]
    subsets = [[axis for bit, axis in enumerate(axes) if code >> bit & 1] for code in range(2 ** len(axes))]
    total = network.activate(network(batch))
    for subset in subsets[1:]:
        total = total.add_(network.activate(network(batch.flip(subset))).flip(subset))
    return total.div_(len(subsets))
