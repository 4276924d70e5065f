"""benchmarks/tuned.py: commands that `segzoo tune` takes, and a table of what is stored."""

import json
from pathlib import Path

import tuned
import yaml

from segzoo.cli.train_names import spell_out
from segzoo.cli.tune import build_parser
from segzoo.hub.listing import list_checkpoints
from segzoo.metrics.score_file import write_image_scores
from segzoo.postprocessing import Cleaning, Postprocessing

REPOSITORY = Path(__file__).parents[2]


def test_the_data_of_every_checkpoint_are_options_of_tune():
    assert len(list_checkpoints()) > 10
    for name in list_checkpoints():
        data = yaml.safe_load((REPOSITORY / "model_cards" / name / "train.yaml").read_text())["data"]
        options = build_parser().parse_args(spell_out([name, "--output", "new", *tuned.data_options(data)]))
        assert options.data.class_path == data["class_path"]
        assert options.data.init_args.root == data["init_args"]["root"]
        assert options.data.init_args.fold == data["init_args"]["fold"]


def test_the_table_says_what_helps_and_by_how_much(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Before.\n<!-- tuned:begin -->\nearlier\n<!-- tuned:end -->\nAfter.\n")
    rows = [{"id": identifier, "dice": 0.5, "iou": 0.4, "hd95": 10.0} for identifier in "abc"]
    better = [
        {**row, "dice": 0.6 + doubt / 100, "hd95": 8.0, "ece": 0.02, "ece_boundary": 0.1, "doubt": -doubt}
        for doubt, row in enumerate(rows, start=-1)
    ]
    errors = {"ece": 0.03, "ece_boundary": 0.2}
    before, after = {"dice": 0.7, "components": 2.5, **errors}, {"dice": 0.75, "components": 1.0, **errors, "ece": 0.01}
    chosen_by = {"before": before, "after": after}
    for name, chosen in ("none", Postprocessing()), ("one", Postprocessing({"x": Cleaning(threshold=0.4)}, chosen_by)):
        write_image_scores(tmp_path / f"{name}.csv", rows)
        facts = {"dataset": "BUSI", "said": str(chosen), "postprocessing": chosen.to_dict()}
        (tmp_path / "tuned").mkdir(exist_ok=True)
        (tmp_path / "tuned" / f"{name}.json").write_text(json.dumps(facts))
    write_image_scores(tmp_path / "tuned" / "one.csv", better)
    tuned.report(tmp_path, page)
    said = page.read_text()
    assert "earlier" not in said
    assert "| `none` | nothing | - | - | - | - | 0.500 | - | 10.0 | - | - | - | - |" in said
    on_validation = "0.700 -> 0.750 | 2.50 -> 1.00 | 0.030 -> 0.010 | 0.200 -> 0.200"
    assert f"| `one` | x: threshold 0.4 | {on_validation} | 0.500 -> 0.600 | +0.1000 [" in said
    assert "| 10.0 -> 8.0 | 0.020 | 0.100 | -1.00 | 1.00, the worst tenth (1 of 3) |" in said


def test_the_stored_table_is_that_of_the_stored_results(tmp_path):
    assert {path.stem for path in (tuned.RESULTS / "tuned").glob("*.json")} == set(list_checkpoints()) - tuned.TOO_FEW
    page, stored = tmp_path / "page.md", tuned.PAGE.read_text(encoding="utf-8")
    page.write_text(stored, encoding="utf-8")
    tuned.report(page=page)
    assert page.read_text(encoding="utf-8") == stored
