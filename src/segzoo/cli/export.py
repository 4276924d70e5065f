"""``segzoo export``."""

import argparse
from typing import Any

from segzoo.checkpoints.opened import Checkpoint
from segzoo.errors import SegzooError
from segzoo.export.formats import choose_format
from segzoo.export.measure import calibration_images, measure, training_data
from segzoo.export.write import export
from segzoo.hub.find import open_checkpoint
from segzoo.hub.load import load
from segzoo.prediction.runtimes import RUN_BY


def run_export(options: argparse.Namespace) -> None:
    """``segzoo export CHECKPOINT FILE``."""
    writer = choose_format(options.file, options.format)  # before anything is loaded
    if options.data and writer.suffix not in RUN_BY:
        raise SegzooError(f"--data measures files that segzoo predict runs: end the file in {' or '.join(RUN_BY)}")
    checkpoint = open_checkpoint(options.checkpoint)
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
        details=details_of(checkpoint),
    )
    print(written)
    if data:
        print(measure(model, written, data, options.size))


def details_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what an exported file says of the checkpoint that it comes from."""
    entries = checkpoint.config.entries
    return {"checkpoint": {key: entries[key] for key in ("name", "version", "licences", "sha256") if key in entries}}
