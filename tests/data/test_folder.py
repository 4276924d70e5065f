import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from segzoo.data import Folder, Joint
from segzoo.errors import MissingError, SegzooError
from segzoo.preprocessing.image import Preprocessing


def test_binary(folder_data):
    data = Folder(folder_data, image_size=16, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert data.class_names == ("background", "foreground")
    assert batch["image"].shape == (2, 3, 16, 16)
    assert batch["label"].unique().tolist() == [0, 1]


def test_multi_class_with_ignored(folder_data):
    for path in (folder_data / "masks").iterdir():
        Image.fromarray(np.tile(np.array([0, 1, 2, 255, 1], np.uint8), (20, 6))).save(path)
    data = Folder(folder_data, class_names=["background", "a", "b"], image_size=(20, 30), batch_size=2)
    batch = next(iter(data.train_dataloader()))  # augmented: -1 must survive
    assert batch["label"].unique().tolist() == [-1, 0, 1, 2]
    assert (batch["label"] == -1).float().mean() == 0.2


def test_multi_class_wrong_value(folder_data, refused):
    data = Folder(folder_data, class_names=["background", "a", "b"], split="all", image_size=16)
    Image.fromarray(np.full((20, 30), 9, np.uint8)).save(folder_data / "masks" / "3.png")
    with refused(SegzooError):
        list(data.test_dataloader())


@pytest.mark.parametrize(
    ("other", "agree"),
    [
        ([0, 0, 0, 255, 0, 0], True),  # as far as it goes
        ([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9], True),  # in the classes
        ([0, 0, 0, 0, 255, 0], False),
    ],
)
def test_multi_class_palettes_agree(folder_data, other, agree, refused):
    masks = sorted((folder_data / "masks").iterdir())
    for number, path in enumerate(masks[1:]):
        image = Image.fromarray(np.zeros((20, 30), np.uint8), mode="P")
        image.putpalette(other if number == 3 else [0, 0, 0, 255, 0, 0, 0, 255, 0][: 3 + 3 * number])
        image.save(path)
    data = Folder(folder_data, class_names=["background", "a", "b"])
    if agree:
        data.setup()
    else:
        with refused(SegzooError):
            data.setup()
    Folder(folder_data).setup()  # with two classes each is read by its own colours


def test_multi_label(folder_data, draw, refused):
    for name, high in (("left", 255), ("none", 0)):
        for number in range(10):
            draw(folder_data / "masks" / name / f"{number}.png", mask=True, high=high)
    data = Folder(folder_data, class_names=["left", "none"], multilabel=True, image_size=16, batch_size=2)
    batch = next(iter(data.val_dataloader()))
    assert batch["label"].shape == (2, 2, 16, 16)
    assert batch["label"].dtype == torch.float32
    assert batch["label"].amax(dim=(0, 2, 3)).tolist() == [1, 0]
    assert [tuple(label.shape) for label in batch["original_label"]] == [(2, 20, 30)] * 2
    assert data.summary()[1:] == [
        "Folder: found 10 images in images/, masks in masks/",
        "10 other files are not read",  # those beside the folders
    ]
    (folder_data / "masks" / "none" / "4.png").unlink()
    with refused(MissingError):
        Folder(folder_data, class_names=["left", "none"], multilabel=True).setup()


def test_groups_of_a_user(folder_data, refused):
    table = folder_data / "groups.csv"
    table.write_text("image,group\n" + "".join(f"{n}.png,patient {n // 2}\n" for n in range(10)))
    split = Folder(folder_data, groups=table).split_ids
    for ids in split.values():
        assert {int(i) // 2 for i in ids} == {int(i) // 2 for i in ids if int(i) % 2}
    table.write_text("image,group\n" + "".join(f" {n}.png , patient {n // 2}\n" for n in range(12)))  # of 10 images
    assert Folder(folder_data, groups=table).split_ids == split
    table.write_text("image,group\n" + "".join(f"{n}.dcm,patient {n // 2}\n" for n in range(10)))
    with refused(SegzooError):
        Folder(folder_data, groups=table).setup()
    table.write_text("image,group\n" + "".join(f"{n}.png,patient {n % 3}\n" for n in range(10)))
    with refused(SegzooError):
        Folder(folder_data, groups=table).setup()


def test_images_without_a_group_are_counted(folder_data):
    table = folder_data / "groups.csv"
    table.write_text("image,group\n" + "".join(f"{n}.png,patient {n // 2}\n" for n in range(4)))
    with pytest.warns(UserWarning, match=r"6 of 10 images have no group in .*groups\.csv; each counts as a group"):
        Folder(folder_data, groups=table).setup()


def test_what_is_read_and_what_is_not_is_said(folder_data, draw):
    lines = [
        "Folder: 10 images in 10 groups: 6 to train, 2 to validate, 2 to test",
        "Folder: found 10 images in images/, masks in masks/",
    ]
    assert Folder(folder_data).summary() == lines
    assert Folder(folder_data, split="all").summary() == [
        "Folder: 10 images: 10 to train, 10 to validate, 10 to test",
        lines[1],
    ]
    draw(folder_data / "masks" / "a.png")
    assert Folder(folder_data).summary() == [*lines, "1 mask has no image: a.png"]
    for name in "bcd":
        draw(folder_data / "masks" / f"{name}.png")
    for name in ("images/more/x.png", "images/x.dcm", "masks/Notes.txt", "masks/.hidden"):
        (folder_data / name).parent.mkdir(exist_ok=True)
        (folder_data / name).touch()
    assert Folder(folder_data).summary() == [
        *lines,
        "4 masks have no image: a.png, b.png, c.png, ...; 1 subfolder and 2 other files are not read",
    ]


def test_a_group_that_makes_a_part_too_large_is_named(folder_data):
    table = folder_data / "groups.csv"
    table.write_text("image,group\n" + "".join(f"{n}.png,patient {max(n, 4)}\n" for n in range(10)))
    line, warning, _ = Folder(folder_data, groups=table).summary()
    assert line == "Folder: 10 images in 6 groups: 3 to train, 2 to validate, 5 to test"
    assert warning == "the group 'patient 4' alone has 5 images, so the part to test has 5, where 2 would be its share"


def test_images_left_out_of_the_test_are_counted(folder_data):
    class Alike(Folder):
        def samples(self):
            return [replace(sample, lookalikes="one") for sample in super().samples()]

    line, _ = Alike(folder_data).summary()
    assert line.endswith(
        "2 to validate, 0 to test, 2 left out of the test since another part resembles or continues them"
    )


def test_a_folder_named_like_a_picture_is_said_and_passed_over(folder_data):
    (folder_data / "images" / "scan.png").mkdir()
    (folder_data / "masks" / "scan.png").mkdir()
    with pytest.warns(match=r"scan\.png is a folder"):
        lines = Folder(folder_data).summary()
    assert lines == [
        "Folder: 10 images in 10 groups: 6 to train, 2 to validate, 2 to test",
        "Folder: found 10 images in images/, masks in masks/",
        "2 subfolders are not read",
    ]


def test_masks_of_many_instances_are_foreground_where_that_is_asked_for(folder_data, refused):
    numbers = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((10, 10), np.uint8))
    for path in (folder_data / "masks").iterdir():
        Image.fromarray(numbers).save(path)
    with refused(SegzooError):
        Folder(folder_data, image_size=16).check_pixels(["test"], Preprocessing())
    data = Folder(folder_data, foreground="any", image_size=(20, 30), batch_size=2)
    batch = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(batch["label"][0], numbers > 0)
    assert data.describe()["foreground"] == "any"
    assert "foreground" not in Folder(folder_data).describe()
    joint = Joint([data], image_size=(20, 30), batch_size=2)
    np.testing.assert_array_equal(next(iter(joint.val_dataloader()))["label"][0], numbers > 0)


def test_foreground_is_any_and_of_two_classes(tmp_path, refused):
    with refused(SegzooError):
        Folder(tmp_path, foreground="all")
    with refused(SegzooError):
        Folder(tmp_path, foreground="any", class_names=["background", "a", "b"])


def test_a_range_goes_into_the_contract(folder_data):
    for path in (folder_data / "images").iterdir():
        Image.fromarray(np.full((20, 30), 1000, np.uint16)).save(path)
    data = Folder(folder_data, image_size=(20, 30), intensity_range=(0, 2000), batch_size=2)
    assert data.preprocessing.intensity_range == (0, 2000)
    data.check_pixels(["test"], Preprocessing())
    batch = next(iter(data.val_dataloader()))
    expected = data.preprocessing(np.full((20, 30, 3), 128, np.uint8))
    torch.testing.assert_close(batch["image"][0], expected)
    ranged = Preprocessing(intensity_range=(0, 2000))
    Folder(folder_data).check_pixels(["test"], ranged)  # the model's own
    with pytest.raises(SegzooError, match="intensity_range"):
        Folder(folder_data).check_pixels(["test"], Preprocessing())
    with pytest.raises(SegzooError, match="intensity_range"):
        Folder(folder_data, intensity_range=(5, 5))


@pytest.mark.parametrize("names", [[], ["background"], ["a", "a"]])
def test_bad_class_names(tmp_path, names, refused):
    with refused(SegzooError):
        Folder(tmp_path, class_names=names)


@pytest.mark.parametrize("names", [["a/b", "c"], ["a\\b", "c"], ["left lung", "left-lung"]])
def test_class_names_that_are_no_names_of_files(tmp_path, names, refused):
    with refused(SegzooError):
        Folder(tmp_path, class_names=names, multilabel=True)


def test_no_images(tmp_path, refused):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with refused(MissingError):
        Folder(tmp_path).setup()


def test_mixed_formats(tmp_path, draw):
    """Grey, palette, alpha, 16-bit and 1-bit files beside each other."""
    kinds = [("png", "L"), ("png", "P"), ("png", "RGBA"), ("jpg", "L"), ("bmp", "1"), ("png", "I;16"), ("tif", "L")]
    for number, (suffix, mode) in enumerate(kinds):
        image = draw(tmp_path / "images" / f"{number}.{suffix}")
        mask = draw(tmp_path / "masks" / f"{number}.png", mask=True)
        for path in (image, mask):
            with Image.open(path) as opened:
                grey = np.asarray(opened.convert("L"))
            if mode == "I;16":
                Image.fromarray(grey.astype(np.uint16) * 257).save(path)
            elif path is image or mode in ("1", "RGBA"):
                Image.fromarray(grey).convert(mode).save(path)
    data = Folder(tmp_path, split="all", image_size=(20, 30))
    for item in data.test_dataloader().dataset:
        inside, outside = item["label"] == 1, item["label"] == 0
        assert inside.sum() == (10 - 2) * (15 - 3)
        assert item["image"][:, inside].min() > 1 > -1 > item["image"][:, outside].median()


def test_a_run_s_split_holds_when_the_folder_grows(folder_data, draw, tmp_path):
    first = Folder(folder_data, image_size=16)
    first.write_split(tmp_path / "split.json")
    draw(folder_data / "images" / "another.png")
    draw(folder_data / "masks" / "another.png", mask=True)
    again = Folder(folder_data, image_size=16, split=str(tmp_path / "split.json"))
    assert again.split_ids == first.split_ids
    assert again.describe() | {"split": "grouped"} == first.describe()
    assert again.describe()["split"] == again.split_record()["split"] == "listed"  # and nobody's path
    assert again.summary()[0].endswith(" to test, 1 that the list does not name")


# ---- names


@pytest.mark.parametrize("name", ["=1+1", "-3", " 3 ", "3" * 250, "scan\n3", os.fsdecode(b"M\xfcller")])
def test_any_name_of_a_file_can_be_split_and_written(folder_data, tmp_path, name):
    for part in ("images", "masks"):
        (folder_data / part / "3.png").rename(folder_data / part / f"{name}.png")
    for split in ("grouped", "random-64-16-20"):
        data = Folder(folder_data, split=split, image_size=16)
        data.write_split(tmp_path / "split.json")
        ids = json.loads((tmp_path / "split.json").read_text(encoding="utf-8"))["ids"]
        (own,) = {one for part in ids.values() for one in part} - {str(number) for number in range(10)}
        assert Folder(folder_data, split=str(tmp_path / "split.json")).split_ids == data.split_ids
        json.dumps(data.describe(), ensure_ascii=False).encode()
        (sample,) = [sample for sample in data.samples() if sample.id == own]
        assert sample.image.is_file()


@pytest.mark.parametrize(
    "names", [("background", True), (0, 1), ("background", None), "lesion", ("background", "a\nb")]
)
def test_names_of_classes_are_texts_of_one_line(folder_data, names, refused):
    with refused(SegzooError):
        Folder(folder_data, class_names=names)
