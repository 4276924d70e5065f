"""Annotations of COCO, LabelMe and CVAT become the masks that these tools' own code makes of them."""

import base64
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segzoo.annotations.coco import unpacked
from segzoo.cli.command import main
from segzoo.data import Folder
from segzoo.data.samples import read_label
from segzoo.imaging.masks import read_mask

REFERENCES = Path(__file__).parent / "references"
SIZE = HEIGHT, WIDTH = 60, 80


@pytest.fixture
def picture(tmp_path) -> Path:
    """The image that all are of."""
    path = tmp_path / "images" / "scan.png"
    path.parent.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, SIZE, np.uint8)).save(path)
    return path


def imported(*arguments: Any) -> int:
    return main(["import", *map(str, arguments)])


def coco_file(path: Path, annotations: list[dict[str, Any]], images: int = 1, **changed: Any) -> Path:
    content = {
        "images": [
            {"id": 7 + n, "file_name": "scan.png" if n == 0 else f"more/{n}.png", "height": HEIGHT, "width": WIDTH}
            for n in range(images)
        ],
        "categories": [{"id": 3, "name": "tumour"}, {"id": 1, "name": "cyst"}, {"id": 9, "name": "never"}],
        "annotations": [{"id": number, "image_id": 7, "iscrowd": 0, **one} for number, one in enumerate(annotations)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changed))
    return path


# ---- the same pixels


def test_coco_is_drawn_as_pycocotools_draws_it(tmp_path, picture, capsys):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    blob = np.zeros(SIZE, np.uint8, order="F")
    blob[30:50, 5:40] = 1
    blob[35:45, 10:20] = 0  # a hole
    packed = coco.encode(blob)["counts"].decode()
    flat = blob.ravel(order="F")
    ends = np.flatnonzero(np.diff(np.concatenate([[0], flat, [2]])))
    counts = np.diff(np.concatenate([[0], ends])).tolist()
    shapes = [
        [[10.5, 4.2, 40.0, 6.7, 33.3, 30.1, 12.0, 25.9], [50.1, 20.2, 70.7, 22.5, 60.0, 40.0]],  # of two pieces
        {"size": list(SIZE), "counts": packed},
        {"size": list(SIZE), "counts": counts},
        [[75.5, 50.0, 95.0, 50.0, 95.0, 75.0, 75.5, 75.0]],  # beyond the image
    ]
    truth = np.zeros(SIZE, bool)
    for number, shape in enumerate(shapes):
        one = coco.frPyObjects(shape, *SIZE) if isinstance(shape, list) else [{**shape, "counts": packed}]
        expected = coco.decode(coco.merge(one)).astype(bool)
        truth |= expected
        file = coco_file(tmp_path / f"{number}.json", [{"category_id": 1, "area": 9, "segmentation": shape}])
        assert imported(file, "--output", tmp_path / f"out {number}") == 0
        np.testing.assert_array_equal(read_mask(tmp_path / f"out {number}" / "masks" / "scan.png"), expected)
    file = coco_file(tmp_path / "a.json", [{"category_id": 1, "area": 9, "segmentation": one} for one in shapes])
    assert imported(file, "--output", tmp_path / "all") == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "all" / "masks" / "scan.png"), truth)
    assert "classes that are left out: tumour, never" in capsys.readouterr().out


def test_run_lengths_of_any_kind_are_unpacked_as_pycocotools_packs_them():
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    random = np.random.default_rng(0)
    for share in (0, 0.01, 0.5, 0.99, 1):
        mask = np.asfortranarray((random.random((70, 900)) < share).astype(np.uint8))
        counts = unpacked(coco.encode(mask)["counts"].decode())
        pixels = np.repeat(np.arange(len(counts)) % 2, counts).reshape(900, 70).T
        np.testing.assert_array_equal(pixels, mask)


@pytest.mark.parametrize("tool", ["labelme", "cvat"])
def test_labelme_and_cvat_are_drawn_as_they_draw_themselves(tmp_path, picture, capsys, tool):
    """references/ was made by make_references.py, of LabelMe's and CVAT's own code."""
    if tool == "cvat":
        pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    source = tmp_path / "annotations"
    source.mkdir()
    for file in REFERENCES.glob(f"{tool}.[jx]*"):
        shutil.copy(file, source)
    assert imported(source, "--images", picture.parent, "--output", tmp_path / "out") == 0
    reference = read_mask(REFERENCES / f"{tool}.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "out" / "masks" / "scan.png"), reference)
    said = capsys.readouterr().out
    assert "background, cyst, tumour" in said
    assert "1 image in which classes overlap" in said
    assert ("1 x line" if tool == "labelme" else "1 x points") in said
    assert ("255" in said) == (255 in reference)


# ---- on purpose: overlaps, holes, crowds, images without anything


def block(top: int, left: int, bottom: int, right: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel(order="F"), [2]])))
    return {"size": list(SIZE), "counts": np.diff(np.concatenate([[0], edges])).tolist()}


@pytest.fixture
def crowded(tmp_path, picture) -> Path:
    """A large cyst with a small tumour on it, and a crowd over both and beside them; and an image without anything."""
    (tmp_path / "images" / "more").mkdir()
    shutil.copy(picture, tmp_path / "images" / "more" / "1.png")
    return coco_file(
        tmp_path / "a.json",
        [
            {"category_id": 3, "area": 100, "segmentation": block(20, 20, 30, 30)},
            {"category_id": 1, "area": 900, "segmentation": block(10, 10, 40, 40)},
            {"category_id": 1, "area": 1, "segmentation": block(35, 35, 60, 60), "iscrowd": 1},
            {"category_id": 1, "area": 1, "segmentation": [], "bbox": [1, 1, 5, 5]},
        ],
        images=2,
    )


def test_overlaps_crowds_and_images_without_anything_in_coco(tmp_path, crowded, capsys):
    assert imported(crowded, "--output", tmp_path / "out") == 0
    label = read_mask(tmp_path / "out" / "masks" / "scan.png")
    assert label[25, 25] == 2  # the smaller is on top
    assert label[12, 12] == label[38, 38] == 1  # and what is outlined on a crowd
    assert label[50, 50] == 255
    assert not read_mask(tmp_path / "out" / "masks" / "1.png").any()
    said = capsys.readouterr().out
    assert "1 image with nothing marked" in said
    assert "1 x box without an outline" in said
    assert not (tmp_path / "out" / "cases.csv").exists()
    for crowds, value in (("draw", 1), ("skip", 0)):
        assert imported(crowded, "--output", tmp_path / crowds, "--crowds", crowds) == 0
        assert read_mask(tmp_path / crowds / "masks" / "scan.png")[50, 50] == value
    assert imported(crowded, "--output", tmp_path / "both", "--multilabel") == 0
    for name in ("cyst", "tumour"):
        assert read_mask(tmp_path / "both" / "masks" / name / "scan.png")[25, 25] == 255
    assert imported(crowded, "--output", tmp_path / "one", "--classes", "tumour") == 0
    assert set(np.unique(read_mask(tmp_path / "one" / "masks" / "scan.png"))) == {0, 1}
    data = Folder(tmp_path / "both", class_names=["cyst", "tumour"], multilabel=True, split="all")
    assert [sample.id for sample in data.samples()] == ["1", "scan"]


def test_what_is_printed_trains_on_what_was_written(tmp_path, crowded, capsys):
    """The options of the printed command give the data's own classes, also where 255 of two is to be ignored."""
    for classes, values in ((["cyst"], {0, 1, -1}), (["tumour", "cyst"], {0, 1, 2, -1})):
        output = tmp_path / classes[0]
        assert imported(crowded, "--output", output, "--classes", *classes) == 0
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("to train: "))
        words = shlex.split(line)
        option, value = words[-2:]
        from yaml import safe_load

        data = Folder(output, split="all", **{option.removeprefix("--data."): safe_load(value)})
        assert data.class_names == ("background", *classes)
        sample = next(sample for sample in data.samples() if sample.id == "scan")
        assert set(np.unique(read_label(sample, len(data.class_names), False))) == values


def test_parts_of_files_become_a_table(tmp_path, picture):
    files = []
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}2017").mkdir()
        shutil.copy(picture, tmp_path / f"{part}2017" / "scan.png")
        shape = {"category_id": 1, "area": 1, "segmentation": block(10, 10, 40, 40)}
        files.append(coco_file(tmp_path / "annotations" / f"instances_{part}2017.json", [shape]))
    picture.unlink()
    assert imported(*files, "--output", tmp_path / "out") == 0
    data = Folder(tmp_path / "out", class_names=["background", "cyst"])
    assert data.split_ids == {"train": ["scan"], "val": ["scan-2"], "test": ["scan-3"]}


# ---- refusals


def test_an_image_that_cannot_be_used_stops_no_other(tmp_path, crowded, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "images" / "scan.png")
    assert imported(crowded, "--output", tmp_path / "out") == 2
    assert (tmp_path / "out" / "images" / "1.png").is_file()
    assert not (tmp_path / "out" / "images" / "scan.png").exists()
    assert "scan.png is 8 x 8 (height x width) and its annotations are of 60 x 80" in capsys.readouterr().err
    assert imported(crowded, "--output", tmp_path / "out") == 2  # which is not empty
    turned = Image.new("L", (WIDTH, HEIGHT))
    exif = turned.getexif()
    exif[274] = 3
    turned.save(tmp_path / "images" / "scan.png", exif=exif)
    assert imported(crowded, "--output", tmp_path / "again") == 2
    assert "stored turned" in capsys.readouterr().err


@pytest.mark.parametrize(
    "shape",
    [
        {"size": [60, 80], "counts": [1, 2, 3]},
        {"size": [60, 80], "counts": [-4800, 9600]},
        {"size": [6, 8], "counts": [0, 48]},
        {"size": [60, 80], "counts": "\u20ac"},
        {"size": [60, 80], "counts": "PPPPPPPPPPPPPPPPPPPPPPPPPPPP"},
        [[0, 0, 1e12, 0, 5, 5]],
        [[0, 0, "x", 0, 5, 5]],
    ],
)
def test_outlines_that_mean_nothing_are_refused(tmp_path, picture, capsys, shape):
    pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    file = coco_file(tmp_path / "a.json", [{"category_id": 1, "area": 1, "segmentation": shape}])
    assert imported(file, "--output", tmp_path / "out") == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "no whole JSON"),
        ("a.json", "[1]", "COCO, LabelMe or CVAT"),
        ("a.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "file_name"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1, "category_id": 1}], "categories": []}', "COCO"),
        ("a.json", '{"shapes": [{"label": "x"}], "imagePath": "scan.png"}', "imageHeight"),
        ("a.xml", "<annotations>", "no whole XML"),
        ("a.xml", "<html></html>", "begins with html"),
        ("a.xml", "<annotations><track/></annotations>", "video"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', "document type"),
        ("a.xml", '<annotations><image name="scan.png"/></annotations>', "height"),
        ("a.zip", "", "unpack"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, picture, capsys, name, text, said):
    (tmp_path / name).write_text(text)
    assert imported(tmp_path / name, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in error
    assert name in error


def test_annotations_name_no_image_elsewhere(tmp_path, picture, capsys):
    inner = tmp_path / "mine"
    (inner / "images").mkdir(parents=True)
    file = coco_file(inner / "a.json", [])
    assert imported(file, "--output", tmp_path / "out", "--classes", "cyst") == 0  # from ../images
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = "../../images/scan.png"
    deep = tmp_path / "x" / "y"
    deep.mkdir(parents=True)
    (deep / "a.json").write_text(json.dumps(content))
    arguments = [deep / "a.json", "--output", tmp_path / "out 2", "--classes", "cyst"]
    assert imported(*arguments) == 2
    assert "in another folder" in capsys.readouterr().err
    assert imported(*arguments, "--images", deep) == 2


def test_labelme_s_own_copy_of_an_image_is_used_where_there_is_no_file(tmp_path, picture):
    content = json.loads((REFERENCES / "labelme.json").read_text())
    content |= {"imageData": base64.b64encode(picture.read_bytes()).decode(), "imagePath": "gone.png"}
    held = picture.read_bytes()
    picture.unlink()
    (tmp_path / "scan.json").write_text(json.dumps(content))
    assert imported(tmp_path / "scan.json", "--output", tmp_path / "out") == 0
    assert (tmp_path / "out" / "images" / "gone.png").read_bytes() == held
