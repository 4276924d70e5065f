"""Output of the command line."""

import argparse
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from segzoo.errors import one_line

TRACEBACK = "Traceback (most recent call last)"


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line, whatever is in the words that it was given."""

    def error(self, message: str) -> NoReturn:
        """End with the usage, one sentence and status 2."""
        super().error(one_line(message))


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


def sentence(error: Exception) -> str:
    """Return what an error says, on one line; one from a data loader's process has it at the end of a traceback."""
    said = str(error).strip()
    if TRACEBACK in said:
        said = said.rpartition(f"{type(error).__module__}.{type(error).__qualname__}: ")[2]
    return one_line(said)
