"""Make the files of references/ once: annotations, and the masks that the tools' own code draws of them.

Needs labelme (6.3.1), cvat-sdk (2.80.0) and pycocotools (2.0.11), which the tests of these references do without:

    pip install --target tools --no-deps labelme cvat-sdk pycocotools
    PYTHONPATH=tools python tests/annotations/make_references.py

CVAT itself makes pixels of polygons and boxes by pycocotools, of ellipses where their equation holds at a pixel's
middle, and LabelMe of all outlines by Pillow. In both what comes later, or lies in a higher layer, is on top.
"""

import base64
import importlib.util
import io
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

HERE = Path(__file__).parent / "references"
HEIGHT, WIDTH = SIZE = 60, 80
RING = np.hypot(*(np.mgrid[:60, :80] - np.array([42, 20])[:, None, None])) < 14
RING &= np.hypot(*(np.mgrid[:60, :80] - np.array([42, 20])[:, None, None])) > 6  # a hole
POLYGON = [[10.5, 4.2], [40.0, 6.7], [33.3, 30.1], [12.0, 25.9]]
OVER = [[25.0, 10.0], [60.4, 12.5], [44.0, 40.0]]
HOLE = [[28.0, 14.0], [38.0, 14.0], [33.0, 22.0]]
OUTSIDE = [[70.0, -5.0], [90.0, -5.0], [90.0, 20.0], [70.0, 20.0]]
LABELS = {"cyst": 1, "tumour": 2, "_background_": 0, "__ignore__": 255}


def alone(way: str) -> types.ModuleType:
    """A module of a package that would ask for much more, such as Qt."""
    stub = types.ModuleType("labelme._label_file")
    stub.ShapeDict = dict
    sys.modules |= {"labelme": types.ModuleType("labelme"), "labelme._label_file": stub}
    file = next(path for folder in sys.path if (path := Path(folder) / way).is_file())
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labelme() -> None:
    rows, columns = np.nonzero(RING)
    box = rows.min(), columns.min(), rows.max(), columns.max()
    inner = RING[box[0] : box[2] + 1, box[1] : box[3] + 1]
    stored = io.BytesIO()
    Image.fromarray(inner.astype(np.uint8) * 255).save(stored, "PNG")
    shapes = [
        {"label": "cyst", "points": POLYGON, "shape_type": "polygon"},
        {"label": "tumour", "points": OVER, "shape_type": "polygon"},
        {"label": "_background_", "points": HOLE, "shape_type": "polygon"},
        {"label": "tumour", "points": [[60.2, 50.8], [48.0, 44.0]], "shape_type": "rectangle"},
        {"label": "cyst", "points": [[66.0, 38.0], [66.0, 46.5]], "shape_type": "circle"},
        {"label": "__ignore__", "points": OUTSIDE, "shape_type": "oriented_rectangle"},
        {"label": "cyst", "points": [[3.0, 3.0], [70.0, 55.0]], "shape_type": "line"},
        {
            "label": "tumour",
            "points": [[float(box[1]), float(box[0])], [float(box[3]), float(box[2])]],
            "shape_type": "mask",
            "mask": base64.b64encode(stored.getvalue()).decode(),
        },
    ]
    shapes = [{**shape, "group_id": None, "flags": {}} for shape in shapes]
    content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": "..\\images\\scan.png"}
    content |= {"imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    (HERE / "labelme.json").write_text(json.dumps(content, indent=1) + "\n")
    drawn = [{**shape, "mask": inner} if shape["shape_type"] == "mask" else shape for shape in shapes]
    drawn = [shape for shape in drawn if shape["shape_type"] != "line"]
    label, _ = alone("labelme/utils/shape.py").shapes_to_label(SIZE, drawn, LABELS)
    Image.fromarray(label.astype(np.uint8)).save(HERE / "labelme.png")


def outline(points: list[list[float]]) -> np.ndarray:
    return coco.decode(coco.frPyObjects([[one for point in points for one in point]], *SIZE))[..., 0].astype(bool)


def cvat() -> None:
    *counts, left, top, right, bottom = alone("cvat_sdk/masks.py").encode_mask(RING)
    turned = math.radians(30)
    corners = [[-10, -5], [10, -5], [10, 5], [-10, 5]]
    corners = [
        [60 + x * math.cos(turned) - y * math.sin(turned), 45 + x * math.sin(turned) + y * math.cos(turned)]
        for x, y in corners
    ]
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    ellipse = ((x - 66.5) / 8) ** 2 + ((y - 22.0) / 5) ** 2 <= 1
    label = np.zeros(SIZE, np.uint8)
    for pixels, value in (
        (outline(OVER), 2),  # in the layer below the others
        (outline(POLYGON), 1),
        (outline(HOLE), 0),
        (RING, 2),
        (outline(corners), 1),
        (ellipse, 2),
        (outline(OUTSIDE), 1),
    ):
        label[pixels] = value
    Image.fromarray(label).save(HERE / "cvat.png")

    def text(points: list[list[float]]) -> str:
        return ";".join(f"{x:.2f},{y:.2f}" for x, y in points)

    numbers = ", ".join(map(str, map(int, counts)))
    box = f'left="{int(left)}" top="{int(top)}" width="{int(right - left) + 1}" height="{int(bottom - top) + 1}"'
    (HERE / "cvat.xml").write_text(
        f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <name>a task</name>
      <labels>
        <label><name>cyst</name><attributes><attribute><name>size</name></attribute></attributes></label>
        <label><name>tumour</name></label>
        <label><name>background</name></label>
      </labels>
    </task>
  </meta>
  <image id="0" name="scan.png" width="{WIDTH}" height="{HEIGHT}">
    <polygon label="cyst" occluded="0" points="{text(POLYGON)}" z_order="1">
      <attribute name="size">3</attribute>
    </polygon>
    <polygon label="tumour" occluded="0" points="{text(OVER)}" z_order="0"></polygon>
    <polygon label="background" occluded="0" points="{text(HOLE)}" z_order="1"></polygon>
    <mask label="tumour" occluded="0" rle="{numbers}" {box} z_order="1"></mask>
    <box label="cyst" occluded="0" xtl="50.0" ytl="40.0" xbr="70.0" ybr="50.0" rotation="30.0" z_order="1"></box>
    <ellipse label="tumour" occluded="0" cx="66.5" cy="22.0" rx="8.0" ry="5.0" z_order="1"></ellipse>
    <polygon label="cyst" occluded="0" points="{text(OUTSIDE)}" z_order="2"></polygon>
    <points label="cyst" occluded="0" points="5.0,5.0" z_order="0"></points>
  </image>
</annotations>
"""
    )


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    labelme()
    cvat()
