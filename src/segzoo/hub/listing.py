"""Checkpoints that there are, here and on the Hub."""

import os
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from segzoo.checkpoints.config import Config
from segzoo.checkpoints.encoder import EncoderConfig, read_stored
from segzoo.checkpoints.entries import Metrics
from segzoo.checkpoints.folder_config import is_of_encoder, read_entries
from segzoo.checkpoints.members import member_file
from segzoo.checkpoints.names import CONFIG, WEIGHTS
from segzoo.checkpoints.pins import organisation, published
from segzoo.errors import SegzooError
from segzoo.hub.fetch import cached_folder


def checkpoint_folders() -> dict[str, Path]:
    """Return every checkpoint in a folder of this machine, by name.

    Those in ``SEGZOO_HUB`` come before those shipped with segzoo. Folders without weights (as source archives have
    them) are left out.
    """
    package = Path(__file__).parents[1]
    roots = [Path(root) for root in os.environ.get("SEGZOO_HUB", "").split(os.pathsep) if root]
    roots += [package / "model_cards", package.parents[1] / "model_cards"]  # in a wheel, in a checkout
    found: dict[str, Path] = {}
    for root in roots:
        outer = folders_in(root)
        for folder in sorted([*outer, *(inner for one in outer for inner in folders_in(one))]):
            if holds_checkpoint(folder):
                found.setdefault(folder.relative_to(root).as_posix(), folder)
    return found


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder has a config and weights beside it, by their names."""
    weights = any(os.path.isfile(folder / name) for name in (WEIGHTS, member_file(1)))
    return weights and os.path.lexists(folder / CONFIG)


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder but hidden ones; none of one that is not there or cannot be read."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in names if not name.startswith(".") and os.path.isdir(folder / name)]


def list_checkpoints(pattern: str = "*") -> list[str]:
    """Return the names of the checkpoints, those at hand and those published, sorted.

    Args:
        pattern: of a shell, for names.

    Example:
        >>> import segzoo
        >>> segzoo.list_checkpoints("lv-unet-bus?")
        ['lv-unet-busi']
    """
    return stored_names(pattern, encoders=False)


def list_encoders(pattern: str = "*") -> list[str]:
    """Return the names of the encoders that a model's ``encoder_weights`` may name, likewise.

    Args:
        pattern: of a shell, for names.

    Example:
        >>> import segzoo
        >>> segzoo.list_encoders("vrwkv-*")
        ['vrwkv-tiny-distilled']
    """
    return stored_names(pattern, encoders=True)


def stored_names(pattern: str, encoders: bool) -> list[str]:
    """Return the names of the checkpoints of one kind, sorted."""
    pins = published()
    others = {name: folder for name, folder in checkpoint_folders().items() if name not in pins}
    kinds = {name: "encoder" in pin for name, pin in pins.items()}
    kinds |= {name: holds_encoder(folder) for name, folder in others.items()}
    return sorted(name for name, kind in kinds.items() if kind == encoders and fnmatchcase(name, pattern))


def holds_encoder(folder: Path) -> bool:
    """Return whether a folder's checkpoint is an encoder's, as far as its config can be read."""
    try:
        return is_of_encoder(read_entries(folder)[2])
    except (SegzooError, OSError):
        return False


def facts_of(config: Config | EncoderConfig, folder: Path) -> dict[str, Any]:
    """Return what people choose a checkpoint by: model, dataset, Dice, size and licences; of an encoder its scores."""
    metrics = config.metrics or Metrics()
    own: dict[str, Any] = (
        {"encoder": str(config.encoder), "scores": metrics.original}
        if isinstance(config, EncoderConfig)
        else {
            "model": config.model.name,
            "dataset": config.data.get("dataset"),
            "dice": metrics.original.get("dice"),
            "images": metrics.images,
        }
    )
    return {
        **own,
        "parameters": config.parameters,
        "bytes": sum((folder / name).stat().st_size for name in config.sha256 if (folder / name).is_file()),
        "licences": asdict(config.licences),
    }


def listing(name: str, folder: Path | None) -> dict[str, Any]:
    """Return the facts of a checkpoint, and where it is: here, or to be fetched.

    Args:
        name: of `list_checkpoints`.
        folder: of `checkpoint_folders`; None where it has none.

    Returns:
        Only an "error" beside the place where the folder holds no checkpoint that can be used.
    """
    if folder is not None:
        here = {"where": "here", "folder": str(folder)}
        try:
            return {**facts_of(read_stored(folder), folder), **here}
        except (SegzooError, OSError) as error:
            return {"error": str(error), **here}
    pin = published()[name]
    folder = cached_folder(f"{organisation()}/{name}", pin["tag"], None)
    facts = {key: value for key, value in pin.items() if key not in ("tag", "sha256", "card_sha256")}
    return {**facts, "where": "to be fetched" if folder is None else "here", "folder": folder and str(folder)}
