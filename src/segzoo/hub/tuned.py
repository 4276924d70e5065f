"""Checkpoint with other post-processing, written as a new folder."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

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
    checkpoint: Checkpoint, model: "SegmentationNetwork", described: Postprocessing, folder: Path
) -> Config:
    """Write a checkpoint with other post-processing; that with the same is copied, byte for byte.

    It gets the next version. Test scores stay behind, since they are those of other masks. A probe holds the mask, too,
    by which ``segzoo verify`` sees that the post-processing works elsewhere as it does here.

    Args:
        checkpoint: its files checked; they stay as they are.
        model: as loaded from there; gets the post-processing.
        described: what is done to its predictions.
        folder: new.

    Returns:
        What the new config.json says.

    Raises:
        SegzooError: a file of the checkpoint is damaged, or the folder cannot be written.
    """
    config = checkpoint.config
    with replacing(folder) as draft:
        copy_files(checkpoint.folder, draft, config)
        if described.to_dict()["classes"] == config.postprocessing.to_dict()["classes"]:
            return config
        model.postprocessing = described
        hashes = config.sha256
        if PROBE in hashes:
            probe = {name: value for name, value in read_probe(draft, config).items() if name != "mask"}
            masks = {"mask": mask_of_probe(model, probe["logits"])} if described else {}
            write_safetensors(probe | masks, draft / PROBE)
            hashes |= {PROBE: sha256(draft / PROBE)}
        new = config.with_postprocessing(described, version=next_version(config.version), metrics={}, sha256=hashes)
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
