"""Step of building a wheel: the page, where `make wheel` or `make web` has built it, becomes part of the package."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BUILT = "web/dist"


class PageHook(BuildHookInterface):
    """Puts the built page in; a wheel without is whole but for `segzoo web`, which says how to get it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the page's files, but for an editable installation, which finds them where they are built."""
        if version == "standard" and (Path(self.root) / BUILT / "index.html").is_file():
            build_data["force_include"][BUILT] = "segzoo/page"
