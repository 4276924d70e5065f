"""Output of the command line."""

import argparse
import io
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from segzoo.errors import SegzooError, one_line

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


def each_apart(names: Sequence[str], work: Callable[[str], str], kind: str, done: str) -> None:
    """Do something for each name and print what it returns; one that fails stops none of the others.

    Args:
        names: to go through.
        work: called with each.
        kind: what the names are, in the plural, for sentences.
        done: what is done to each, likewise: "3 checkpoints could not be verified".

    Raises:
        SegzooError: one failed; all have been tried by then.
    """
    failures: list[str] = []
    for name in names:
        try:
            print(work(name), flush=True)
        except (SegzooError, OSError) as error:
            failures.append(sentence(error))
            if len(names) > 1:
                print(f"segzoo: not {done}: {failures[-1]}", file=sys.stderr, flush=True)
    raise_first(failures, len(names), f"{kind} could not be {done}")


def raise_first(failures: Sequence[str], count: int, what: str) -> None:
    """Raise the first failure, if there is one, and say how many there are where several things were done.

    Args:
        failures: why things could not be done.
        count: of all that were to be done.
        what: became of those that failed: "inputs were not segmented".

    Raises:
        SegzooError: saying so.
    """
    if failures:
        raise SegzooError(
            (f"{len(failures)} of {count} {what}, the first because: " if count > 1 else "") + failures[0]
        )
