"""Names of inputs: which are hidden, and which are good. One rule for training, testing and predicting."""

import unicodedata
from pathlib import Path

from segzoo.errors import SegzooError

NO_LINE = ("Cc", "Zl", "Zp")  # Unicode's control characters and its separators of lines


def is_hidden(path: Path) -> bool:
    """Return whether a folder's listing leaves a file out, such as ``._x.png`` of macOS."""
    return path.name.startswith(".")


def require_good_name(name: Path | str) -> None:
    r"""Refuse a name that takes more than a line, or would steer a terminal; every other one is good.

    So a name may hold blanks, begin with ``-`` or ``=``, be as long as the file system takes, and be no UTF-8, as those
    of old archives: see `as_utf8`.

    Raises:
        SegzooError: it holds a line break or another control character.

    Example:
        >>> from segzoo.imaging.names import require_good_name
        >>> require_good_name("=Müller 1.png")
        >>> try:
        ...     require_good_name("scan\n1.png")
        ... except ValueError as error:
        ...     print(error)
        the name 'scan\n1.png' holds a line break or another control character; rename it
    """
    if not all(map(is_of_a_line, str(name))):
        raise SegzooError(f"the name {str(name)!r} holds a line break or another control character; rename it")


def is_of_a_line(character: str) -> bool:
    """Return whether a character may stand in a line of text: no break, no control character."""
    return unicodedata.category(character) not in NO_LINE


def on_one_line(text: str) -> str:
    """Spell out what would break a line of text or steer a terminal."""
    return "".join(one if is_of_a_line(one) else repr(one)[1:-1] for one in text)


def as_utf8(name: str) -> str:
    r"""Spell out the bytes of a name that are no characters, for what is written down: tables, splits, descriptions.

    Example:
        >>> import os
        >>> from segzoo.imaging.names import as_utf8
        >>> print(as_utf8(os.fsdecode(b"M\xfcller")))
        M\udcfcller
    """
    return name.encode(errors="backslashreplace").decode()
