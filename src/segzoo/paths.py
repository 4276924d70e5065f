"""Paths that may be opened: regular files alone, since a pipe or a device blocks whoever opens it, or never ends.

And files that are written whole or not at all.
"""

import errno
import os
import stat
from pathlib import Path

from segzoo.errors import MissingFileError, SegzooError

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # no such file can be there
DRAFT_END = ".part"  # of the names of files that are written before they take another's place
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


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or not at all: what was there stays until all of the new one is on the disk.

    Raises:
        OSError: it cannot be written, and what was there is as it was.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from segzoo.paths import write_whole
        >>> file = Path(tempfile.mkdtemp()) / "split.json"
        >>> write_whole(file, b"{}")
        >>> file.read_bytes()
        b'{}'
    """
    os.replace(write_draft(path, content), path)


def write_draft(path: Path, content: bytes | memoryview) -> Path:
    """Write what is to take the place of a file beside it, and wait until it is on the disk.

    Returns:
        The draft, for `os.replace`.

    Raises:
        OSError: it cannot be written, and nothing of it is left; the error names the file, not the draft.
    """
    draft = path.with_name(path.name + DRAFT_END)
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    return draft
