"""LabelMe's files: one JSON an image, drawn as LabelMe itself draws them."""

import base64
import binascii
import io
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segzoo.annotations.areas import Area, Picture, Pixels, placed, require_near
from segzoo.annotations.files import find_image, part_of
from segzoo.errors import SegzooError
from segzoo.imaging.decoding import DECODING_ERRORS
from segzoo.limits import IMAGE_PIXELS

AREAS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")


def is_labelme(content: Any) -> bool:
    """Return whether JSON is a file of LabelMe."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(path: Path, content: dict[str, Any], images: Path | None) -> Picture:
    """Return the image of a file, whose later shapes lie on top of earlier ones.

    Args:
        path: The file.
        content: What it holds.
        images: Folder of the images; None takes the path in the file, in its own folder, or the image that it holds.

    Raises:
        SegzooError: An entry is missing.
    """
    try:
        name = str(content["imagePath"])
        size = int(content["imageHeight"]), int(content["imageWidth"])
        areas, left_out = [], []
        for shape in content["shapes"]:
            kind = shape.get("shape_type") or "polygon"
            if kind in AREAS:
                areas.append(Area(str(shape["label"]), partial(_pixels, kind, shape, size)))
            else:
                left_out.append(str(kind))
    except (KeyError, TypeError, ValueError) as error:
        raise SegzooError(
            f"{path} is no whole file of LabelMe ({type(error).__name__}: {error}); save it again"
        ) from error
    return Picture(name, partial(_find, path, content, images), size, areas, part_of(path), left_out)


def _find(path: Path, content: dict[str, Any], images: Path | None) -> Path | bytes:
    """Return the file of an image, or the bytes that LabelMe keeps where that was asked for."""
    name = str(content["imagePath"])
    alone = name.replace("\\", "/").rpartition("/")[2]
    roots = [path.parent] if images is None else [images, path.parent]
    try:
        try:
            return find_image(name, roots[::-1], roots, path)
        except SegzooError:
            return find_image(alone, roots, roots, path)
    except SegzooError:
        if not (held := content.get("imageData")):
            raise
    try:
        return base64.b64decode(held, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise SegzooError(f"{path} holds an image that is damaged ({error}); save it again") from error


def _pixels(kind: str, shape: dict[str, Any], size: tuple[int, int]) -> Pixels:
    """Return a shape's pixels; outlines belong to what they enclose, as in LabelMe."""
    points = [(point[0], point[1]) for point in shape["points"]]
    require_near([number for point in points for number in point], size)
    if len(points) < (3 if kind in ("polygon", "oriented_rectangle") else 2):
        raise SegzooError(f"a {kind} has {len(points)} points")
    if kind == "mask":
        (left, top), _ = points
        return placed(_stored(shape["mask"]), int(left), int(top), size)
    canvas = Image.new("L", size[::-1])
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), (other_x, other_y) = points[:2]
        radius = math.hypot(x - other_x, y - other_y)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    elif kind == "rectangle":
        (x, y), (other_x, other_y) = points[:2]
        draw.rectangle((min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y)), outline=1, fill=1)
    else:
        draw.polygon(points, outline=1, fill=1)
    return np.asarray(canvas).astype(bool)


def _stored(text: Any) -> Pixels:
    """Return a mask that is stored as a PNG in text."""
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"])
        IMAGE_PIXELS.check(image.width * image.height, "a mask has")
        return np.asarray(image.convert("L")) > 0
    except SegzooError:
        raise
    except (*DECODING_ERRORS, binascii.Error) as error:
        raise SegzooError(f"a mask is no PNG ({error})") from error
