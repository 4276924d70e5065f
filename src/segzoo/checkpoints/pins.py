"""Checkpoints that the zoo has published, by tag and sha256."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

ORGANISATION = "segzoo"  # the zoo's own on the Hub
PINS = Path(__file__).parents[1] / "published.json"


def organisation() -> str:
    """Return whose repositories on the Hub bare names stand for: the zoo's own, or ``SEGZOO_ORGANISATION``."""
    return os.environ.get("SEGZOO_ORGANISATION", ORGANISATION)


@cache
def published() -> dict[str, dict[str, Any]]:
    """Return the published checkpoints by name: tag, sha256 of config.json, and the facts that `segzoo list` shows."""
    pins: dict[str, dict[str, Any]] = json.loads(PINS.read_text(encoding="utf-8"))
    return pins
