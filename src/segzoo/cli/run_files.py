"""Files of Lightning's state in a run's folder: written whole or not at all, and looked at before they are used."""

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZipFile

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from segzoo.checkpoints.names import RECIPE
from segzoo.errors import SegzooError, first_line
from segzoo.paths import DRAFT_END, write_draft

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
CHECKPOINT = "checkpoint"  # the folder of the weights that the run is for
SPLIT = "split.json"
WEIGHTS_ALONE = ("state_dict",)  # what a test takes from a file
STATE = (*WEIGHTS_ALONE, "epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers")


class ReplacingCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one and then takes its name; the last but one epoch stays beside the last.

    Lightning's own writes to the system's folder for temporary files and moves from there, which on another
    file system means writing over the old checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` as ``path``, whole or not at all, whatever ends the process or the machine.

        Raises:
            SegzooError: it cannot be written, and what was there is as it was.
        """
        file = Path(path)
        contents = io.BytesIO()
        torch.save(checkpoint, contents)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = write_draft(file, contents.getbuffer())
            if file.name == LAST and change(file) is None:  # else what stands beside it is worth more
                os.replace(file, file.with_name(PREVIOUS))
            os.replace(draft, file)
        except OSError as error:
            raise SegzooError(
                f"{file} cannot be written ({error.strerror or error}), and the files of the epochs before are as they "
                "were: free some space, and go on from them with --ckpt_path last"
            ) from error


def remove_drafts(root: Path) -> None:
    """Clear up after a training that was killed while it saved; the folder must be this training's alone."""
    for pattern in ("*.ckpt", "*.png", RECIPE, SPLIT):
        for draft in root.glob(pattern + DRAFT_END):
            draft.unlink(missing_ok=True)
    for draft in root.glob(f".{CHECKPOINT}-*"):  # see `segzoo.checkpoints.folder.replacing`
        shutil.rmtree(draft, ignore_errors=True)


def first_whole(files: Iterable[Path], needed: Iterable[str]) -> tuple[Path | None, list[str]]:
    """Return the first whole one of files, if there is one, and what is wrong with those before it that are there."""
    reasons: list[str] = []
    for file in (one for one in files if one.is_file()):
        reason = damage(file, needed)
        if reason is None:
            return file, reasons
        reasons.append(f"{file} is damaged ({reason})")
    return None, reasons


def damage(file: Path, needed: Iterable[str]) -> str | None:
    """Return what is wrong with a file of Lightning's state, in a few words; None where it is whole.

    Args:
        file: to read.
        needed: keys that it must have.

    Raises:
        UnpicklingError: it is whole, and holds more than plain tensors.
    """
    if (changed := change(file)) is not None:
        return changed
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except UnpicklingError:
        raise
    except Exception as error:  # a file of somebody else's can be wrong in any way
        return first_line(error) or type(error).__name__
    missing = [key for key in needed if key not in state] if isinstance(state, dict) else list(needed)
    return f"it lacks {', '.join(missing)}" if missing else None


def change(file: Path) -> str | None:
    """Return how a file that torch has saved is known not to be as it was saved; None where it is.

    Such a file is a ZIP archive, which has a checksum of each of its parts. Torch itself does not compare them.
    """
    try:
        with ZipFile(file) as archive:
            changed = archive.testzip()
    except Exception as error:  # changed bytes end in more ways than zipfile has an error for
        return first_line(error) or type(error).__name__
    return None if changed is None else f"the checksum of {changed} is another"
