"""Page of all checkpoints: each with its picture, and what README's table says of it."""

import re
from pathlib import Path

_ROW = re.compile(r"^\| \[`(?P<name>[^`]+)`\]\(\S+\) \| (?P<task>[^|]+) \| (?P<dice>[^|]+) \| (?P<size>[^|]+) \|", re.M)


_INTRODUCTION = """\
# Checkpoints

Each picture shows an image of the test part, what its dataset says, and what the model says. The card has the model's
limits, its input, its scores and its licences; [quality](../benchmarks/quality.md) compares all of them with baselines.
`segzoo list` shows them in the shell. None is a medical device.

<div class="gallery" markdown>
"""


def gallery(root: Path) -> str:
    """Return the page, in README's order."""
    table = (root / "README.md").read_text(encoding="utf-8")
    cards = [_card(row, root / "model_cards" / row["name"]) for row in _ROW.finditer(table)]
    return f"{_INTRODUCTION}\n{''.join(cards)}</div>\n"


def _card(row: re.Match[str], folder: Path) -> str:
    name = row["name"]
    picture = f"[![Image, truth and prediction of {name}]({name}/example.png)]({name}.md)\n\n"
    if not (folder / "example.png").is_file():
        picture = "Its dataset's licence does not let its images be shown.\n\n"
    task = row["task"]
    facts = f"{task[:1].upper()}{task[1:]}. Dice {row['dice']}, {row['size']}."
    return f"<div markdown>\n\n## [{name}]({name}.md) {{ #{name} }}\n\n{picture}{facts}\n\n</div>\n"
