"""int8 beside float32: which forms the page calls worth having."""

import json

import int8


def test_the_page_is_that_of_what_was_measured():
    assert int8.PAGE.read_text(encoding="utf-8") == int8.page(json.loads(int8.STORED.read_text(encoding="utf-8")))


def entry(speeds, dice):
    """What is stored of a form so many times as fast with one thread and with two; float32 takes a second."""
    seconds = {
        str(threads): {"processor": 1 / speed, "wall": 2 / speed}
        for threads, speed in zip(int8.THREADS, speeds, strict=True)
    }
    return {"file": "", "bytes": 2_500_000, "dice": dice, "seconds": seconds}


def test_a_form_is_found_only_where_it_is_fast_with_both_threads_and_loses_little():
    forms = {
        "ONNX Runtime, float32": entry((1, 1), 0.75),
        "ONNX Runtime, slow with two": entry((1.3, 1.1), 0.75),
        "ONNX Runtime, lossy": entry((1.5, 1.5), 0.747),
        "OpenVINO, float32": entry((1, 1), 0.75),
        "OpenVINO, good": entry((1.3, 1.2), 0.7485),
        "OpenVINO, slow": entry((0.5, 0.5), 0.76),
    }
    machine = {"processor": "a processor", "instructions": ["avx2"], "versions": {"nncf": "3.4.0-1"}}
    stored = {
        "checkpoints": {"one": {"dataset": "BUSI", "images": 9, "calibration": 32, "forms": forms}},
        "machine": machine | {"turns": 30, "loaded": True},
    }
    page = int8.page({"a processor": stored, "another": stored | {"machine": machine | {"turns": 9, "loaded": False}}})
    assert "- `one` in ONNX Runtime: none was found." in page
    assert "- `one` in OpenVINO: good." in page
    words = page.replace("\n", " ")
    end = "with 32 images to calibrate. Of instructions for integers it has avx2. nncf 3.4.0."
    assert f"## a processor  Measured beside other work in 30 turns, {end}" in words
    assert f"Measured in 9 turns, {end}" in words
    assert "|  | OpenVINO, good | 2.50 | 1.30 (1.30) | 1.20 (1.20) | 0.7485 | 0.0015 |" in page.splitlines()
