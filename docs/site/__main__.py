"""Gather the sources and build the site, strictly: a warning is an error."""

import subprocess
import sys
from pathlib import Path

from docs.site.sources import gather

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build; returns the exit status."""
    gather(ROOT, ROOT / "build" / "docs-source")
    return subprocess.run([sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
