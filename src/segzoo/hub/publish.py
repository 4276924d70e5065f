"""Publish checkpoints: push a folder to the Hub, and pin what is published."""

import hashlib
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from segzoo import limits
from segzoo.checkpoints.encoder import read_stored
from segzoo.checkpoints.files import file_names, read_listed, refuse_links, verify_files
from segzoo.checkpoints.folder_config import FolderConfig
from segzoo.checkpoints.names import CARD, CONFIG
from segzoo.checkpoints.opened import Checkpoint, StoredEncoder, opened
from segzoo.checkpoints.weights import sha256
from segzoo.errors import MissingError, MissingFileError, SegzooError
from segzoo.hub.client import answer, download, explained, reach
from segzoo.hub.listing import facts_of
from segzoo.hub.verify import computed
from segzoo.registry import require_model


@dataclass(frozen=True)
class Upload:
    """Files that a push puts on the Hub, in one commit.

    Attributes:
        folder: the checkpoint.
        config: of it, as it was tried.
        repository: where to, as ``user/repo``.
        tag: of the commit.
        sizes: bytes of every file.
        tried: what was found when it was loaded, or why it was not.
    """

    folder: Path
    config: FolderConfig
    repository: str
    tag: str
    sizes: dict[str, int]
    tried: str

    def __str__(self) -> str:
        """Return a line for every file, and one for what was tried."""
        lines = [f"{self.folder} -> {self.repository}, tagged {self.tag}:"]
        lines += [f"  {size:>12,} bytes  {name}" for name, size in self.sizes.items()]
        return "\n".join([*lines, f"  {sum(self.sizes.values()):>12,} bytes in all", f"  {self.tried}"])

    def content(self, name: str) -> bytes:
        """Return a file, read once: what is compared with its hash is what goes up."""
        if name == CONFIG:
            return self.config.content
        return (self.folder / name).read_bytes() if name == CARD else read_listed(self.folder, self.config, name)


def plan_upload(folder: str | Path, repository: str, version: str | None = None) -> Upload:
    """Plan what pushing a checkpoint folder uploads: its card and config, and what the config lists; nothing else.

    It is loaded, and its probe computed: what nobody could use is not published.

    Args:
        folder: the checkpoint's.
        repository: where to, as ``user/repo``.
        version: what the tag is made of; None is the config's.

    Raises:
        MissingFileError: a file is missing.
        SegzooError: it is no checkpoint, a file is a link or not the one that its config lists, it cannot be loaded or
            computes something else than its probe, or the version makes no tag.
    """
    folder = Path(folder)
    config = read_stored(folder)
    refuse_links(folder, file_names(config))
    verify_files(folder, config)
    if not (folder / CARD).is_file():
        raise MissingFileError(f"{folder} has no {CARD}, the card that the Hub shows; save it with save_pretrained")
    named = config if version is None else config.changed(version=version)
    if not re.fullmatch(r"\d[\w.+-]*", named.version):  # the Hub would take all but the tag
        raise SegzooError(f"the version must be like 1.1, not {named.version!r}; its tag is then v1.1")
    sizes = {name: (folder / name).stat().st_size for name in file_names(config)}
    return Upload(folder, config, repository, named.tag, sizes, try_out(opened(folder, config)))


def try_out(checkpoint: Checkpoint | StoredEncoder) -> str:
    """Load a checkpoint and compute its probe; where its model is not known here, say that this was not tried.

    Raises:
        SegzooError: it cannot be loaded, or computes something else.
    """
    try:
        if isinstance(checkpoint, Checkpoint):
            require_model(checkpoint.config.model.name, checkpoint.config.model.package)
    except MissingError as error:
        return f"not tried, since {error}"
    return f"tried: it loads; {computed(checkpoint, checkpoint.folder)}"


def push(upload: Upload, *, private: bool = False, token: str | bool | None = None) -> str:
    """Create the repository where it is not there, upload in one commit, and tag it; returns the commit's address.

    Pushing the same again changes nothing; one that was broken off is finished by pushing again.

    Raises:
        SegzooError: the version is already published with other content, the repository is public where a private one
            is asked for, or the Hub does not allow it.
        MissingError: the Hub cannot be reached, or takes too long.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    reach()
    hub = HfApi(token=token, library_name="segzoo")
    asked = partial(answer, limits.ANSWER_SECONDS, f"an answer about {upload.repository}")
    with explained(upload.repository):
        repository = asked(lambda: hub.create_repo(upload.repository, private=private, exist_ok=True))
        if private and not asked(lambda: hub.repo_info(upload.repository)).private:
            raise SegzooError(
                f"{upload.repository} is public, and --private is for new repositories; push to another, or without it"
            )
        refs = asked(lambda: hub.list_repo_refs(upload.repository))
        tags = {tag.name: tag.target_commit for tag in refs.tags}
        if upload.tag in tags:
            refuse_other_content(hub, upload)
            if is_there(hub, upload, CARD, "main") or not is_there(hub, upload, CONFIG, "main"):  # a newer version's
                return f"{repository}/commit/{tags[upload.tag]}"
            upload = replace(upload, sizes={CARD: upload.sizes[CARD]})  # its words may get better; the tag stays
        operations = [CommitOperationAdd(name, upload.content(name)) for name in upload.sizes]
        message = f"{upload.repository.rpartition('/')[2]} {upload.tag}"
        commit = answer(
            limits.UPLOAD_SECONDS,
            f"the upload to {upload.repository}",
            lambda: hub.create_commit(upload.repository, operations, commit_message=message),
        )
        if upload.tag not in tags:
            asked(lambda: hub.create_tag(upload.repository, tag=upload.tag, revision=commit.oid))
        return commit.commit_url


def refuse_other_content(hub: Any, upload: Upload) -> None:
    """Refuse to change a published version."""
    if not is_there(hub, upload, CONFIG, upload.tag):
        raise SegzooError(
            f"{upload.repository} already has {upload.tag}, with another {CONFIG}; save the checkpoint with a higher "
            "version, as in save_pretrained(version='1.1') or `segzoo push --version 1.1`"
        )


def is_there(hub: Any, upload: Upload, name: str, revision: str) -> bool:
    """Return whether the repository holds this very file."""
    there = download(upload.repository, name, revision, token=hub.token)
    return sha256(there) == hashlib.sha256(upload.content(name)).hexdigest()


def pin(model_cards: Path) -> dict[str, dict[str, Any]]:
    """Return the content of published.json: tag, hashes of config.json and card, and facts of every checkpoint."""
    pins = {}
    for folder in sorted(path.parent for path in model_cards.glob(f"*/{CONFIG}")):
        config = read_stored(folder)
        verify_files(folder, config)
        hashes = {"sha256": config.digest, "card_sha256": sha256(folder / CARD)}
        pins[folder.name] = {"tag": config.tag, **hashes, **facts_of(config, folder)}
    return pins
