"""Folder of a checkpoint: replaced in one step, or copied."""

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segzoo.checkpoints.config import Config, read_config
from segzoo.checkpoints.files import file_names, read_listed
from segzoo.checkpoints.names import CARD, CONFIG
from segzoo.errors import SegzooError

# of the names of folders that are written into, before what is in them takes its place;
# nothing else tells a draft from a folder of somebody's own
DRAFT_END = ".writing"
DEAD = 24 * 60 * 60  # seconds after which nobody writes into a draft any more


def copy_files(source: Path, target: Path, config: Config) -> None:
    """Copy a checkpoint's files, and no others, into a folder: those that its config lists, and the card.

    Raises:
        SegzooError: a file is not the one that the config lists.
    """
    (target / CONFIG).write_bytes(config.content)
    for name in config.sha256:
        (target / name).write_bytes(read_listed(source, config, name))
    if (source / CARD).is_file():  # a stranger's may lack it
        shutil.copyfile(source / CARD, target / CARD)


@contextmanager
def drafting(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder in another one to write into what will be called ``name``; it is gone when all is done.

    What killed processes have left there, a day ago or earlier, is cleared up.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_dead_drafts(folder, f".{glob.escape(name)}-*{DRAFT_END}")
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=DRAFT_END, dir=folder))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_dead_drafts(folder: Path, pattern: str) -> None:
    """Clear up after processes that were killed a day ago or earlier; younger drafts may be those of another run."""
    for draft in folder.glob(pattern):
        with suppress(OSError):  # it may have ended meanwhile
            if time.time() - draft.stat().st_mtime > DEAD:
                shutil.rmtree(draft)


def entries_beside_checkpoint(folder: Path) -> list[Path]:
    """Return what a folder holds besides the files of the checkpoint in it.

    Raises:
        SegzooError: it holds something, and no checkpoint.
    """
    if is_new(folder):
        return []
    try:
        own = file_names(read_config(folder))
    except SegzooError:  # other programs' settings are called config.json too
        raise SegzooError(f"{folder} holds something that is no checkpoint; save to a new folder") from None
    return [entry for entry in folder.iterdir() if entry.name not in own]


def is_new(folder: Path) -> bool:
    """Return whether nothing is there yet, or an empty folder."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextmanager
def replacing(
    folder: Path, beside: Callable[[Path], list[Path]] = entries_beside_checkpoint, kind: str = "checkpoint"
) -> Iterator[Path]:
    """Make a new folder to write into, which takes the place of ``folder`` when all is written.

    A process killed in between leaves what was there or the new one, complete: see `restore`.

    Args:
        folder: to be replaced.
        beside: returns what lies in it besides what is replaced, and comes along; refuses a folder of another kind.
        kind: what is written, for sentences.

    Raises:
        SegzooError: the folder is of another kind, or the disk cannot be written to.
    """
    folder = folder.resolve()  # a link goes on leading to it, and "." has a name
    restore(folder)
    strangers = beside(folder)
    try:
        with drafting(folder.parent, folder.name) as draft:
            yield draft
            for entry in strangers:  # copied, so that the old folder stays whole until the new one is
                if (draft / entry.name).exists():
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.copytree(entry, draft / entry.name, symlinks=True)
                else:
                    shutil.copy2(entry, draft / entry.name, follow_symlinks=False)
            draft.chmod(0o755)  # mkdtemp's folders are private
            old = aside(folder)
            here = folder.exists() and os.path.samefile(folder, ".")
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            draft.rename(folder)
            if here:
                os.chdir(folder)  # else this process would stay in the old one
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if isinstance(error, SegzooError):
            raise
        restore(folder)
        raise SegzooError(
            f"the {kind} {folder} could not be written ({error.strerror or error}), and what was there is as it "
            "was; free some space or choose another place, and save again"
        ) from error


def aside(folder: Path) -> Path:
    """Return where a folder lies for the moment in which another takes its place."""
    folder = folder.resolve()
    return folder.with_name(f".{folder.name}.old")


def restore(folder: Path) -> None:
    """Put back a folder whose replacement was killed between the two renamings that it takes."""
    if not folder.exists() and aside(folder).is_dir():
        os.rename(aside(folder), folder)
