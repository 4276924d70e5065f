"""Errors that Lightning and jsonargparse raise over bad input of a training, in one sentence."""

import re
from argparse import ArgumentError
from pickle import UnpicklingError

from lightning.fabric.utilities.exceptions import MisconfigurationException

from segzoo.errors import NO_ROOM, SegzooError, cause_of

# what jsonargparse says where a class's option is given, and the class is not
OPTION_OF_NONE = re.compile(
    r"key \"(optimizer|lr_scheduler)\":.*?'torch\.optim\.(?:Optimizer|lr_scheduler\.LRScheduler)':\s+Option '(\w+)'",
    re.DOTALL,
)
EXAMPLES = {
    "optimizer": "--optimizer AdamW --optimizer.lr 1e-4",
    "lr_scheduler": "--lr_scheduler StepLR --lr_scheduler.step_size 30",
}
NO_TEXT = re.compile(r"<class 'str'>\. Got value: (True|False|None|[\d.]+)$", re.MULTILINE)
QUOTE = 'quote what YAML takes for something else, such as yes, no, on, off, null and numbers: \'["no","yes"]\''
# what jsonargparse says around the one line that helps
NOISE = re.compile(r"Does not validate against any|Subtypes:|Errors:|- Expected (a )?<class 'NoneType'>|Given value")


def cause_in_input(error: Exception, verb: str) -> SegzooError | None:
    """Return what somebody did wrong, where that is behind an error of Lightning or of its parser."""
    if (cause := cause_of(error, SegzooError)) is not None:
        return cause
    if isinstance(error, ArgumentError) and (unnamed := OPTION_OF_NONE.search(str(error))):
        return SegzooError(
            f"--{unnamed[1]}.{unnamed[2]} is given without --{unnamed[1]}, so name that too, for instance "
            f"{EXAMPLES[unnamed[1]]}"
        )
    if isinstance(error, ArgumentError) or (
        isinstance(error, ValueError) and str(error).startswith("Does not validate")
    ):
        advice = QUOTE if NO_TEXT.search(str(error)) else f"see segzoo {verb} --help"
        return SegzooError(f"{one_sentence(str(error))}; {advice}")
    if isinstance(error, MisconfigurationException):
        return SegzooError(one_sentence(str(error)))
    if isinstance(error, UnpicklingError):
        return SegzooError(
            "--ckpt_path names a file that is not a Lightning checkpoint of plain tensors, and pickles are not loaded; "
            "give the last.ckpt or best.ckpt of a run"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("Early stopping conditioned on"):
        missing, _, names = str(error).partition(" Pass in")
        return SegzooError(f"{missing.rstrip('.')}; there are{names.rpartition(':')[2]}")
    if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
        return SegzooError(
            "--ckpt_path names the run of another model, or of this one with other arguments; give the run that this "
            "command started"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:  # while a log or a recipe is written
        return SegzooError(
            f"{error.filename or 'a file of the run'} cannot be written ({error.strerror}), and what the run has kept "
            "is as it was; free some space, and go on with --ckpt_path last"
        )
    return None


def one_sentence(message: str) -> str:
    """Return the lines of a parser's message that say what is wrong, as one; ``fit.data`` is typed as --data."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not NOISE.search(line)]
    joined = "; ".join(dict.fromkeys(line for line in lines if line)).replace(":; ", ": ")
    return re.sub(r"\b(?:fit|validate|test)\.(data|model)\b", r"--\1", joined)
