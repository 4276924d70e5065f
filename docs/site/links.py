"""Links of a page that moves: into the site, to the code on GitHub, or out of the text where that is nowhere."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<mark>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^)\s]+)\)")


class DeadLinkError(Exception):
    """A link to what the repository does not have."""


def outside_code(page: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a page in their order, each with whether it is outside of blocks of code."""
    for number, part in enumerate(_FENCED.split(page)):
        yield part, number % 2 == 0


def moved_links(page: str, path: str, places: Mapping[str, str], root: Path) -> str:
    """Return a page with the links that fit its place in the site.

    Args:
        page: Markdown.
        path: of the page in the repository.
        places: where in the site a path of the repository is.
        root: of the repository.

    Raises:
        DeadLinkError: the repository has no such file.
    """

    def moved(link: re.Match[str]) -> str:
        target, _, anchor = link["target"].partition("#")
        if "://" in target or target.startswith("data:") or not target:
            return link[0]
        found = normpath(str(PurePosixPath(path).parent / target))
        if found in places:
            address = relpath(places[found], str(PurePosixPath(places[path]).parent))
        elif (root / found).exists():
            address = code_address(found)
        else:
            raise DeadLinkError(f"{path} links to {link['target']}, which is not there")
        if address is None:
            return link["text"]
        return f"{link['mark']}[{link['text']}]({address}{'#' * bool(anchor)}{anchor})"

    return "".join(_LINK.sub(moved, part) if prose else part for part, prose in outside_code(page))


def code_address(path: str) -> str | None:
    """Return where a file that is not in the site can be looked at; None where no workflow says whose this is."""
    server, repository = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
    if not (server and repository):
        return None
    return f"{server}/{repository}/blob/{os.environ.get('GITHUB_SHA', 'HEAD')}/{path}"
