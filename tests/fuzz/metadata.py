"""Exported files whose description of themselves, or whose bytes, are others."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.edits import LONG, BytesEdit, JsonEdit, bytes_edits, edit_bytes, edit_json, json_edits
from tests.fuzz.materials import exported, picture, require_mask
from tests.fuzz.oracle import Order

from segzoo.prediction.runtimes import FACTS


@dataclass(frozen=True)
class EditedExport:
    """``segzoo predict`` with an .onnx file.

    Attributes:
        edits: of the JSON in its metadata.
        raw: takes the place of that JSON.
        bytes: edits of the file.
        external: where the first weights are said to lie.
        backend: what runs it.
    """

    edits: tuple[JsonEdit, ...] = ()
    raw: str | None = None
    bytes: tuple[BytesEdit, ...] = ()
    external: str = ""
    backend: str = "onnxruntime"

    def lay(self, folder: Path) -> Order:
        model = onnx.ModelProto()
        model.CopyFrom(good())
        entry = next(one for one in model.metadata_props if one.key == FACTS)
        described = edit_json(json.loads(entry.value), self.edits).decode("utf-8", "backslashreplace")
        entry.value = described if self.raw is None else LONG.get(self.raw, self.raw)
        if self.external:
            point_elsewhere(model.graph.initializer[0], self.external)
            (folder / "secret.raw").write_bytes(bytes(2**16))
        (folder / "mine.onnx").write_bytes(edit_bytes(model.SerializeToString(), self.bytes))
        Image.fromarray(picture()).save(folder / "scan.png")
        command = ["predict", "mine.onnx", "scan.png", "--output", "masks", "--backend", self.backend]
        return Order(command, ("masks/scan*.png",), require_scan, refused=bool(self.external))


@cache
def good() -> onnx.ModelProto:
    return onnx.load(exported())


def point_elsewhere(tensor: onnx.TensorProto, place: str) -> None:
    """Let a tensor's numbers lie in another file."""
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "0")):
        said = tensor.external_data.add()
        said.key, said.value = key, value


def require_scan(folder: Path, printed: str) -> None:
    masks = list((folder / "masks").glob("scan*.png"))
    assert masks, "no mask"
    for mask in masks:
        require_mask(mask, picture().shape[::-1], 256)


backends = st.sampled_from(["onnxruntime", "onnxruntime", "openvino"])
cases = st.one_of(
    st.builds(EditedExport, edits=json_edits(), backend=backends),
    st.builds(EditedExport, raw=st.one_of(st.text(max_size=20), st.sampled_from([*LONG])), backend=backends),
    st.builds(EditedExport, bytes=bytes_edits(), backend=backends),
    st.builds(
        EditedExport,
        external=st.sampled_from(["secret.raw", "/etc/passwd", "../secret.raw", "none"]),
        backend=backends,
    ),
)
