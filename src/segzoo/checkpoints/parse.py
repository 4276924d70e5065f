"""JSON that strangers wrote: a config.json, the metadata of an exported file, the entry in Lightning's file.

What Python's own parser takes beyond JSON (NaN, a name given twice), and what it or those who read on choke on (nesting
without end, numbers of a thousand digits, halves of characters), is refused here, in one place.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any, NoReturn

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.paths import require_file

LARGEST = 2**63  # of whole numbers, which is more than anything that is counted


def read_bytes(path: Path, most: limits.Limit) -> bytes:
    """Read a file that is one, no pipe or device, and not too large.

    Raises:
        SegzooError: it is none, cannot be read, or is larger.
    """
    require_file(path, "; fetch the checkpoint again")
    try:
        with path.open("rb") as file:
            content = file.read(most.most + 1)
    except OSError as error:
        raise SegzooError(f"{path} cannot be read ({error.strerror}); fetch the checkpoint again") from None
    most.check(len(content), f"{path} has at least")
    return content


def parse_json(content: str | bytes, where: object) -> Any:
    """Return the values of a JSON text.

    Args:
        content: the text; bytes are UTF-8.
        where: it is from, for the sentence.

    Raises:
        SegzooError: it is no JSON, too long, nested too deep, or holds what no other program would take for JSON.

    Example:
        >>> from segzoo.checkpoints.parse import parse_json
        >>> parse_json('{"format": 1}', "config.json")
        {'format': 1}
    """
    limits.JSON_BYTES.check(len(content), f"{where} has")
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        values = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=object_of)
    except RecursionError:  # whatever the limit is set to
        limits.JSON_DEPTH.check(sys.getrecursionlimit(), f"{where} has at least")
        raise SegzooError(f"{where} is nested deeper than Python can read; fetch it again") from None
    except ValueError as error:
        raise SegzooError(f"{where} cannot be read as JSON ({error}); fetch it again") from None
    require_plain(values, where)
    return values


def refuse_constant(word: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python's parser takes and JSON does not have."""
    raise ValueError(f"{word} is no number there")


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, each name once: two readers would take different ones."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return made


def require_plain(values: Any, where: object) -> None:
    """Refuse values that JSON does not have, or that nobody could count, print or go through.

    Args:
        values: of JSON, or of a file that holds the like.
        where: they are from, for the sentence.

    Raises:
        SegzooError: saying so.
    """
    level, depth = [values], 0
    while level:  # not by recursion, whose depth is the file's to choose
        limits.JSON_DEPTH.check(depth, f"{where} has")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value, *value.values()]
            elif isinstance(value, list | tuple):
                inner += value
            else:
                require_plain_value(value, where)
        level, depth = inner, depth + 1


def require_plain_value(value: Any, where: object) -> None:
    """Refuse a value that is not null, true, false, a number or a text."""
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, int) and abs(value) < LARGEST:
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise SegzooError(f"{where} holds half a character in {value[:100]!a}, which JSON does not have") from None
        return
    what = f"the number {str(value)[:40]}" if isinstance(value, int | float) else f"a {type(value).__name__}"
    raise SegzooError(f"{where} holds {what}, which JSON does not have")
