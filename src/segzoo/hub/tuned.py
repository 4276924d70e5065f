"""Checkpoint with other post-processing, written as a new folder."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo.checkpoints.config import Config
from segzoo.checkpoints.folder import copy_files, replacing
from segzoo.checkpoints.names import PROBE
from segzoo.checkpoints.opened import Checkpoint
from segzoo.checkpoints.probe import read_probe
from segzoo.checkpoints.save import write_config
from segzoo.checkpoints.weights import sha256, write_safetensors
from segzoo.hub.verify import mask_of_probe
from segzoo.postprocessing import Postprocessing

if TYPE_CHECKING:
    from segzoo.network import SegmentationNetwork


def write_tuned(
    checkpoint: Checkpoint,
    model: "SegmentationNetwork",
    described: Postprocessing,
    folder: Path,
    ranges: Mapping[str, Any] | None = None,
) -> Config:
    """Write a checkpoint with other post-processing; where nothing is other, it is copied, byte for byte.

    It gets the next version. Test scores stay behind where they are those of other masks or probabilities. A probe
    holds the mask, too, by which ``segzoo verify`` sees that the post-processing works elsewhere as it does here.

    Args:
        checkpoint: its files checked; they stay as they are.
        model: as loaded from there; gets the post-processing.
        described: what is done to its predictions.
        folder: new.
        ranges: of the training part's inputs; None leaves what it says of them.

    Returns:
        What the new config.json says.

    Raises:
        SegzooError: a file of the checkpoint is damaged, or the folder cannot be written.
    """
    config = checkpoint.config
    with replacing(folder) as draft:
        copy_files(checkpoint.folder, draft, config)
        before = config.postprocessing
        data = config.data if ranges is None else {**config.data, "ranges": ranges}
        if replace(described, tuned={}) == replace(before, tuned={}) and data == config.data:
            return config
        model.postprocessing = described
        hashes = config.sha256
        if PROBE in hashes:
            probe = {name: value for name, value in read_probe(draft, config).items() if name != "mask"}
            masks = {"mask": mask_of_probe(model, probe["logits"])} if described.changes_masks else {}
            write_safetensors(probe | masks, draft / PROBE)
            hashes |= {PROBE: sha256(draft / PROBE)}
        same = described.of_mask == before.of_mask and described.temperature == before.temperature
        others = {"data": data} | ({} if same else {"metrics": {}})
        new = config.with_postprocessing(described, version=next_version(config.version), sha256=hashes, **others)
        write_config(draft, new)
        return new


def next_version(version: str) -> str:
    """Return a version whose last number is one higher.

    Example:
        >>> from segzoo.hub.tuned import next_version
        >>> next_version("1.0")
        '1.1'
    """
    return re.sub(r"(\d+)(\D*)$", lambda last: f"{int(last[1]) + 1}{last[2]}", version)
