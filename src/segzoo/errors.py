"""Errors a person can cause: each is one sentence that says what is wrong, where, and what to do."""

import errno
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, or of a limit of files


class SegzooError(ValueError):
    """Bad input to segzoo. The command line prints its message alone, without a traceback.

    Example:
        >>> import segzoo
        >>> try:
        ...     segzoo.create_model("lv_unet", num_classes=0)
        ... except segzoo.SegzooError as error:
        ...     print(error)
        num_classes (0) must be at least 1
    """

    def __str__(self) -> str:
        """Return the message alone (OSError and ImportError would add to it)."""
        return str(self.args[0]) if self.args else ""


class MissingError(SegzooError):
    """Something is not there: a name that nobody knows, a file, or a package.

    Example:
        >>> import segzoo
        >>> try:
        ...     segzoo.create_model("mednet")
        ... except segzoo.MissingError as error:
        ...     print(str(error).partition(";")[0])
        there is no model 'mednet' (did you mean mednext...
    """


class MissingFileError(MissingError, FileNotFoundError):
    """File or folder is not there."""


class MissingPackageError(MissingError, ImportError):
    """Package is not installed."""


def first_line(error: Exception) -> str:
    """Return what an error of somebody else's code says first, of what may be pages."""
    return str(error).strip().partition("\n")[0][:200]


def one_line(text: str) -> str:
    r"""Return a text with its line ends and control characters spelled out, as names of files may hold them.

    Example:
        >>> from segzoo.errors import one_line
        >>> print(one_line("two\nlines.png"))
        two\nlines.png
    """
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def attempt(function: Callable[..., T], *arguments: Any) -> T | SegzooError:
    """Return what a function returns, or the error that bad input makes it raise."""
    try:
        return function(*arguments)
    except SegzooError as error:
        return error
