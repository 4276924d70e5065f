"""Folders as people have them: each trains, tests and predicts as it is, or with the one option that the refusal names.

All hold the same eight ultrasound images and what is marked in them, reduced to 40 x 48 pixels.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning import Trainer
from PIL import Image

import segzoo
from segzoo.cli.command import main
from segzoo.data import BUSI, Folder
from segzoo.data.samples import read_label
from segzoo.errors import MissingError, SegzooError
from segzoo.prediction.plan import find_inputs

COLOURS = np.array([[0, 0, 0], [0, 160, 0], [255, 0, 0], [255, 255, 0]], np.uint8)
QUICK = {"enable_checkpointing": False, "logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
PARTS = {number: part for number, part in enumerate(["train"] * 5 + ["val"] * 1 + ["test"] * 2)}


@dataclass
class Pictures:
    """Images, and masks of two classes and of four."""

    images: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)
    quarters: list[np.ndarray] = field(default_factory=list)


@pytest.fixture(scope="module")
def pictures(samples) -> Pictures:
    found = Pictures()
    for sample in BUSI(samples).samples():
        image = Image.open(sample.image).convert("L").resize((48, 40))
        mask = Image.fromarray(read_label(sample, 2, False).astype(np.uint8)).resize((48, 40), 0)
        found.images.append(np.asarray(image))
        found.masks.append(np.asarray(mask))
        sides = 1 + (np.arange(48) > 20) + (np.arange(40) > 20)[:, None]
        found.quarters.append((found.masks[-1] * sides).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Callable[[int], Path]:
    """Where an untrained model of so many logits is."""
    made: dict[int, Path] = {}

    def make(classes: int) -> Path:
        if classes not in made:
            model = segzoo.create_model("cmunext_s", num_classes=classes).eval()
            model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
            made[classes] = model.save_pretrained(tmp_path_factory.mktemp("hub") / f"tiny-{classes}")
        return made[classes]

    return make


def save(path: Path, pixels: Any, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, quality=90)


def with_palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask, mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
    return image


def plain(mask_of: Callable[[Pictures, int], Any], suffix: str = "png") -> Callable[[Path, Pictures], None]:
    """A folder of ``images/`` and ``masks/`` whose masks a function makes."""

    def write(root: Path, pictures: Pictures) -> None:
        for number, image in enumerate(pictures.images):
            save(root / "images" / f"{number}.png", image)
            save(root / "masks" / f"{number}.{suffix}", mask_of(pictures, number))

    return write


def arranged(image: str, mask: str) -> Callable[[Path, Pictures], None]:
    """A folder of masks of 0 and 255, in which files are called so."""

    def write(root: Path, pictures: Pictures) -> None:
        for number, pixels in enumerate(pictures.images):
            save(root / image.format(number, part=PARTS[number]), pixels)
            save(root / mask.format(number, part=PARTS[number]), pictures.masks[number] * np.uint8(255))

    return write


def alone(pictures: Pictures, number: int) -> np.ndarray:
    """A mask in the transparency alone, of black."""
    return np.dstack([np.zeros((40, 48, 3), np.uint8), pictures.masks[number] * np.uint8(255)])


def twelve_bits(root: Path, pictures: Pictures) -> None:
    for number, image in enumerate(pictures.images):
        save(root / "images" / f"{number}.png", image.astype(np.uint16) * 16)
        save(root / "masks" / f"{number}.png", pictures.masks[number] * np.uint8(255))


def table(root: Path, pictures: Pictures) -> None:
    """Images and masks anywhere below a table, which says parts and patients."""
    lines = ["image,mask,split,group"]
    for number, image in enumerate(pictures.images):
        save(root / "scans" / "all" / f"{number}.png", image)
        save(root / f"reader {number % 2}" / f"m{number}.png", pictures.masks[number] * np.uint8(255))
        lines.append(f"scans/all/{number}.png,reader {number % 2}/m{number}.png,{PARTS[number]},patient {number}")
    (root / "cases.csv").write_text("\n".join(lines) + "\n")


LAYOUTS = {
    "0 and 255": plain(lambda p, n: p.masks[n] * np.uint8(255)),
    "RGB grey": plain(lambda p, n: np.dstack([p.masks[n] * np.uint8(255)] * 3)),
    "JPEG": plain(lambda p, n: p.masks[n] * np.uint8(255), "jpg"),
    "index": plain(lambda p, n: p.masks[n]),
    "palette": plain(lambda p, n: with_palette(p.masks[n])),
    "16 bits": plain(lambda p, n: p.masks[n].astype(np.uint16) * 65535),
    "suffix": arranged("images/{}.jpg", "masks/{}_mask.png"),
    "one folder": arranged("{}.png", "{}_seg.png"),
    "red": plain(lambda p, n: p.masks[n][..., None] * np.array([255, 0, 0], np.uint8)),
    "RGBA": plain(lambda p, n: p.masks[n][..., None] * np.array([255, 255, 255, 255], np.uint8)),
    "train, val and test": arranged("{part}/images/{}.png", "{part}/masks/{}.png"),
    "12 in 16 bits": twelve_bits,
    "colours": plain(lambda p, n: COLOURS[p.quarters[n]]),
    "0, 80, 160 and 240": plain(lambda p, n: p.quarters[n] * np.uint8(80)),
    "table": table,
}
MORE = {
    "alpha alone": plain(alone),
    "dark green": plain(lambda p, n: p.masks[n][..., None] * np.array([0, 90, 0], np.uint8)),
    "red JPEG": plain(lambda p, n: p.masks[n][..., None] * np.array([255, 0, 0], np.uint8), "jpg"),
    "prefix": arranged("img_{}.png", "mask_{}.png"),
    "parts below": arranged("imgs/{part}/{}.png", "Ground Truth/{part}/{}-gt.png"),
    "parts and one folder": arranged("{part}/{}.png", "{part}/{}_label.png"),
    "parts in names": arranged("{part}_images/{}.png", "{part}_masks/{}.png"),
    "a JPEG and its PNG": arranged("{}.jpg", "{}.png"),
}
OPTIONS = {"12 in 16 bits": "intensity_range", "colours": "colours", "0, 80, 160 and 240": "values"}


def option_named(refusal: str) -> dict[str, Any]:
    """What a sentence says to add, with names of classes in the place of NAME."""
    if ranged := re.search(r"intensity_range .* such as (\d+) and (\d+)", refusal):
        return {"intensity_range": (int(ranged[1]), int(ranged[2]))}
    option, value = re.search(r"--data\.(\w+) '(.*?)'", refusal).groups()
    names = iter(("first", "second", "third"))
    return {option: yaml.safe_load(re.sub("NAME", lambda _: next(names), value))}


def settled(root: Path) -> tuple[Folder, str]:
    """The data of a folder, and the option that it took."""
    options: dict[str, Any] = {"image_size": 32, "batch_size": 2}
    try:
        data = Folder(root, **options)
        data.check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    except SegzooError as error:
        chosen = option_named(str(error))
        data = Folder(root, **options, **chosen)
        data.check_pixels(["train", "val", "test"], segzoo.Preprocessing())
        return data, next(iter(chosen))
    return data, ""


def require_what_was_drawn(data: Folder, pictures: Pictures) -> None:
    truth = pictures.masks if len(data.class_names) == 2 else pictures.quarters
    for sample in data.samples():
        number = int(re.search(r"\d+", sample.image.stem)[0])
        differs = read_label(sample, len(data.class_names), False) != truth[number]
        assert differs.mean() < (0.02 if sample.masks[0].suffix == ".jpg" else 1e-9)
    assert len(data.samples()) == 8


@pytest.mark.parametrize("layout", MORE)
def test_more_folders_are_read_as_they_are(layout, pictures, tmp_path):
    MORE[layout](tmp_path, pictures)
    data, option = settled(tmp_path)
    assert option == ""
    require_what_was_drawn(data, pictures)
    assert {one.path for one in find_inputs([tmp_path])[0]} == {sample.image for sample in data.samples()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_trains_tests_and_predicts(layout, pictures, checkpoints, tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    LAYOUTS[layout](root, pictures)
    data, option = settled(root)
    assert option == OPTIONS.get(layout, "")
    require_what_was_drawn(data, pictures)
    classes = 1 if len(data.class_names) == 2 else len(data.class_names)
    model = segzoo.from_pretrained(checkpoints(classes))
    trainer = Trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=1, default_root_dir=tmp_path, **QUICK)
    trainer.fit(model, data)
    (scores,) = trainer.test(model, data, verbose=False)
    assert 0 <= scores["test/dice"] <= 1
    output = tmp_path / "out"
    ranged = ["--intensity-range", "0", "4095"] if option == "intensity_range" else []
    assert main(["predict", str(checkpoints(classes)), str(root), "--output", str(output), *ranged]) == 0
    assert len(list(output.iterdir())) == 8  # of images, and of no masks


# ---- what is said


def folder(root: Path, *files: str) -> Path:
    """A folder of pictures that are called so."""
    for number, name in enumerate(files):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[number % 8] = 255
        save(root / name, pixels)
    return root


def found(root: Path, **options: Any) -> str:
    """What a folder was recognised as."""
    return next(line for line in Folder(root, split="all", **options).summary() if " found " in line)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["images/a.png", "masks/a.png"], "1 image in images/, masks in masks/"),
        (["images/a.png", "masks/a_mask.png"], "1 image in images/, masks in masks/, such as a_mask.png of a.png"),
        (["a.png", "a_mask.png", "b.png", "b_mask.png"], "2 images in the folder itself, masks beside them, such as"),
        (["train/images/a.png", "train/masks/a.png"], "1 image in train/images/ to train, masks in train/masks/"),
    ],
)
def test_what_was_recognised_is_said_with_a_count(tmp_path, files, said):
    assert said in found(folder(tmp_path, *files))


def test_numbered_masks_of_an_image_are_merged(tmp_path):
    folder(tmp_path, "a.png", "a_mask.png", "a_mask_1.png", "b.png", "b_mask.png")
    first, second = Folder(tmp_path, split="all").samples()
    assert [mask.name for mask in first.masks] == ["a_mask.png", "a_mask_1.png"]
    assert read_label(first, 2, False).any(axis=1).tolist() == [False, True, True] + [False] * 5
    assert [mask.name for mask in second.masks] == ["b_mask.png"]


@pytest.mark.parametrize(
    ("files", "option"),
    [
        (["images/a.png", "scans/a.png", "masks/a.png"], None),  # "images" is the first word for images
        (["imgs/a.png", "scans/a.png", "masks/a.png"], {"images": "imgs"}),
        (["images/a.png", "labels/a.png", "gt/a.png"], {"masks": "gt"}),
        (["images/a.png", "masks/a_mask.png", "masks/a_seg.png"], {"masks": "masks/*_mask.png"}),
        (["a.png", "a_mask.png", "a_seg.png"], {"masks": "*_mask.png"}),
        (["images/a.png", "masks/a.png", "test/images/a.png", "test/masks/a.png"], {"images": "images"}),
    ],
)
def test_what_could_be_two_things_is_refused_with_the_option_that_settles_it(tmp_path, files, option, refused):
    folder(tmp_path, *files)
    if option is None:
        assert found(tmp_path)
        return
    with refused(SegzooError) as caught:
        found(tmp_path)
    (name, value), *_ = option.items()
    assert f"--data.{name} {value}" in str(caught.value).replace("'", "").replace("/.", ".").replace("/ ", " ")
    assert "1 image in" in found(tmp_path, **option)


def test_patterns_name_what_has_no_usual_name(tmp_path):
    folder(tmp_path, "scan_a.png", "scan_b.png", "a contour.png", "b contour.png", "notes.png")
    data = Folder(tmp_path, split="all", images="scan_*.png", masks="* contour.png")
    assert [(sample.id, sample.masks[0].name) for sample in data.samples()] == [
        ("a", "a contour.png"),
        ("b", "b contour.png"),
    ]
    for bad in ("*/masks", "*_*.png"):
        with pytest.raises(SegzooError, match=re.escape(bad)):
            found(tmp_path, masks=bad)
    with pytest.raises(MissingError, match="there"):
        found(tmp_path, masks="there")


def test_images_without_a_mask_are_named_the_first_three_and_counted(tmp_path, refused):
    folder(tmp_path, "masks/x.png", *(f"images/{name}.png" for name in "abcde"))
    with refused(MissingError):
        Folder(tmp_path).setup()


def test_masks_that_cannot_be_used_are_named_the_first_three_and_counted_in_all_parts(folder_data, refused):
    for number in range(5):
        Image.fromarray(np.full((20, 30), 7 + number, np.uint8)).save(folder_data / "masks" / f"{number}.png")
    with refused(SegzooError):
        Folder(folder_data).check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    for number in range(5):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder_data / "masks" / f"{number}.png")
    with refused(SegzooError):
        Folder(folder_data).setup()


# ---- parts


def test_folders_and_tables_say_the_split(tmp_path, pictures):
    arranged("{part}/images/{}.png", "{part}/masks/{}.png")(tmp_path / "folders", pictures)
    table(tmp_path / "table", pictures)
    for name in ("folders", "table"):
        data = Folder(tmp_path / name)
        assert data.split_ids == {"train": list("01234"), "val": ["5"], "test": ["6", "7"]}
        assert data.describe()["split"] == data.split_record()["split"] == "given"
        assert Folder(tmp_path / name, split="grouped").describe()["split"] == "grouped"
        with pytest.raises(SegzooError, match="fold"):
            Folder(tmp_path / name, fold=1).setup()


def test_parts_that_are_missing(tmp_path, pictures, refused):
    arranged("{part}/images/{}.png", "{part}/masks/{}.png")(tmp_path, pictures)
    for path in (tmp_path / "test" / "masks").iterdir():
        path.unlink()  # as a challenge hands it out
    data = Folder(tmp_path)
    assert data.split_ids["test"] == data.split_ids["val"] == ["5"]
    assert "2 images to test without masks are not read" in "".join(data.summary())
    assert "there is no test" in "".join(data.summary())
    for path in [*(tmp_path / "val" / "images").iterdir(), *(tmp_path / "val" / "masks").iterdir()]:
        path.unlink()
    data = Folder(tmp_path)
    assert len(data.split_ids["train"]) == 4
    assert data.split_ids["val"] == data.split_ids["test"]
    assert "there is no val" in "".join(data.summary())
    (tmp_path / "train").rename(tmp_path / "val ")
    (tmp_path / "val ").rename(tmp_path / "validation")
    with refused(SegzooError):
        Folder(tmp_path).setup()
    with refused(SegzooError):
        BUSI(Path(__file__).parents[1] / "samples", split="given").setup()


def test_files_of_one_name_in_several_parts_keep_their_parts_in_their_names(tmp_path):
    folder(tmp_path, *(f"{part}/{kind}/1.png" for part in ("train", "val", "test") for kind in ("images", "masks")))
    assert Folder(tmp_path).split_ids == {"train": ["train/1"], "val": ["val/1"], "test": ["test/1"]}
    (tmp_path / "groups.csv").write_text("image,group\ntrain/1.png,one\nval/1.png,one\ntest/1.png,two\n")
    with pytest.raises(SegzooError, match="one"):
        Folder(tmp_path, groups=tmp_path / "groups.csv").setup()


# ---- tables


def cases(root: Path, *lines: str, separator: str = ",") -> Path:
    """A folder with a table and the two pairs of pictures that it may list."""
    folder(root, "a.png", "a-m.png", "b.png", "b-m.png")
    (root / "cases.csv").write_text("\n".join(line.replace(",", separator) for line in lines), "utf-8-sig")
    return root


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_any_separator(tmp_path, separator):
    lines = ['"Image",Mask,group', "a.png,a-m.png,x", "", "b.png,b-m.png,x"]
    root = cases(tmp_path, *lines, separator=separator)
    samples = Folder(root).samples()
    assert [(sample.id, sample.masks[0].name, sample.group) for sample in samples] == [
        ("a", "a-m.png", "x"),
        ("b", "b-m.png", "x"),
    ]
    assert [one.id for one in Folder(root / "cases.csv").samples()] == ["a", "b"]


@pytest.mark.parametrize(
    "lines",
    [
        ["image,mask", "a.png,"],
        ["image,mask", "a.png,gone.png", "gone.png,b-m.png"],
        ["image,mask", "a.png,../elsewhere.png"],
        ["image,mask,split", "a.png,a-m.png,train", "b.png,b-m.png,holdout"],
        ["image,mask,split", "a.png,a-m.png,train", "b.png,b-m.png,"],
        ["image,mask,split,group", "a.png,a-m.png,train,x", "b.png,b-m.png,test,x"],
        ["image,mask,split", "a.png,a-m.png,train", "a.png,b-m.png,test"],
        ["image,mask"],
        ["image,mask", 'a.png,"a-m.png'],
    ],
)
def test_tables_that_contradict_themselves_are_refused(tmp_path, lines, refused):
    with refused(SegzooError):
        Folder(cases(tmp_path, *lines)).setup()


def test_a_table_leads_out_of_its_folder_only_where_that_is_allowed(tmp_path):
    folder(tmp_path, "elsewhere.png")
    root = cases(tmp_path / "mine", "image,mask", "a.png,../elsewhere.png")
    (sample,) = Folder(root, anywhere=True).samples()
    assert sample.masks == (tmp_path / "elsewhere.png",)
    (root / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "cases.csv").write_text("image,mask\na.png,link.png\n")
    with pytest.raises(SegzooError, match=r"link\.png"):
        Folder(root).samples()


def test_of_two_tables_one_is_named(tmp_path):
    root = cases(tmp_path, "image,mask", "a.png,a-m.png")
    (root / "more.csv").write_text("image,mask\nb.png,b-m.png\n")
    with pytest.raises(SegzooError, match=r"--data\.table cases\.csv"):
        Folder(root).samples()
    assert [sample.id for sample in Folder(root, table="more.csv").samples()] == ["b"]
    with pytest.raises(SegzooError, match=r"--data\.masks"):
        Folder(root, table="more.csv", masks="masks")


# ---- colours and values


def test_colours_and_values_are_classes(tmp_path):
    masks = {"colours": COLOURS[[[0, 1, 2, 3]] * 4], "values": np.array([[0, 80, 160, 240]] * 4, np.uint8)}
    for name, pixels in masks.items():
        save(tmp_path / name / "images" / "a.png", np.zeros((4, 4), np.uint8))
        save(tmp_path / name / "masks" / "a.png", pixels)
    colours = {"#00a000": "cyst", "red": "tumour", "yellow": "ignored"}
    values = {80: "cyst", 160: "tumour", 240: "ignored"}
    for data in (Folder(tmp_path / "colours", colours=colours), Folder(tmp_path / "values", values=values)):
        assert data.class_names == ("background", "cyst", "tumour")
        (sample,) = data.samples()
        assert read_label(sample, 3, False)[0].tolist() == [0, 1, 2, -1]
    merged = Folder(
        tmp_path / "values",
        split="all",
        values={0: "tissue", 80: "cyst", 160: "cyst", 240: "tissue"},
        class_names=["tissue", "cyst"],
    )
    assert read_label(merged.samples()[0], 2, False)[0].tolist() == [0, 1, 1, 0]
    assert merged.describe()["values"] == {"0": "tissue", "80": "cyst", "160": "cyst", "240": "tissue"}


@pytest.mark.parametrize(
    "options",
    [
        {"colours": {"reddish": "a"}},
        {"colours": {"#ff000080": "a"}},
        {"values": {-1: "a"}},
        {"values": [1, 2]},
        {"values": {1: "a"}, "class_names": ["background", "b"]},
        {"values": {1: "a"}, "colours": {"red": "a"}},
        {"values": {1: "a"}, "foreground": "any"},
        {"colours": {"red": "a"}, "multilabel": True},
    ],
)
def test_meanings_that_mean_nothing_are_refused(tmp_path, options, refused):
    with refused(SegzooError):
        Folder(tmp_path, **options)


def test_what_the_map_does_not_name_is_refused(tmp_path, refused):
    save(tmp_path / "images" / "a.png", np.zeros((1, 4), np.uint8))
    save(tmp_path / "masks" / "a.png", COLOURS[[[0, 1, 2, 3]]])
    for options in ({"colours": {"red": "a"}}, {"values": {1: "a"}}):
        (sample,) = Folder(tmp_path, **options).samples()
        with refused(SegzooError):
            read_label(sample, 2, False)
    save(tmp_path / "masks" / "a.jpg", COLOURS[[[0, 1, 2, 3]]])
    (tmp_path / "masks" / "a.png").unlink()
    (sample,) = Folder(tmp_path, colours={"red": "a"}).samples()
    with refused(SegzooError):
        read_label(sample, 2, False)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[0, 0, 0, 255], [255, 255, 255, 255]], [0, 1]),
        ([[0, 0, 0, 0], [255, 0, 0, 255]], [0, 1]),  # red on nothing
        ([[255, 255, 255, 0], [0, 0, 0, 255]], [0, 1]),  # black on nothing that is white
        ([[255, 0, 0, 0], [255, 0, 0, 255]], [0, 1]),
        ([[255, 255, 255, 0], [255, 255, 255, 0]], [0, 0]),  # nothing is drawn
        ([[128, 0, 0, 255], [0, 0, 0, 255]], [1, 0]),
        ([[red, 0, 0] for red in (255, 200, 150, 100, 50, 0)], [1, 1, 1, 0, 0, 0]),  # a soft edge, cut in the middle
        ([[1, 0, 0], [0, 0, 0]], [1, 0]),
        ([[255, 0, 0], [0, 0, 100]], None),
        ([[1, 0, 0], [0, 1, 0]], None),
        ([[255, 0, 0, 0], [255, 0, 0, 255], [0, 255, 0, 255]], None),
    ],
)
def test_one_colour_on_black_or_on_nothing(tmp_path, pixels, expected):
    save(tmp_path / "images" / "a.png", np.zeros((1, len(pixels)), np.uint8))
    save(tmp_path / "masks" / "a.png", np.array([pixels], np.uint8))
    (sample,) = Folder(tmp_path).samples()
    if expected is None:
        with pytest.raises(SegzooError):
            read_label(sample, 2, False)
    else:
        assert read_label(sample, 2, False)[0].tolist() == expected


def test_masks_of_several_colours_are_said(tmp_path, pictures):
    for number, image in enumerate(pictures.images):
        save(tmp_path / "images" / f"{number}.png", image)
        save(tmp_path / "masks" / f"{number}.png", pictures.masks[number][..., None] * COLOURS[1 + number % 2])
    (said,) = Folder(tmp_path).check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    assert "#00a000" in said
    assert "#ff0000" in said
    one = Folder(tmp_path, colours={"#00a000": "cyst", "#ff0000": "cyst"})
    assert one.check_pixels(["train", "val", "test"], segzoo.Preprocessing()) == []


# ---- near copies


def test_near_copies_in_other_parts_are_counted(tmp_path, pictures):
    arranged("{part}/images/{}.png", "{part}/masks/{}.png")(tmp_path, pictures)
    data = Folder(tmp_path)
    assert data.check_pixels(["train", "val", "test"], segzoo.Preprocessing()) == []
    larger = Image.fromarray(pictures.images[0]).resize((96, 80), Image.Resampling.BICUBIC).point(lambda v: v * 0.8 + 9)
    larger.save(tmp_path / "test" / "images" / "6.png")
    save(tmp_path / "test" / "masks" / "6.png", np.repeat(np.repeat(pictures.masks[0], 2, 0), 2, 1))
    (said,) = Folder(tmp_path).check_pixels(["train", "val", "test"], segzoo.Preprocessing())
    assert said.startswith("1 image")
    assert "6 and 0" in said
    (tmp_path / "groups.csv").write_text("image,group\n0,one\n6,one\n")
    grouped = Folder(tmp_path, groups=tmp_path / "groups.csv", split="grouped")
    assert grouped.check_pixels(["train", "val", "test"], segzoo.Preprocessing()) == []
