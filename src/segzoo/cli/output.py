"""Output of the command line."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from segzoo.errors import SegzooError, one_line


def show_any_name() -> None:
    """Let this process print names of files that its encoding has no characters for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def log_on_stderr() -> Iterator[None]:
    """Show on stderr what the library logs, while a command runs."""
    logger, handler = logging.getLogger("segzoo"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def sentence(error: SegzooError) -> str:
    """Return what an error says, in one line; one from a data loader's process has it at that traceback's end."""
    return one_line(str(error).rstrip().rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2])
