"""Write the masks that `segzoo predict` makes by every file of a site: expected.py MODELS OUTPUT INPUT...

All in one process, and what an earlier run has made of the same files is kept.
"""

import json
import sys
from pathlib import Path

from segzoo.cli import main


def write_masks(models: Path, output: Path, inputs: list[str]) -> None:
    """Give each model the images or the volumes among the inputs."""
    for listed in json.loads((models / "models.json").read_text(encoding="utf-8"))["models"]:
        given = [one for one in inputs if one.endswith(".nii.gz") == (listed["dimensions"] == 3)]
        if given and main(["predict", str(models / listed["file"]), *given, "--output", str(output / listed["name"])]):
            sys.exit(f"{listed['name']} was not used")


if __name__ == "__main__":
    write_masks(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
