"""What the examples say of their images is true."""

import runpy
from pathlib import Path

from segzoo.data import BUSI

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_demo_knows_the_held_out_samples(samples: Path, shared: Path) -> None:
    """Those of its images that are in the test part of the checkpoint's split: BUSI, grouped, fold 0."""
    shown = {sample.id for sample in BUSI(samples / "BUSI").samples()}
    held_out = shown & set(BUSI(shared / "data" / "BUSI").split_ids["test"])
    assert set(runpy.run_path(str(EXAMPLES / "demo.py"))["HELD_OUT"]) == held_out
