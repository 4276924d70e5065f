"""Descriptions of checkpoints that somebody has edited, by hand or by a program."""

import json
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.edits import BytesEdit, JsonEdit, bytes_edits, edit_bytes, edit_json, json_edits
from tests.fuzz.materials import checkpoint, copy_checkpoint, picture, require_mask, volume_checkpoint
from tests.fuzz.oracle import Order

from segzoo.checkpoints.names import CONFIG

VERBS = ("predict", "info", "verify", "list", "push")


@dataclass(frozen=True)
class EditedConfig:
    """A verb on a checkpoint whose config.json is another one."""

    verb: str
    edits: tuple[JsonEdit, ...] = ()
    bytes: tuple[BytesEdit, ...] = ()
    volumes: bool = False

    def lay(self, folder: Path) -> Order:
        made = copy_checkpoint(volume_checkpoint() if self.volumes else checkpoint(), folder / "hub" / "mine")
        config = made / CONFIG
        content = edit_json(json.loads(config.read_text("utf-8")), self.edits)
        config.write_bytes(edit_bytes(content, self.bytes))
        Image.fromarray(picture()).save(folder / "scan.png")
        if self.verb == "predict":
            command = ["predict", "hub/mine", "scan.png", "--output", "masks", "--device", "cpu"]
            return Order(command, ("masks/scan*.png",), None if self.volumes else require_scan)
        if self.verb == "list":
            return Order(["list", "--json"], (), require_json, environment={"SEGZOO_HUB": "hub"})
        if self.verb == "push":
            return Order(["push", "hub/mine", "me/mine", "--dry-run"])
        return Order([self.verb, "hub/mine"], (), require_json if self.verb == "info" else None)


def require_scan(folder: Path, printed: str) -> None:
    for mask in (folder / "masks").glob("scan*.png"):
        require_mask(mask, picture().shape[::-1], 256)
    assert list((folder / "masks").glob("scan*.png")), "no mask"


def require_json(folder: Path, printed: str) -> None:
    json.loads(printed)


cases = st.builds(
    EditedConfig,
    st.sampled_from(VERBS),
    json_edits(),
    st.one_of(st.just(()), st.just(()), st.just(()), bytes_edits()),
    st.booleans(),
)
