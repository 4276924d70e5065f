"""Sources of the site, gathered in one folder: the repository's pages, and those that are written for the site."""

import re
import shutil
from pathlib import Path

from docs.site.cards import gallery
from docs.site.commands import reference
from docs.site.links import moved_links, outside_code
from docs.site.notebooks import as_page
from docs.site.places import places_of

_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r" *<!--.*?-->\n?", re.DOTALL)
_INDENTED = re.compile(r"^(?=  )", re.MULTILINE)


def gather(root: Path, folder: Path) -> None:
    """Write the sources of the site.

    Args:
        root: of the repository.
        folder: which is emptied first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    places = places_of(root)
    for path, place in places.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".ipynb"):
            shutil.copy(root / path, target.with_suffix(".ipynb"))
            target.write_text(moved_links(as_page(root / path), path, places, root), encoding="utf-8")
        elif path.endswith(".md"):
            page = as_sources((root / path).read_text(encoding="utf-8"))
            target.write_text(moved_links(page, path, places, root), encoding="utf-8")
        else:
            shutil.copy(root / path, target)
    (folder / "model_cards" / "index.md").write_text(gallery(root), encoding="utf-8")
    with (folder / "reference" / "commands.md").open("a", encoding="utf-8") as page:
        page.write("\n" + reference())


def as_sources(page: str) -> str:
    """Return a page as the site's Markdown wants it.

    What only programs read is left out: a card's front matter, and comments. What belongs to a point of a list, and is
    indented by two or three spaces, is indented by four and more.
    """
    page = _FRONT_MATTER.sub("", page).lstrip("\n")
    parts = [_INDENTED.sub("  ", _COMMENT.sub("", part)) if prose else part for part, prose in outside_code(page)]
    return "".join(parts)
