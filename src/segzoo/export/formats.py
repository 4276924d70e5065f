"""Export formats there are, by the names that ``segzoo export --format`` takes."""

from pathlib import Path

from segzoo.errors import SegzooError
from segzoo.export.base import ExportFormat
from segzoo.export.executorch import ExecuTorch
from segzoo.export.onnx import Onnx
from segzoo.export.openvino import OpenVINO
from segzoo.export.torch_export import TorchExport
from segzoo.extensions import Table

FORMATS: Table[ExportFormat] = Table(
    "export_formats",
    {"onnx": Onnx(), "openvino": OpenVINO(), "executorch": ExecuTorch(), "torch-export": TorchExport()},
)
ROUTES = {  # other files that devices take: what they are of, and what they are made from
    ".engine": ("TensorRT", ".onnx"),
    ".plan": ("TensorRT", ".onnx"),
    ".trt": ("TensorRT", ".onnx"),
    ".tflite": ("LiteRT", ".onnx"),
    ".mlmodel": ("Core ML", ".pt2"),
    ".mlpackage": ("Core ML", ".pt2"),
}


def choose_format(path: Path, name: str | None) -> ExportFormat:
    """Return the format asked for, or that of the suffix.

    Raises:
        SegzooError: there is none.
    """
    if name is not None:
        if name not in FORMATS:
            raise SegzooError(f"format must be one of {', '.join(FORMATS)}, not {name!r}")
        return FORMATS[name]
    formats = list(FORMATS.usable())
    for format in formats:
        if path.suffix.lower() == format.suffix:
            return format
    if path.suffix.lower() in ROUTES:
        kind, source = ROUTES[path.suffix.lower()]
        raise SegzooError(
            f"{path} is a file of {kind}, whose own converter makes it: export {path.with_suffix(source)}, and go on "
            f"as docs/export.md says under {kind}"
        )
    suffixes = ", ".join(format.suffix for format in formats)
    raise SegzooError(f"{path} says no format: end it in one of {suffixes}, or give one of {', '.join(FORMATS)}")
