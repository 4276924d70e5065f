"""Names of files. One rule for training, testing and predicting: every name is good, but hidden files are not listed.

A name may hold blanks and line breaks, begin with ``-`` or ``=``, be as long as the file system takes, and be no UTF-8,
as those of old archives.
"""

from pathlib import Path

from segzoo.errors import one_line


def is_hidden(path: Path) -> bool:
    """Return whether a folder's listing leaves a file out, such as ``._x.png`` of macOS."""
    return path.name.startswith(".")


def spelled_out(name: str) -> str:
    r"""Return a name as it is written down, in splits, tables and descriptions: on one line, and in UTF-8.

    Example:
        >>> import os
        >>> from segzoo.imaging.names import spelled_out
        >>> print(spelled_out(os.fsdecode(b"M\xfcller\n1")))
        M\udcfcller\n1
    """
    return one_line(name.encode(errors="backslashreplace").decode())
