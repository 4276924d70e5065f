"""The errors a person can cause: each is one sentence that says what is wrong, where, and what to do."""

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class SegzooError(ValueError):
    """Bad input to segzoo. The command line prints its message alone, without a traceback."""


class MissingError(SegzooError, FileNotFoundError):
    """A file, folder, checkpoint or model that is not there."""

    def __str__(self) -> str:
        """The message alone (OSError would add an errno)."""
        return str(self.args[0]) if self.args else ""


def attempt(function: Callable[..., T], *arguments: Any) -> T | SegzooError:
    """What a function returns, or the error that bad input makes it raise."""
    try:
        return function(*arguments)
    except SegzooError as error:
        return error
