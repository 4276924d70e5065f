"""What the command line prints, and how."""

import io
import sys

from segzoo.errors import SegzooError


def show_any_name() -> None:
    """Let this process print names of files that its encoding has no characters for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def sentence(error: SegzooError) -> str:
    """What an error says; one from a data loader's process has it at the end of that process's traceback."""
    last_line = str(error).rstrip().rpartition("\n")[2]
    return last_line.removeprefix(f"{type(error).__module__}.{type(error).__qualname__}: ")
