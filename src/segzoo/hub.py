"""Find, fetch and load checkpoints: from a folder, a mirror, the package, or the Hugging Face Hub."""

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segzoo import __version__
from segzoo.checkpoint import (
    CARD,
    CONFIG,
    WEIGHTS,
    copy_files,
    damaged_files,
    is_complete,
    read_config,
    replacing,
    restore,
    verify_files,
)
from segzoo.errors import MissingError, SegzooError
from segzoo.registry import create_model, list_models, nearest
from segzoo.weights import sha256

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from segzoo.module import SegmentationModule

ORGANISATION = "segzoo"  # the zoo's own on the Hub
PINS = Path(__file__).parent / "published.json"


def organisation() -> str:
    """Whose repositories on the Hub bare names stand for: the zoo's own, or ``SEGZOO_ORGANISATION``."""
    return os.environ.get("SEGZOO_ORGANISATION", ORGANISATION)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine, its files checked.

    Attributes:
        folder: where they lie.
        config: what config.json says.
        trust: what the files were compared with.
    """

    folder: Path
    config: dict[str, Any]
    trust: str

    @property
    def mask_names(self) -> list[str] | None:
        """The classes' names where each has a mask of its own (multi-label), else None."""
        return self.config["class_names"] if self.config["model"]["arguments"].get("multilabel") else None

    @property
    def identity(self) -> dict[str, str]:
        """What tells its masks from those of any other model: the sha256 of the config, which holds the weights'."""
        return {"checkpoint": sha256(self.folder / CONFIG)}


# ---- what there is


@cache
def published() -> dict[str, dict[str, Any]]:
    """The checkpoints that the zoo has published: tag and sha256 of config.json, and what `describe` says of them."""
    pins: dict[str, dict[str, Any]] = json.loads(PINS.read_text(encoding="utf-8"))
    return pins


def checkpoint_folders() -> dict[str, Path]:
    """Every checkpoint in a folder of this machine by name: those in ``SEGZOO_HUB``, then those shipped with segzoo.

    Folders without weights (as source archives have them) are left out.
    """
    package = Path(__file__).parent
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
    """Names of the checkpoints, those at hand and those published, sorted; ``pattern`` is like ``"*-busi"``."""
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


# ---- find


def open_checkpoint(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Find a checkpoint, fetch it where it is not here, and check its files.

    Looked for in this order: a folder of this path; a name in ``SEGZOO_HUB``; one shipped with segzoo; the Hub
    (``user/repo``, or a bare name under `organisation`).

    Args:
        name_or_path: a folder, a checkpoint's name, or ``user/repo``, which for the zoo's own is the same as its name.
        revision: a tag, branch or commit on the Hub; None is what segzoo pins, or a stranger's main branch.
        cache_dir: where the Hub's client keeps files; None is its default.
        token: for private repositories; None is that of `hf auth login`.
        local_files_only: never ask the Hub.

    Raises:
        MissingError: there is none; the message names the nearest, or how to get it.
        SegzooError: a file of it is damaged or was changed.
    """
    from segzoo.hub_client import may_be_called

    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path):
        raise SegzooError(f"{name_or_path!r} is no checkpoint's name or folder; `segzoo list` shows what there is")
    name, path = str(name_or_path), Path(name_or_path)
    restore(path)
    if path.is_dir():
        if revision is not None:
            raise SegzooError(f"{path} is a folder here and has no revision {revision!r}; leave the revision out")
        return check_folder(path)
    if path.suffix == ".ckpt" and path.is_file():
        raise SegzooError(
            f"{path} is Lightning's state of a training; give the run's checkpoint folder, "
            f"{path.parent / 'checkpoint'}, which its command writes when it is given again with --ckpt_path last"
        )
    if path.is_file():
        raise SegzooError(
            f"{path} is a file and a checkpoint is a folder ({CONFIG} beside {WEIGHTS}); for weights of an original "
            "repository use segzoo.convert"
        )
    name = short_name(name)
    pin = published().get(name)
    folders = checkpoint_folders()
    found = folders.get(str(name_or_path), folders.get(name))
    if found is not None and (revision is None or (pin is not None and revision == pin["tag"])):
        return check_folder(found, name, pin)
    repository = name if "/" in name else f"{organisation()}/{name}"
    owned_elsewhere = "/" in name or organisation() != ORGANISATION  # may hold names that nobody has pinned
    if pin is None and not (owned_elsewhere and may_be_called(repository)):
        raise MissingError(
            f"there is no checkpoint {name!r}{nearest(name, [*list_checkpoints(), *list_models()])}, as a folder here, "
            "in SEGZOO_HUB, shipped with segzoo or on the Hub; `segzoo list` shows what there is"
        )
    if pin is not None and revision in (None, pin["tag"]):
        return fetch(name, repository, pin["tag"], pin, cache_dir, token, local_files_only)
    return fetch(name, repository, revision or "main", None, cache_dir, token, local_files_only)


def short_name(name: str) -> str:
    """What the zoo calls a checkpoint of its own that is asked for as ``organisation/name``, as the Hub shows it."""
    short = name.removeprefix(f"{organisation()}/")
    return short if short in published() else name


def check_folder(folder: Path, name: str | None = None, pin: dict[str, Any] | None = None) -> Checkpoint:
    """A checkpoint in a folder, against its own config, and against the pin where it was asked for by name."""
    if not (folder / CONFIG).is_file():
        raise MissingError(f"folder {folder} holds no {CONFIG}, so it is no checkpoint; save one with save_pretrained")
    config = read_config(folder)
    if pin is not None and sha256(folder / CONFIG) != pin["sha256"]:
        raise SegzooError(
            f"{folder / CONFIG} is not that of {name} {pin['tag']}, which segzoo {__version__} pins: another version "
            f"or a changed one; fetch it anew with `segzoo pull`, or load it by its path {folder} if you trust it"
        )
    verify_files(folder, config)
    return Checkpoint(folder, config, trust(folder))


def trust(folder: Path) -> str:
    """What a checkpoint's files agree with: the zoo's pin, or only each other."""
    found = sha256(folder / CONFIG)
    for name, pin in published().items():
        if found == pin["sha256"]:
            return f"as published ({name} {pin['tag']}, pinned by segzoo {__version__})"
    return f"its files agree with its own {CONFIG}, which nothing else vouches for"


# ---- fetch


def fetch(
    name: str,
    repository: str,
    revision: str,
    pin: dict[str, Any] | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Checkpoint:
    """A checkpoint of the Hub, all its files from one commit, in the client's cache.

    What is cached is taken without asking where it cannot have changed (it is pinned) or the Hub is out of reach.
    """
    from segzoo.hub_client import UnreachableError, ask

    folder = cached_folder(repository, revision, cache_dir)
    if folder is None or (pin is None and not local_files_only):
        try:
            if local_files_only:
                raise UnreachableError("local_files_only is set")
            ask(repository, CONFIG, revision, token)
            folder = fetch_files(repository, revision, pin, cache_dir, token)
        except UnreachableError as error:
            folder = folder or cached_folder(repository, revision, cache_dir)
            if folder is None:
                raise MissingError(offline_advice(name, repository, revision, str(error))) from error
    return check_cached(folder, repository, revision, pin)


def cached_folder(repository: str, revision: str, cache_dir: str | Path | None) -> Path | None:
    """The folder in the client's cache that holds all files of a checkpoint, or None."""
    from segzoo.hub_client import cached

    config = cached(repository, CONFIG, revision, cache_dir)
    if config is None:
        return None
    try:
        complete = is_complete(config.parent, read_config(config.parent))
    except SegzooError:  # fetching it again tells what is wrong with it
        return None
    return config.parent if complete else None


def fetch_files(
    repository: str,
    revision: str,
    pin: dict[str, Any] | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
) -> Path:
    """Fetch a checkpoint's config, and then the files that it lists, from the commit that it came from."""
    from segzoo.hub_client import download

    folder = download(repository, CONFIG, revision, token=token, cache_dir=cache_dir).parent
    check_config(folder, repository, revision, pin)
    for name in read_config(folder)["sha256"]:
        download(repository, name, folder.name, token=token, cache_dir=cache_dir)
    with suppress(MissingError):  # a card is for people
        download(repository, CARD, folder.name, token=token, cache_dir=cache_dir)
    return folder


def check_config(folder: Path, repository: str, revision: str, pin: dict[str, Any] | None) -> None:
    """Compare a fetched config with the pin."""
    from segzoo.hub_client import discard

    if pin is not None and sha256(folder / CONFIG) != pin["sha256"]:
        discard(folder / CONFIG)
        raise SegzooError(
            f"{CONFIG} of {repository} at {revision} is not the one that segzoo {__version__} pins: it was changed on "
            "the Hub or on its way, and is not used; update segzoo, or tell the zoo's maintainers"
        )


def check_cached(folder: Path, repository: str, revision: str, pin: dict[str, Any] | None) -> Checkpoint:
    """Check all files in the client's cache; what is damaged is removed, so that the next call fetches it anew."""
    from segzoo.hub_client import discard

    check_config(folder, repository, revision, pin)
    config = read_config(folder)
    damaged = damaged_files(folder, config)
    for file in damaged:
        discard(file)
    if damaged:
        raise SegzooError(
            f"{damaged[0].name} of {repository} at {revision} is not the file that its {CONFIG} lists (its sha256 "
            "differs): it was changed or damaged and has been removed from the cache; call again to fetch it anew"
        )
    return Checkpoint(folder, config, trust(folder))


def offline_advice(name: str, repository: str, revision: str, reason: str) -> str:
    """What to do about a checkpoint that is neither here nor to be had now."""
    no_folder = f"{name} is no folder here, " if "/" in name else ""
    return (
        f"{no_folder}{WEIGHTS} and {CONFIG} of {repository} at {revision} are not on this machine, and {reason}; "
        f"connect to the Hub, or run `segzoo pull {name} --revision {revision} --to DIR` on a connected machine, "
        f"bring DIR here and give the path DIR/{name}, or set SEGZOO_HUB=DIR and give no revision"
    )


def pull(name: str, target: Path, **where: Any) -> Path:
    """Copy a checkpoint to ``target/name``, so that ``SEGZOO_HUB=target`` serves it without a network.

    Args:
        name: a checkpoint's name or ``user/repo``.
        target: the mirror's folder.
        **where: as of `open_checkpoint`.

    Raises:
        MissingError: there is no such checkpoint.
        SegzooError: it is damaged, or cannot be written.
    """
    checkpoint = open_checkpoint(name, **where)
    # "." has no name of its own
    folder = target / (os.path.basename(os.path.abspath(name)) if Path(name).is_dir() else short_name(name))
    with replacing(folder) as draft:
        copy_files(checkpoint.folder, draft, checkpoint.config)
    return folder


# ---- load


def from_pretrained(
    name_or_path: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    loss: "nn.Module | None" = None,
    optimizer: "Callable[[Iterable], Optimizer] | None" = None,
    lr_scheduler: "Callable[[Optimizer], LRScheduler] | None" = None,
) -> "SegmentationModule":
    """Load a checkpoint, in eval mode and float32; what became of each tensor is printed in one line.

    Args:
        name_or_path: a checkpoint's folder; the name of one in ``SEGZOO_HUB``, shipped with segzoo or published by the
            zoo; or ``user/repo`` on the Hub.
        num_classes: another number of classes than the checkpoint's starts with a new head.
        in_channels: another number of channels adapts the first layer.
        revision: a tag, branch or commit on the Hub; None is what segzoo pins, or a stranger's main branch.
        cache_dir: where the Hub's client keeps files; None is its default.
        token: for private repositories; None is that of `hf auth login`.
        local_files_only: never ask the Hub.
        loss: for training it further; None is the architecture's.
        optimizer: likewise.
        lr_scheduler: likewise.

    Returns:
        The model; its ``load_report`` says which tensors were loaded, adapted, newly initialised or ignored, and what
        vouches for them.

    Raises:
        MissingError: there is no such checkpoint, it lacks a file, or it cannot be fetched.
        SegzooError: a file of it is damaged, was changed, or is not safetensors.
    """
    checkpoint = open_checkpoint(
        name_or_path, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
    )
    recipe: dict[str, Any] = {"loss": loss, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
    model = load(checkpoint, num_classes=num_classes, in_channels=in_channels, **recipe)
    print(model.load_report, file=sys.stderr)  # nothing is changed or left out without a word
    return model


def load(
    checkpoint: Checkpoint, *, num_classes: int | None = None, in_channels: int | None = None, **recipe: Any
) -> "SegmentationModule":
    """`from_pretrained`, of a checkpoint that was found, without a word.

    Raises:
        SegzooError: its config makes no model, or its weights do not fit that, or are not safetensors.
    """
    from segzoo.loading import LoadReport, apply_contract, fill, read_weights

    folder, config = checkpoint.folder, checkpoint.config
    arguments = dict(config["model"]["arguments"])
    changed = {"num_classes": num_classes, "in_channels": in_channels}
    arguments |= {key: value for key, value in changed.items() if value is not None}
    try:
        model = create_model(config["model"]["name"], **arguments, **recipe)
        model.load_report = LoadReport(str(folder), trust=checkpoint.trust)
        fill(model, read_weights(folder / WEIGHTS), model.load_report, num_classes, in_channels)
        apply_contract(model, config)
    except SegzooError:
        raise
    except (AttributeError, TypeError, ValueError) as error:  # a word where a number should be, and the like
        raise SegzooError(
            f"what {folder / CONFIG} says makes no model ({error}); fetch the checkpoint again"
        ) from error
    return model.eval()
