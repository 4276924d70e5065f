"""Fetch checkpoints and weight files from the Hub, with their content checked."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from segzoo import __version__
from segzoo.checkpoints.config import Config
from segzoo.checkpoints.encoder import EncoderConfig, read_stored
from segzoo.checkpoints.files import damaged_files, is_complete
from segzoo.checkpoints.names import CARD, CONFIG, WEIGHTS
from segzoo.checkpoints.opened import Checkpoint, StoredEncoder, opened
from segzoo.errors import MissingError, SegzooError
from segzoo.hub.client import UnreachableError, ask, cached, discard, download


def fetch(
    name: str,
    repository: str,
    revision: str,
    pin: dict[str, Any] | None,
    cache_dir: str | Path | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Checkpoint | StoredEncoder:
    """Fetch a checkpoint of the Hub, all its files from one commit, into the client's cache.

    What is cached is taken without asking where it cannot have changed (it is pinned) or the Hub is out of reach.
    """
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
    """Return the folder in the client's cache that holds all files of a checkpoint, or None."""
    config = cached(repository, CONFIG, revision, cache_dir)
    if config is None:
        return None
    try:
        complete = is_complete(config.parent, read_stored(config.parent))
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
    folder = download(repository, CONFIG, revision, token=token, cache_dir=cache_dir).parent
    for name in pinned_config(folder, repository, revision, pin).sha256:
        download(repository, name, folder.name, token=token, cache_dir=cache_dir)
    with suppress(MissingError):  # a card is for people
        download(repository, CARD, folder.name, token=token, cache_dir=cache_dir)
    return folder


def pinned_config(folder: Path, repository: str, revision: str, pin: dict[str, Any] | None) -> Config | EncoderConfig:
    """Read a fetched config, and compare what was read with the pin."""
    try:
        config = read_stored(folder)
    except SegzooError:
        if pin is None:
            raise
        config = None
    if pin is not None and (config is None or config.digest != pin["sha256"]):
        discard(folder / CONFIG)
        raise SegzooError(
            f"{CONFIG} of {repository} at {revision} is not the one that segzoo {__version__} pins: it was changed on "
            "the Hub or on its way, and is not used; update segzoo, or tell the zoo's maintainers"
        )
    assert config is not None
    return config


def check_cached(
    folder: Path, repository: str, revision: str, pin: dict[str, Any] | None
) -> Checkpoint | StoredEncoder:
    """Check all files in the client's cache; what is damaged is removed, so that the next call fetches it anew."""
    config = pinned_config(folder, repository, revision, pin)
    damaged = damaged_files(folder, config)
    for file in damaged:
        discard(file)
    if damaged:
        raise SegzooError(
            f"{damaged[0].name} of {repository} at {revision} is not the file that its {CONFIG} lists (its sha256 "
            "differs): it was changed or damaged and has been removed from the cache; call again to fetch it anew"
        )
    return opened(folder, config)


def offline_advice(name: str, repository: str, revision: str, reason: str) -> str:
    """Return what to do about a checkpoint that is neither here nor to be had now."""
    no_folder = f"{name} is no folder here, " if "/" in name else ""
    return (
        f"{no_folder}{WEIGHTS} and {CONFIG} of {repository} at {revision} are not on this machine, and {reason}; "
        f"connect to the Hub, or run `segzoo pull {name} --revision {revision} --to DIR` on a connected machine, "
        f"bring DIR here and give the path DIR/{name}, or set SEGZOO_HUB=DIR and give no revision"
    )
