"""Checks of the built site beside its builder's: no file from elsewhere, and a place for every public name."""

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path

LOADED_BY = {"src", "srcset", "poster", "data", "action"}  # attributes whose files a browser fetches by itself
_FOREIGN = re.compile(r"(?:https?:)?//", re.IGNORECASE)
_IN_STYLE = re.compile(r"""(?:url\(|@import)\s*["']?\s*((?:https?:)?//[^"')\s;]+)""", re.IGNORECASE)


class Page(HTMLParser):
    """What a built page holds.

    Attributes:
        ids: that a link can lead to.
        loaded: addresses that a browser fetches without being asked: scripts, styles, pictures, fonts.
        policy: what it lets a browser fetch; "" is anything.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.policy = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Take what a tag says; a link in the text, or to the page itself (canonical), fetches nothing."""
        given = {name: value or "" for name, value in attributes}
        self.ids |= {given[name] for name in ("id", "name") if name in given and tag != "meta"}
        self.loaded += [given[name] for name in LOADED_BY & given.keys()]
        if tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given.get("href", ""))
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given.get("content", "")
        self.loaded += _IN_STYLE.findall(given.get("style", ""))


def problems(site: Path, surface: Mapping[str, list[str] | Mapping[str, list[str]]]) -> list[str]:
    """Return a sentence for each thing that is wrong with a built site.

    Args:
        site: its folder.
        surface: the public names by module, and under ``verbs`` those of the command line, as tests/surface.json.
    """
    pages = {file: Page(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    found = [f"{file}: loads {address}" for file, page in pages.items() for address in page.loaded if foreign(address)]
    found += [f"{file}: has no policy of what a browser may load" for file, page in pages.items() if not page.policy]
    for file in sorted(site.rglob("*.css")):
        found += [f"{file}: loads {address}" for address in _IN_STYLE.findall(file.read_text(encoding="utf-8"))]
    known = {name for file, page in pages.items() if "reference" in file.relative_to(site).parts for name in page.ids}
    return found + [f"{name} has no place in the reference" for name in names(surface) if name not in known]


def foreign(address: str) -> bool:
    """Return whether an address, or one of a list of them, is of another host."""
    return any(_FOREIGN.match(one.strip()) for one in address.split(","))


def names(surface: Mapping[str, list[str] | Mapping[str, list[str]]]) -> Iterator[str]:
    """Yield the anchors that the reference must have."""
    for face, known in surface.items():
        if isinstance(known, Mapping):
            yield from known
            yield from (f"{verb}.{option.lstrip('-')}" for verb, options in known.items() for option in options)
        else:
            yield from (f"{face}.{name}" for name in known)
