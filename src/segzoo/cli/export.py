"""``segzoo export``."""

import argparse

from segzoo.errors import SegzooError
from segzoo.export.formats import choose_format
from segzoo.export.measure import calibration_images, measure, training_data
from segzoo.export.write import export
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import load


def run_export(options: argparse.Namespace) -> None:
    """``segzoo export CHECKPOINT FILE``."""
    writer = choose_format(options.file, options.format)  # before anything is loaded
    if options.data and writer.suffix != ".onnx":
        raise SegzooError("--data measures files by ONNX Runtime: end the file in .onnx")
    checkpoint = open_checkpoint(options.checkpoint)
    entries = checkpoint.config.entries
    details = {key: entries[key] for key in ("name", "version", "licences", "sha256") if key in entries}
    model = load(checkpoint)
    model.load_report.log()
    data, calibration = None, []
    if options.data:
        data = training_data(model, options.data)
        calibration = calibration_images(data) if options.precision == "int8" else []
    written = export(
        model,
        options.file,
        format=options.format,
        precision=options.precision,
        size=options.size,
        calibration=calibration,
        details={"checkpoint": details},
    )
    print(written)
    if data:
        print(measure(model, written.path, data, options.size))
