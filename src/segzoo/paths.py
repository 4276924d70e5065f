"""Paths that may be opened: regular files alone, since a pipe or a device blocks whoever opens it, or never ends."""

import errno
import stat
from pathlib import Path

from segzoo.errors import MissingFileError, SegzooError

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # no such file can be there
KINDS = ((stat.S_ISFIFO, "named pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISBLK, "device"), (stat.S_ISCHR, "device"))


def require_file(path: Path, advice: str = "") -> None:
    """Refuse a path that does not lead to a regular file, without opening it; links are followed.

    Args:
        path: to be read.
        advice: ends the sentence where nothing is there: "; `segzoo export` writes one".

    Raises:
        MissingFileError: nothing is there, or a folder.
        SegzooError: it is a pipe, a socket or a device, or may not be looked at.

    Example:
        >>> from pathlib import Path
        >>> from segzoo.errors import SegzooError
        >>> from segzoo.paths import require_file
        >>> try:
        ...     require_file(Path("."))
        ... except SegzooError as error:
        ...     print(error)
        There is no file .: it is a folder.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # the latter of a name with a zero byte
        if isinstance(error, OSError) and error.errno not in ABSENT:
            raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
        raise MissingFileError(f"There is no file {path}{advice}.") from None
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise MissingFileError(f"There is no file {path}{advice}: it is a folder.")
    kind = next((name for is_kind, name in KINDS if is_kind(mode)), "special file")
    raise SegzooError(f"{path} is a {kind} and is not opened; give a regular file.")
