"""Gather the sources, build the site strictly (a warning is an error), and check what was built."""

import json
import subprocess
import sys
from pathlib import Path

from docs.site.check import problems
from docs.site.links import DeadLinkError
from docs.site.sources import gather

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"


def main() -> int:
    """Build; returns the exit status."""
    try:
        gather(ROOT, BUILD / "docs-source")
    except DeadLinkError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    build = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    if (status := subprocess.run(build, cwd=ROOT).returncode) != 0:
        return status
    surface = json.loads((ROOT / "tests" / "surface.json").read_text(encoding="utf-8"))
    found = problems(BUILD / "docs", surface)
    print(*found, sep="\n", end="\n" * bool(found), file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
