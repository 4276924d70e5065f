"""Pictures with a note of ours in them."""

import os
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segzoo.imaging.pillow import DECODING_ERRORS

_NOTE = "segzoo"  # the keyword of a PNG's note
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


def write_png(path: Path, picture: Image.Image, note: str = "") -> None:
    """Write a picture as PNG, with a note for `read_note`."""
    texts = PngInfo()
    if note:
        texts.add_text(_NOTE, note)
    picture.save(path, format="PNG", pnginfo=texts)


def read_note(path: Path) -> str | None:
    """Return a PNG's note, an empty one where it has none; None where it is damaged or cut short."""
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            note = str(picture.info.get(_NOTE, ""))
            file.seek(-len(_PNG_END), os.SEEK_END)
            return note if not note or file.read() == _PNG_END else None
    except DECODING_ERRORS:
        return None


def is_colour(path: Path) -> bool:
    """Return whether a picture is RGB, as overlays are and masks are not; as its header says."""
    with Image.open(path) as picture:
        return picture.mode == "RGB"
