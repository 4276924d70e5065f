"""The checkpoints that the zoo has published, by tag and sha256."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

ORGANISATION = "segzoo"  # the zoo's own on the Hub
PINS = Path(__file__).parents[1] / "published.json"


def organisation() -> str:
    """Whose repositories on the Hub bare names stand for: the zoo's own, or ``SEGZOO_ORGANISATION``."""
    return os.environ.get("SEGZOO_ORGANISATION", ORGANISATION)


# ---- what there is


@cache
def published() -> dict[str, dict[str, Any]]:
    """The checkpoints that the zoo has published: tag and sha256 of config.json, and what `describe` says of them."""
    pins: dict[str, dict[str, Any]] = json.loads(PINS.read_text(encoding="utf-8"))
    return pins
