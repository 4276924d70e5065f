"""Facts that a description states beside its model and contract: each of the kind that those who show it take.

What is left out is not claimed, and what this version does not know is let through; but a name that is a list, or a
Dice that is a word, would end ``segzoo list`` for all others.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from segzoo.errors import SegzooError
from segzoo.tasks import is_label

WORDS = ("name", "version", "segzoo_version", "licence")
OBJECTS = ("preprocessing", "data", "started_from", "metrics", "licences", "example")
WORDS_OF_DATA = ("dataset", "split", "licence", "split_sha256", "files_sha256", "folder")
COUNTS_OF_DATA = ("longest_side", "fold", "seed")


def refuse_strange_facts(where: str | Path, entries: Mapping[str, Any]) -> None:
    """Refuse facts that are not of their kind; null is as good as nothing.

    Raises:
        SegzooError: naming the entry.
    """
    for part in OBJECTS:
        require_object(where, part, entries.get(part, {}))
    require(where, entries, WORDS, is_word, "a text")
    require(where, entries, ("parameters",), is_count, "a whole number")
    for part, names in (("licences", ("code", "weights", "data")), ("example", ("source", "licence"))):
        require(where, entries.get(part, {}), names, is_word, "a text", f"{part}' ")
    started = entries.get("started_from", {})
    require(where, started, started, is_word, "a text", "started_from's ")
    refuse_strange_metrics(where, entries.get("metrics", {}))
    refuse_strange_data(where, entries.get("data", {}))


def refuse_strange_metrics(where: str | Path, metrics: Mapping[str, Any]) -> None:
    """Refuse scores that are no numbers, and protocols that are no words."""
    require(where, metrics, ("images",), is_count, "a whole number", "metrics' ")
    for part, fits, kind in (
        ("original", is_number, "a number"),
        ("resized", is_number, "a number"),
        ("protocols", is_word, "a text"),
    ):
        scores = metrics.get(part, {})
        require_object(where, f"metrics' {part}", scores)
        require(where, scores, scores, fits, kind, f"metrics' {part} ")


def refuse_strange_data(where: str | Path, data: Mapping[str, Any]) -> None:
    """Refuse a description of datasets that nobody could read: of the last training, or of one before it."""
    before = data.get("pretrained_on", [])
    require_objects(where, "data's pretrained_on", before)
    for training in (data, *before):
        parts = training.get("datasets", [])
        require_objects(where, "data's datasets", parts)
        for part in (training, *parts):
            require(where, part, WORDS_OF_DATA, is_word, "a text", "data's ")
            require(where, part, COUNTS_OF_DATA, is_count, "a whole number", "data's ")
            require(where, part, ("channels",), is_list, "a list", "data's ")
            counts = part.get("counts", {})
            require_object(where, "data's counts", counts)
            require(where, counts, counts, is_count, "a whole number", "data's counts ")
            ranges = part.get("ranges", {})
            require_object(where, "data's ranges", ranges)
            require(where, ranges, ranges, is_range, "two lists of as many numbers", "data's ranges ")


def require(
    where: str | Path,
    entries: Mapping[str, Any],
    names: Iterable[str],
    fits: Callable[[Any], bool],
    kind: str,
    whose: str = "",
) -> None:
    """Refuse entries of these names that are there and do not fit."""
    for name in names:
        value = entries.get(name)
        if value is not None and not fits(value):
            raise SegzooError(f"{where} must give {whose}{name} as {kind}, not as {str(value)[:100]!r}")


def require_object(where: str | Path, name: str, value: Any) -> None:
    """Refuse an entry that is not a JSON object.

    Raises:
        SegzooError: saying so.
    """
    if not isinstance(value, dict):
        raise SegzooError(f"{where} must give its {name} as an object, not as {value!r}")


def require_objects(where: str | Path, name: str, value: Any) -> None:
    """Refuse an entry that is not a list of JSON objects.

    Raises:
        SegzooError: saying so.
    """
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise SegzooError(f"{where} must give its {name} as a list of objects, not as {str(value)[:100]!r}")


def require_words(where: str | Path, name: str, value: Any) -> None:
    """Refuse an entry that is not a list of texts.

    Raises:
        SegzooError: saying so.
    """
    if not isinstance(value, list) or not all(map(is_word, value)):
        raise SegzooError(f"{where} must give its {name} as a list of texts, not as {str(value)[:100]!r}")


def is_word(value: Any) -> bool:
    """Return whether it is a text."""
    return isinstance(value, str)


def is_list(value: Any) -> bool:
    """Return whether it is a list."""
    return isinstance(value, list)


def is_range(value: Any) -> bool:
    """Return whether it is a list of lowest and one of as many highest values."""
    if not is_list(value) or len(value) != 2 or not all(map(is_list, value)):
        return False
    return len(value[0]) == len(value[1]) and all(is_number(one) for side in value for one in side)


def is_number(value: Any) -> bool:
    """Return whether it is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Return whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_labels(value: Any) -> bool:
    """Return whether it is a list of values that can mark classes in a mask's file."""
    return isinstance(value, list) and all(map(is_label, value))
