"""Edits that turn good files into odd ones, of bytes, of lines and of JSON, and what fuzzing draws them from.

An edit is a tuple of plain values, so that a failing case can be written down. Places are taken modulo what there is.
"""

import json
from typing import Any

from hypothesis import strategies as st

# ---- bytes

BytesEdit = tuple[str, int, bytes]
SPECIAL = (b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\x80", b"\0\0\xc0\x7f")


def edit_bytes(content: bytes, edits: tuple[BytesEdit, ...], within: int | None = None) -> bytes:
    """Return bytes with edits made one after the other, all of them in the first ``within`` bytes."""
    for kind, place, new in edits:
        size = max(1, min(len(content), within or len(content)))
        at = place % size
        if kind == "set":
            content = content[:at] + new + content[at + len(new) :]
        elif kind == "insert":
            content = content[:at] + new + content[at:]
        elif kind == "cut":
            content = content[:at]
        else:  # delete
            content = content[:at] + content[at + 1 + len(new) :]
    return content


def bytes_edits(most: int = 4) -> st.SearchStrategy[tuple[BytesEdit, ...]]:
    """Draw edits of bytes."""
    new = st.one_of(st.sampled_from(SPECIAL), st.binary(min_size=1, max_size=8))
    kinds = st.sampled_from(["set", "set", "set", "insert", "cut", "delete"])
    edit = st.tuples(kinds, st.integers(0, 2**16), new)
    return st.lists(edit, min_size=1, max_size=most).map(tuple)


# ---- lines of text

LineEdit = tuple[str, int, str]


def edit_lines(lines: list[str], edits: tuple[LineEdit, ...]) -> list[str]:
    """Return lines with some replaced ("set"), added ("insert"), removed ("delete") or said twice ("repeat")."""
    lines = list(lines)
    for kind, place, new in edits:
        at = place % max(1, len(lines))
        if kind == "set":
            lines[at : at + 1] = [new]
        elif kind == "value":  # behind the key of a line that is there
            mark = next((mark for mark in (": ", ":=", " = ") if mark in "".join(lines[at : at + 1])), "")
            key = lines[at].partition(mark)[0] if mark else ""
            lines[at : at + 1] = [key + mark + new]
        elif kind == "insert":
            lines.insert(at, new)
        elif kind == "repeat":
            lines.insert(at, lines[at])
        else:
            del lines[at : at + 1]
    return lines


# ---- JSON

JsonEdit = tuple[str, int, str]
LONG = {  # written down by these names
    "@lists": "[" * 20000 + "]" * 20000,
    "@objects": '{"a":' * 3000 + "1" + "}" * 3000,
    "@digits": "1" * 5000,
    "@text": '"' + "x" * 3000 + '"',
}
RAW = (
    "NaN", "Infinity", "-Infinity", "1e-320", "1e30", "1e400", "-1", "0", "1", "2", "3", "1.5", "-0.0", "65537",
    "18446744073709551616", "1" * 400, "true", "false", "null", '""', '" "', '"x"', '"nan"', '"1"',
    '"../../x"', '"/etc/passwd"', '".."', '"a\\nb"', '"a\\u0000b"', '"\\ud800"', '"\\u202egnp"',
    "[]", "{}", "[[]]", "[1]", "[1, 2]", "[1, 2, 3, 4]", "[null]", '["background"]', '{"a": 1, "a": 2}',
    "[" * 50 + "]" * 50, *LONG,
)  # fmt: skip
KEYS = ("", "x", "format", "name", "arguments", "channels", "class_names", "sha256", "__class__", "\ud800")


def edit_json(document: Any, edits: tuple[JsonEdit, ...]) -> bytes:
    """Return a document as JSON, with some values replaced by raw text, removed, or put under another key."""
    document, raw = json.loads(json.dumps(document)), {}
    for number, (kind, place, new) in enumerate(edits):
        spots = places(document)
        holder, key = spots[place % len(spots)]
        mark = f"@{number}@"
        if kind == "set":
            holder[key], raw[mark] = mark, new
        elif kind == "delete":
            del holder[key]
        elif isinstance(holder, list):
            holder.append(mark)
            raw[mark] = new
        elif kind == "add":
            holder[KEYS[place % len(KEYS)]], raw[mark] = mark, new
        else:  # rename
            holder[KEYS[place % len(KEYS)]] = holder.pop(key)
        if not document:
            break
    text = json.dumps(document, indent=1)
    for mark, new in raw.items():
        text = text.replace(f'"{mark}"', LONG.get(new, new))
    return text.encode("utf-8", "surrogatepass")


def places(node: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document: what holds it, and its key or index."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    return [spot for key in keys for spot in [(node, key), *places(node[key])]]


def json_edits(most: int = 3) -> st.SearchStrategy[tuple[JsonEdit, ...]]:
    """Draw edits of a document."""
    drawn = st.one_of(st.integers().map(str), st.floats().map(json.dumps), st.text(max_size=20).map(json.dumps))
    new = st.one_of(st.sampled_from(RAW), st.sampled_from(RAW), drawn)
    kinds = st.sampled_from(["set", "set", "set", "set", "delete", "add", "rename"])
    return st.lists(st.tuples(kinds, st.integers(0, 300), new), min_size=1, max_size=most).map(tuple)
