"""Codes of a checkpoint's classes: those that its description states, else the zoo's own, else a generic one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzoo.catalogue import CODES, CODES_OF_DATA, SOMETHING, Codes, Concept
from segzoo.checkpoints.facts import is_list, is_word, require_object
from segzoo.errors import SegzooError


def codes_of(name: str, stated: Mapping[str, Any], data: Mapping[str, Any]) -> Codes:
    """Return the codes of a class.

    Args:
        name: of the class.
        stated: the entry "codes" of a description, checked.
        data: what the checkpoint was trained on.

    Example:
        >>> from segzoo.checkpoints.codes import codes_of
        >>> codes_of("lesion", {}, {}).type
        Concept(value='52988006', scheme='SCT', meaning='Lesion')
    """
    if name in stated:
        return Codes(**{part: Concept(*concept) for part, concept in stated[name].items()})
    datasets = [part.get("dataset") for part in (*data.get("datasets", []), data)]
    known = [CODES_OF_DATA[dataset, name.lower()] for dataset in datasets if (dataset, name.lower()) in CODES_OF_DATA]
    return known[0] if known else CODES.get(name.lower(), SOMETHING)


def refuse_strange_codes(where: str | Path, codes: Any) -> None:
    """Refuse codes that are not lists of value, scheme and meaning, a category and a type for each class.

    Raises:
        SegzooError: saying so.
    """
    require_object(where, "codes", codes)
    for name, stated in codes.items():
        parts = set(stated) if isinstance(stated, dict) else set()
        whole = {"category", "type"} <= parts <= {"category", "type", "modifier"}
        if not whole or not all(is_list(one) and len(one) == 3 and all(map(is_word, one)) for one in stated.values()):
            raise SegzooError(
                f"{where} must give the codes of {name} as its category and its type, and may add a modifier, each as "
                f"[value, scheme, meaning], not as {str(stated)[:100]!r}"
            )
