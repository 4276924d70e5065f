"""A checkpoint's example: a small real image, the logits that its model gives for it, and a picture of both.

``probe.safetensors`` shows that the weights compute on any machine what they computed where they were published;
``example.png`` shows people what the model does.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segzoo.checkpoint import copy_files, read_config, replacing, write_config
from segzoo.errors import SegzooError
from segzoo.hub import from_pretrained, open_checkpoint
from segzoo.inference import as_volume
from segzoo.segmentation import draw_overlay, to_uint8
from segzoo.weights import read_safetensors, sha256, write_safetensors

if TYPE_CHECKING:
    from segzoo.module import SegmentationModule

PROBE = "probe.safetensors"
PICTURE = "example.png"
TOLERANCE = 1e-4  # of the largest logit: processors round differently, and networks are tens of layers deep
FREE_LICENCES = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"}  # that let an image be passed on
PIXELS = 256  # longest side of an image that is kept, and height of the picture


# ---- verify


def verify(name_or_path: str | Path) -> str:
    """Check a checkpoint's files, and that its model computes on this machine what it computed when it was published.

    Args:
        name_or_path: as of :func:`segzoo.from_pretrained`.

    Returns:
        What was found, in one sentence.

    Raises:
        SegzooError: a file is damaged, or the logits differ by more than rounding.
    """
    checkpoint = open_checkpoint(name_or_path)
    intact = f"{len(checkpoint.config['sha256'])} files intact, {checkpoint.trust}"
    if PROBE not in checkpoint.config["sha256"]:
        return f"{intact}; it has no {PROBE}, so nothing was computed"
    file = checkpoint.folder / PROBE
    probe = read_safetensors(file)
    if set(probe) != {"image", "logits"}:
        raise SegzooError(f"{file} must hold an image and its logits, not {', '.join(sorted(probe)) or 'nothing'}")
    difference = relative_difference(
        compute_logits(from_pretrained(checkpoint.folder), probe["image"]), probe["logits"]
    )
    if not difference <= TOLERANCE:  # NaN included
        raise SegzooError(
            f"{name_or_path} computes other logits on this machine than where it was published: they differ by up to "
            f"{difference:.1e} of the largest; do not trust its masks here, or try another torch than "
            f"{torch.__version__}"
        )
    return f"{intact}; its logits are {'equal' if difference == 0 else f'equal up to rounding ({difference:.1e})'}"


def compute_logits(model: "SegmentationModule", image: Tensor) -> Tensor:
    """Logits [K, *S] of a raw image [H, W, C] (uint8) or volume [C, D, H, W], in one piece, on the CPU."""
    preprocessing = model.preprocessing
    raw = image.numpy() if preprocessing.spatial_dims == 2 else as_volume(preprocessing, image)
    with torch.inference_mode():
        logits = model.cpu().eval()(preprocessing(raw)[None])[0]  # type: ignore[arg-type]
    return logits.contiguous()


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, in units of the largest value expected."""
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


# ---- make


def add_example(
    folder: str | Path, image: np.ndarray, truth: np.ndarray | None = None, *, source: str, licence: str
) -> None:
    """Give a checkpoint a probe and, where the truth is known, a picture.

    Args:
        folder: the checkpoint's.
        image: a real one that it was not trained on: uint8 [H, W, C], or a volume [C, D, H, W] that lies as the model
            wants it; larger ones are reduced, volumes cut.
        truth: the labels [*S], of the classes that the model knows; None makes no picture.
        source: what the image is, such as "BUSI, benign (181)".
        licence: of the image, as an SPDX name.

    Raises:
        SegzooError: the licence does not allow to pass the image on, or the image does not fit the model.
    """
    folder = Path(folder)
    if licence not in FREE_LICENCES:
        raise SegzooError(
            f"an image under {licence} may not be passed on with a checkpoint; give one of "
            f"{', '.join(sorted(FREE_LICENCES))}"
        )
    model = from_pretrained(folder)
    reduce = reduced_image if model.preprocessing.spatial_dims == 2 else cut_volume
    image, truth = reduce(model, image, truth)
    config = read_config(folder)
    with replacing(folder) as draft:
        copy_files(folder, draft, config)
        kept = torch.from_numpy(np.array(image, order="C"))
        write_safetensors({"image": kept, "logits": compute_logits(model, kept)}, draft / PROBE)
        made = [PROBE]
        if truth is not None:
            draw_example(model, image, truth).save(draft / PICTURE, optimize=True)
            made.append(PICTURE)
        hashes = {**config["sha256"], **{name: sha256(draft / name) for name in made}}
        write_config(draft, {**config, "example": {"source": source, "licence": licence}, "sha256": hashes})


def reduced_image(
    model: "SegmentationModule", image: np.ndarray, truth: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """An image and its truth with no side longer than `PIXELS`."""
    scale = PIXELS / max(image.shape[:2])
    if scale >= 1:
        return image, truth
    size = tuple(max(1, round(side * scale)) for side in reversed(image.shape[:2]))
    channels = [np.asarray(Image.fromarray(channel).resize(size)) for channel in np.moveaxis(image, -1, 0)]
    if truth is not None:
        truth = np.asarray(Image.fromarray(truth.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    return np.stack(channels, axis=-1), truth


def cut_volume(
    model: "SegmentationModule", volume: np.ndarray, truth: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """The middle of a volume and its truth, as large as the model's patch."""
    patch = model.preprocessing.patch_size or volume.shape[1:]
    box = []
    for side, wanted in zip(volume.shape[1:], patch, strict=True):
        first = max(0, (side - wanted) // 2)
        box.append(slice(first, first + wanted))
    return volume[:, *box], None if truth is None else truth[*box]


def draw_example(model: "SegmentationModule", image: np.ndarray, truth: np.ndarray) -> Image.Image:
    """The image, the truth and the prediction side by side; of a volume, the slice with most of the truth."""
    found = model.predict(image)
    classes = range(1, len(model.class_names))
    true_masks = list(truth.astype(bool)) if model.multilabel else [truth == value for value in classes]
    masks = [[], true_masks, found.class_masks()]
    if image.ndim == 4:
        index = int(np.argmax((truth > 0).sum(axis=(1, 2))))
        # axes lead to superior, anterior and right: shown as radiologists hang them
        image = to_uint8(image[0])[index, ::-1, ::-1, None]
        masks = [[mask[index, ::-1, ::-1] for mask in group] for group in masks]
    panels = [draw_overlay(image, group) for group in masks]
    width = max(1, round(PIXELS * image.shape[1] / image.shape[0]))
    picture = Image.new("RGB", (len(panels) * (width + 4) - 4, PIXELS), "white")
    for place, panel in enumerate(panels):
        picture.paste(panel.resize((width, PIXELS), Image.Resampling.NEAREST), (place * (width + 4), 0))
    return picture
