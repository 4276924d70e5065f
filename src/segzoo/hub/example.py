"""Example of a checkpoint: a small real image, the logits of its model for it, and a picture of both."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.folder import copy_files, replacing
from segzoo.checkpoints.names import PICTURE, PROBE
from segzoo.checkpoints.probe import write_probe
from segzoo.checkpoints.save import write_config
from segzoo.checkpoints.weights import sha256
from segzoo.errors import SegzooError
from segzoo.hub.load import from_pretrained
from segzoo.imaging.overlay import draw_overlay, to_uint8
from segzoo.prediction.torch_backend import predict

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


FREE_LICENCES = {"CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0"}  # that let an image be passed on
PIXELS = 256  # longest side of an image that is kept, and height of the picture


def add_example(
    folder: str | Path, image: np.ndarray, truth: np.ndarray | None = None, *, source: str, licence: str
) -> None:
    """Give a checkpoint a probe and, where the truth is known, a picture.

    Args:
        folder: the checkpoint's.
        image: a real one that it was not trained on: uint8 [H, W, C], or a volume [C, D, H, W] that lies as the model
            wants it; in the probe larger ones are reduced, volumes cut.
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
    config = read_config(folder)
    with replacing(folder) as draft:
        copy_files(folder, draft, config)
        kept = torch.from_numpy(np.array(model.preprocessing.excerpt(image, PIXELS), order="C"))
        write_probe(draft, model, kept)
        made = [PROBE]
        if truth is not None:
            draw_example(model, image, truth).save(draft / PICTURE, optimize=True)
            made.append(PICTURE)
        hashes = {**config.sha256, **{name: sha256(draft / name) for name in made}}
        write_config(draft, config.changed(example={"source": source, "licence": licence}, sha256=hashes))


def draw_example(model: "SegmentationNetwork", image: np.ndarray, truth: np.ndarray) -> Image.Image:
    """Draw image, truth and prediction side by side; of a volume, the slice with most of the truth."""
    found = predict(model, image)
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
        filtered = Image.Resampling.BOX if panel.height > PIXELS else Image.Resampling.NEAREST
        picture.paste(panel.resize((width, PIXELS), filtered), (place * (width + 4), 0))
    return picture
