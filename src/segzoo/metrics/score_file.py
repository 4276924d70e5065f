"""File that keeps scores image by image: a table for spreadsheets and for programs. Needs no torch."""

import csv
import io
import re
from pathlib import Path
from typing import Any

from segzoo.errors import SegzooError
from segzoo.paths import write_whole

FORMULA = r"[=+\-@\t\r\n]"  # how what a spreadsheet computes begins


def write_image_scores(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the scores of images, dictionaries with the same keys, as a CSV file.

    A name that a spreadsheet would take for a formula, such as one that begins with ``=``, has a ``'`` before it there,
    as is usual; bytes of a name that are not UTF-8 are spelled out.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from segzoo.metrics import write_image_scores
        >>> file = Path(tempfile.mkdtemp()) / "images.csv"
        >>> write_image_scores(file, [{"image": "a.png", "dice": 0.5}, {"image": "=b.png", "dice": 1.0}])
        >>> file.read_text().splitlines()
        ['image,dice', 'a.png,0.5', "'=b.png,1.0"]
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0].keys())
    writer.writeheader()
    writer.writerows({name: as_text(value) for name, value in row.items()} for row in rows)
    write_whole(path, text.getvalue().encode(errors="backslashreplace"))


def read_image_scores(path: Path) -> list[dict[str, str]]:
    """Read what :func:`write_image_scores` wrote, the numbers as they are spelled.

    Raises:
        SegzooError: a row has more or fewer entries than there are columns.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from segzoo.metrics.score_file import read_image_scores, write_image_scores
        >>> file = Path(tempfile.mkdtemp()) / "images.csv"
        >>> write_image_scores(file, [{"image": "=b.png", "dice": 1.0}])
        >>> read_image_scores(file)
        [{'image': '=b.png', 'dice': '1.0'}]
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise SegzooError(f"row {number} of {path} has another number of entries than its first one; mend it")
    return [{name: re.sub(rf"^'(?='*{FORMULA})", "", value) for name, value in row.items()} for row in rows]


def as_text(value: Any) -> Any:
    """Return a text as a spreadsheet shows it, not what it computes of it; numbers stay as they are."""
    return f"'{value}" if isinstance(value, str) and re.match(f"'*{FORMULA}", value) else value
