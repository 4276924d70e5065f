"""The checkpoints there are, here and on the Hub."""

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from segzoo.checkpoints.config import CONFIG, WEIGHTS, read_config
from segzoo.checkpoints.pins import organisation, published
from segzoo.errors import SegzooError
from segzoo.hub.fetch import cached_folder


def checkpoint_folders() -> dict[str, Path]:
    """Every checkpoint in a folder of this machine by name: those in ``SEGZOO_HUB``, then those shipped with segzoo.

    Folders without weights (as source archives have them) are left out.
    """
    package = Path(__file__).parents[1]
    roots = [Path(root) for root in os.environ.get("SEGZOO_HUB", "").split(os.pathsep) if root]
    roots += [package / "model_cards", package.parents[1] / "model_cards"]  # in a wheel, in a checkout
    found: dict[str, Path] = {}
    for root in roots:
        for config in sorted([*root.glob(f"*/{CONFIG}"), *root.glob(f"*/*/{CONFIG}")]):
            name = config.parent.relative_to(root).as_posix()
            if not re.search(r"(^|/)\.", name) and (config.parent / WEIGHTS).is_file():
                found.setdefault(name, config.parent)
    return found


def list_checkpoints(pattern: str = "*") -> list[str]:
    """Names of the checkpoints, those at hand and those published, sorted; ``pattern`` is like ``"*-busi"``.

    Example:
        >>> import segzoo
        >>> "lv-unet-busi" in segzoo.list_checkpoints("*-busi")
        True
    """
    return sorted(name for name in {*checkpoint_folders(), *published()} if fnmatchcase(name, pattern))


def describe(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What people choose a checkpoint by: model, dataset, Dice, size and licences."""
    metrics = config.get("metrics", {})
    return {
        "model": config["model"]["name"],
        "dataset": config.get("data", {}).get("dataset"),
        "dice": metrics.get("original", {}).get("dice"),
        "images": metrics.get("images"),
        "parameters": config.get("parameters"),
        "bytes": sum((folder / name).stat().st_size for name in config["sha256"] if (folder / name).is_file()),
        "licences": config.get("licences", {}),
    }


def listing(name: str, folder: Path | None) -> dict[str, Any]:
    """What `describe` says of a checkpoint, and where it is: here, or to be fetched.

    Args:
        name: of `list_checkpoints`.
        folder: of `checkpoint_folders`; None where it has none.

    Returns:
        Only an "error" beside the place where the folder holds no checkpoint that can be used.
    """
    if folder is not None:
        here = {"where": "here", "folder": str(folder)}
        try:
            return {**describe(read_config(folder), folder), **here}
        except SegzooError as error:
            return {"error": str(error), **here}
    pin = published()[name]
    folder = cached_folder(f"{organisation()}/{name}", pin["tag"], None)
    facts = {key: value for key, value in pin.items() if key not in ("tag", "sha256")}
    return {**facts, "where": "to be fetched" if folder is None else "here", "folder": folder and str(folder)}
