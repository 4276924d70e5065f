"""Blocks of code on the pages for people: README.md and docs/*.md.

A comment right above a block says what the tests do not do with it, and why:

    <!-- not run: needs a camera -->      never
    <!-- long: exports four files -->     by `make docs-test` alone
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
LANGUAGES = ("shell", "python")
LIKE_THEM = {"bash", "sh", "console", "py", "python3", "zsh"}  # other names of these, by which one would not be run

_BLOCK = re.compile(r"^(?:<!-- (not run|long): (.+?) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Code between two fences.

    Attributes:
        line: of the page, where the code begins.
        language: "shell", "python", or another, which is not for running.
        code: the lines.
        mark: "not run", "long" or "".
        reason: of the mark.
    """

    line: int
    language: str
    code: str
    mark: str
    reason: str


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return [
        Block(text[: match.start(4)].count("\n") + 1, match[3], match[4], match[1] or "", match[2] or "")
        for match in _BLOCK.finditer(text)
    ]


def code_of(page: Path) -> list[Block]:
    """Return those in a language that is run."""
    return [block for block in blocks_of(page.read_text(encoding="utf-8")) if block.language in LANGUAGES]


def shell_lines(code: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block for the shell, each with its number of lines before it."""
    whole, first = "", 0
    for number, line in enumerate(code.splitlines()):
        first = first if whole else number
        whole += line.removesuffix("\\")
        if not line.endswith("\\") and whole.strip():
            yield first, whole
        if not line.endswith("\\"):
            whole = ""
