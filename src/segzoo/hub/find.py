"""Find a checkpoint: in a folder, a mirror, the package, or on the Hugging Face Hub."""

import logging
import os
from pathlib import Path
from typing import Any

from segzoo import __version__
from segzoo.checkpoints.encoder import read_stored
from segzoo.checkpoints.files import file_names, refuse_links, verify_files
from segzoo.checkpoints.folder import copy_files, replacing, restore
from segzoo.checkpoints.folder_config import no_model
from segzoo.checkpoints.names import CARD, CONFIG, WEIGHTS
from segzoo.checkpoints.opened import Checkpoint, StoredEncoder, is_another_card, opened
from segzoo.checkpoints.pins import ORGANISATION, organisation, published
from segzoo.errors import MissingError, MissingFileError, SegzooError
from segzoo.hub.client import may_be_called
from segzoo.hub.fetch import fetch
from segzoo.hub.listing import checkpoint_folders, list_checkpoints, list_encoders
from segzoo.registry import list_models, nearest


def open_checkpoint(name_or_path: str | Path, **where: Any) -> Checkpoint:
    """Find a model's checkpoint, fetch it where it is not here, and check its files.

    Args:
        name_or_path: as of `open_stored`.
        **where: likewise.

    Raises:
        SegzooError: as of `open_stored`, or it is an encoder's.
    """
    found = open_stored(name_or_path, **where)
    if isinstance(found, StoredEncoder):
        raise no_model(name_or_path, name_or_path)
    return found


def open_stored(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Checkpoint | StoredEncoder:
    """Find a checkpoint of whichever kind, fetch it where it is not here, and check its files.

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
    if not isinstance(name_or_path, str | os.PathLike) or not str(name_or_path):
        raise SegzooError(f"{name_or_path!r} is no checkpoint's name or folder; `segzoo list` shows what there is")
    name, path = str(name_or_path), Path(name_or_path)
    if is_a_path(name_or_path):
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
        known = [*list_checkpoints(), *list_encoders(), *list_models()]
        raise MissingError(
            f"there is no checkpoint {name!r}{nearest(name, known)}, as a folder here, "
            "in SEGZOO_HUB, shipped with segzoo or on the Hub; `segzoo list` shows what there is"
        )
    if pin is not None and revision in (None, pin["tag"]):
        return fetch(name, repository, pin["tag"], pin, cache_dir, token, local_files_only)
    return fetch(name, repository, revision or "main", None, cache_dir, token, local_files_only)


def is_a_path(name_or_path: str | os.PathLike[str]) -> bool:
    """Return whether somebody means a place on this machine, rather than one of the checkpoints that go by a name.

    What a killed save has left beside such a place is put back; left in the current folder under a checkpoint's name,
    it would take that checkpoint's place.
    """
    if not isinstance(name_or_path, str):
        return True
    return os.path.basename(name_or_path) != name_or_path and (
        name_or_path not in checkpoint_folders() and short_name(name_or_path) not in published()
    )


def short_name(name: str) -> str:
    """Return the zoo's name of a checkpoint of its own that is asked for as ``organisation/name``, as on the Hub."""
    short = name.removeprefix(f"{organisation()}/")
    return short if short in published() else name


def check_folder(
    folder: Path, name: str | None = None, pin: dict[str, Any] | None = None
) -> Checkpoint | StoredEncoder:
    """Check a checkpoint in a folder against its own config, and against the pin where it was asked for by name."""
    if not (folder / CONFIG).is_file():
        raise MissingFileError(
            f"folder {folder} holds no {CONFIG}, so it is no checkpoint; save one with save_pretrained"
        )
    config = read_stored(folder)
    if pin is not None and config.digest != pin["sha256"]:
        raise SegzooError(
            f"{folder / CONFIG} is not that of {name} {pin['tag']}, which segzoo {__version__} pins: another version "
            f"or a changed one; fetch it anew with `segzoo pull`, or load it by its path {folder} if you trust it"
        )
    verify_files(folder, config)
    return opened(folder, config)


def pull(name: str, target: Path, **where: Any) -> Path:
    """Copy a checkpoint to ``target/name``, so that ``SEGZOO_HUB=target`` serves it without a network.

    Args:
        name: a checkpoint's name or ``user/repo``.
        target: the mirror's folder.
        **where: as of `open_stored`.

    Raises:
        MissingError: there is no such checkpoint.
        SegzooError: it is damaged, holds links, or cannot be written.
    """
    checkpoint = open_stored(name, **where)
    refuse_links(checkpoint.folder, file_names(checkpoint.config))
    # "." has no name of its own
    folder = target / (os.path.basename(os.path.abspath(name)) if Path(name).is_dir() else short_name(name))
    with replacing(folder) as draft:
        copy_files(checkpoint.folder, draft, checkpoint.config)
        if is_another_card(checkpoint.config, draft / CARD):
            (draft / CARD).unlink()
            logging.getLogger("segzoo").warning(
                "%s of %s is not the one that segzoo %s pins, and was left out", CARD, name, __version__
            )
    return folder
