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
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)


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
            page = without_marks((root / path).read_text(encoding="utf-8"))
            target.write_text(moved_links(page, path, places, root), encoding="utf-8")
        else:
            shutil.copy(root / path, target)
    (folder / "model_cards" / "index.md").write_text(gallery(root), encoding="utf-8")
    with (folder / "reference" / "commands.md").open("a", encoding="utf-8") as page:
        page.write("\n" + reference())


def without_marks(page: str) -> str:
    """Return a page without what only programs read: a card's front matter, and comments."""
    page = _FRONT_MATTER.sub("", page).lstrip("\n")
    return "".join(_COMMENT.sub("", part) if prose else part for part, prose in outside_code(page))
