"""Notebooks as pages: text as it is, code between fences, and what was printed or drawn where that is stored."""

import json
from pathlib import Path
from typing import Any

PICTURES = {"image/png", "image/jpeg"}


def as_page(notebook: Path) -> str:
    """Return a notebook's cells as Markdown, with a link to the notebook itself below its first cell."""
    stored = json.loads(notebook.read_text(encoding="utf-8"))
    first, *others = [_cell(cell) for cell in stored["cells"] if "".join(cell["source"]).strip()]
    return "\n\n".join([first, f"[Download this notebook]({notebook.name}){{ download }}", *others, ""])


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    return "\n\n".join([f"```python\n{source}\n```", *filter(None, map(_output, cell.get("outputs", ())))])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    for form in PICTURES & data.keys():
        return f"![What this cell draws](data:{form};base64,{''.join(data[form]).strip()})"
    text = "".join(output.get("text", data.get("text/plain", ""))).strip("\n")
    return f"```text\n{text}\n```" if text else ""
