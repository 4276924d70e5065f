"""Errors a person can cause: each is one sentence that says what is wrong, where, and what to do."""

import errno
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)
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


def cause_of(error: BaseException, kind: type[E]) -> E | None:
    """Return the first error of a kind among an error and what it came of; None where there is none."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__cause__ or cause.__context__
    return cause


def first_line(error: Exception) -> str:
    """Return what an error of somebody else's code says first, of what may be pages."""
    return str(error).strip().partition("\n")[0][:200]


def first_few(things: Sequence[object]) -> str:
    """Return the first three of some things, and how many more there are.

    Example:
        >>> from segzoo.errors import first_few
        >>> first_few(["a.png", "b.png", "c.png", "d.png", "e.png"])
        'a.png, b.png, c.png and 2 more'
    """
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return ", ".join(str(thing) for thing in things[:3]) + more


def one_sentence(failures: Sequence[tuple[object, object]], number: int, things: str) -> str:
    """Return one sentence about things that cannot be used: their names, and why the first one cannot.

    Args:
        failures: Names, and why; at least one.
        number: Of all things that were looked at.
        things: What they are, in the plural.

    Example:
        >>> from segzoo.errors import one_sentence
        >>> one_sentence([("a.png", "a.png is empty."), ("b.png", "b.png is blue.")], 8, "images")
        '2 of 8 images cannot be used (a.png, b.png), the first because: a.png is empty.'
    """
    reason = str(failures[0][1])
    if len(failures) == 1:
        return reason
    named = first_few([name for name, _ in failures])
    return f"{len(failures)} of {number} {things} cannot be used ({named}), the first because: {reason}"


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
