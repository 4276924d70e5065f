import csv
import os

import pytest

from segzoo.metrics.score_file import read_image_scores, write_image_scores

NAMES = ["a", "=1+1", "+1", "-1", "@a", "'a", "'=a", "''=a", "a=b", "a,b", 'a"b', "\tb", "=a\nb", "Müller", ""]


def test_names_are_read_as_they_were_written_and_none_is_a_formula(tmp_path):
    file = tmp_path / "scores.csv"
    write_image_scores(file, [{"id": name, "dice": 0.5, "hd95": float("inf")} for name in NAMES])
    assert read_image_scores(file) == [{"id": name, "dice": "0.5", "hd95": "inf"} for name in NAMES]
    with file.open(newline="", encoding="utf-8") as stored:
        cells = [cell for row in csv.reader(stored) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]


def test_scores_below_zero_stay_numbers(tmp_path):
    write_image_scores(tmp_path / "scores.csv", [{"id": 3, "gain": -0.5}])
    assert (tmp_path / "scores.csv").read_text().splitlines() == ["id,gain", "3,-0.5"]


@pytest.mark.parametrize("name", [os.fsdecode(b"M\xfcller")])
def test_a_name_that_is_not_utf8_loses_no_scores(tmp_path, name):
    write_image_scores(tmp_path / "scores.csv", [{"id": name, "dice": 1.0}])
    assert read_image_scores(tmp_path / "scores.csv") == [{"id": "M\\udcfcller", "dice": "1.0"}]
