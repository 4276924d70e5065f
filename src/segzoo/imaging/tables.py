"""Tables of a user's own, in CSV: cases (image, mask, part, group), or groups alone."""

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segzoo.errors import MissingError, SegzooError, first_few
from segzoo.imaging.cases import PART_WORDS, Case, Cases, counted, find_cases, named
from segzoo.imaging.images import IMAGE_SUFFIXES
from segzoo.imaging.names import is_hidden
from segzoo.limits import TABLE_BYTES
from segzoo.paths import require_file

IMAGE, MASK, SPLIT, GROUP = "image", "mask", "split", "group"
_SEPARATORS = (",", ";", "\t")  # the second of a spreadsheet where the comma is that of numbers


def find_table(root: Path, classes: Sequence[str] = ()) -> Path | None:
    """Return the table of cases in a folder, if it has one.

    Args:
        root: The folder.
        classes: Of which each has a column of masks; none where the column is called ``mask``.

    Raises:
        SegzooError: It has several.
    """
    columns = {IMAGE, *(classes or [MASK])}
    files = sorted(path for path in root.glob("*.csv") if path.is_file() and not is_hidden(path))
    found = [path for path in files if columns <= set(_header(path)[0])]
    if len(found) > 1:
        raise SegzooError(
            f"{found[0].name} and {found[1].name} in {root} both list images and masks; say which to read, such as "
            f"--data.table {found[0].name}."
        )
    return found[0] if found else None


def read_table(path: Path, classes: Sequence[str] = (), *, anywhere: bool = False) -> Cases:
    """Read the cases that a table lists; several rows of one image are several masks of it.

    Args:
        path: CSV with the columns ``image`` and ``mask``, and perhaps ``split`` and ``group``; its paths begin where it
            is.
        classes: Of which each has a column of masks instead.
        anywhere: Let paths lead out of its folder.

    Raises:
        MissingError: It, or a file that it lists, is not there.
        SegzooError: A column or an entry is missing or contradicts another, or a path leads out of the folder.
    """
    require_file(path)
    columns, rows = _rows(path)
    wanted = [IMAGE, *(classes or [MASK])]
    if lacking := [name for name in wanted if name not in columns]:
        raise SegzooError(f"{path} lacks the column {lacking[0]!r}; it has {', '.join(columns)}.")
    cases: dict[Path, Case] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        if empty := [name for name in wanted if not row[name]]:
            raise SegzooError(f"{where}, has no {empty[0]}; fill it in, or leave the line out.")
        image, *masks = (_file(path.parent, row[name], where, anywhere) for name in wanted)
        case = Case(image, tuple(masks), image.stem, _part(row.get(SPLIT), where), row.get(GROUP) or "")
        before = cases.setdefault(image, case)
        if before is not case and ((before.part, before.group) != (case.part, case.group) or classes):
            raise SegzooError(f"{where}, lists {row[IMAGE]} again, as of another kind; keep one of the lines.")
        cases[image] = replace(case, masks=tuple(dict.fromkeys(before.masks + case.masks)))
    found = named(list(cases.values()), path.parent)
    if not found:
        raise SegzooError(f"{path} lists no image.")
    files = dict.fromkeys(file for case in found for file in (case.image, *case.masks))
    if absent := [file for file in files if not file.is_file()]:
        raise MissingError(
            f"{path} lists {counted(len(absent), 'file')} that {'is' if len(absent) == 1 else 'are'} not there: "
            f"{first_few(absent)}."
        )
    if (split := [case for case in found if case.part]) and len(split) < len(found):
        other = next(case for case in found if not case.part)
        raise SegzooError(f"{path} gives a split to some images and none to {other.image}; fill it in for all.")
    return Cases(found, f"{counted(len(found), 'image')} that {path.name} lists")


def cases_in(root: Path, *, masked: bool = True) -> Cases:
    """List the cases of a folder by its table, if it has one, else by its folders and names.

    Args:
        root: The folder.
        masked: Refuse images without a mask.

    Raises:
        MissingError: There are no cases.
        SegzooError: As of `read_table` and `find_cases`.
    """
    table = find_table(root)
    return find_cases(root, masked=masked) if table is None else read_table(table)


def _header(path: Path) -> tuple[list[str], str]:
    """Return the columns of a table in small letters, and what separates them; none of what is no such text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(2**16)
    except (OSError, UnicodeDecodeError):
        return [], ","
    separator = max(_SEPARATORS, key=line.count)
    return [name.strip().strip('"').strip().lower() for name in line.split(separator)], separator


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of a table, and its rows with their numbers; blank ones are left out."""
    TABLE_BYTES.check(path.stat().st_size, f"{path} has")
    columns, separator = _header(path)
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SegzooError(f"{path} is not text in UTF-8 ({error}); save it as 'CSV UTF-8'.") from error
    rows = []
    try:
        reader = csv.reader(text.splitlines(keepends=True)[1:], delimiter=separator, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                filled = [cell.strip() for cell in cells] + [""] * len(columns)
                rows.append((reader.line_num + 1, dict(zip(columns, filled, strict=False))))
    except csv.Error as error:
        raise SegzooError(f"{path} is no table ({error}); save it as CSV.") from error
    return columns, rows


def _file(folder: Path, text: str, where: str, anywhere: bool) -> Path:
    """Return a file that a table names, relative to its folder."""
    path = Path(os.path.normpath(folder / text))
    if "\\" in text and not path.is_file():  # written on Windows
        path = Path(os.path.normpath(folder / text.replace("\\", "/")))
    if not anywhere and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise SegzooError(
            f"{where}, leads out of the table's folder: {text}; move the file there, or allow it by --data.anywhere "
            "true if you trust the table."
        )
    return path


def _part(text: str | None, where: str) -> str:
    """Return the part that a word stands for."""
    if not text:
        return ""
    if text.lower() not in PART_WORDS:
        raise SegzooError(f"{where}, has the split {text!r}, which is none of train, val and test; write one of them.")
    return PART_WORDS[text.lower()]


def stem_of(name: str) -> str:
    """Return the stem of an image's file, of what may be a stem already."""
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def read_groups(path: Path, stem: Callable[[str], str] = stem_of) -> dict[str, str]:
    """Map image stems to groups, from a user's CSV file with the columns ``image`` and ``group``.

    Args:
        path: The CSV file.
        stem: From what it calls an image to the image's stem.

    Raises:
        MissingError: If there is no such file.
        SegzooError: If a column is missing, or an image is in two groups.
    """
    if not path.is_file():
        raise MissingError(f"There is no file {path} to read groups from.")
    try:
        groups = group_rows(path.read_text("utf-8-sig").splitlines(), path, stem)
    except UnicodeDecodeError as error:
        raise SegzooError(f"{path} is not text in UTF-8 ({error}); save it as 'CSV UTF-8'.") from error
    if not groups:
        raise SegzooError(f"{path} must have the columns 'image' and 'group' and at least one row.")
    return groups


def group_rows(lines: Sequence[str], path: Path | str, stem: Callable[[str], str] = stem_of) -> dict[str, str]:
    """Map image stems to groups, of lines that may lack the columns for it, as in `read_groups`."""
    rows = csv.DictReader(lines)
    if not {"image", "group"} <= set(rows.fieldnames or ()):
        return {}
    named = [((row["image"] or "").strip(), (row["group"] or "").strip()) for row in rows]
    groups: dict[str, str] = {}
    for image, group in named:
        if group and groups.setdefault(stem(image), group) != group:  # without one, an image is a group of its own
            raise SegzooError(
                f"{path} puts {stem(image)!r} into the groups {groups[stem(image)]!r} and {group!r}; keep one of them."
            )
    return groups
