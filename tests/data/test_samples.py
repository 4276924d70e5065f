from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzoo.data.samples import (
    Sample,
    binarize,
    check_sample,
    files_by_stem,
    paired_samples,
    read_label,
    shipped_groups,
)
from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.tables import read_groups


def save(path: Path, values: list[list[int]], dtype: type = np.uint8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, dtype)).save(path)
    return path


def label_of(masks: list[Path], num_classes: int = 2, multilabel: bool = False) -> np.ndarray:
    return read_label(Sample("x", Path("x.png"), tuple(masks), "x"), num_classes, multilabel)


@pytest.mark.parametrize(
    ("values", "dtype", "name", "expected"),
    [
        ([0, 1, 1], np.uint8, "a.png", [0, 1, 1]),
        ([0, 60, 127, 128, 255], np.uint8, "a.png", [0, 0, 0, 1, 1]),  # soft edges
        ([0, 1, 90, 200, 255], np.uint8, "a.png", [0, 0, 0, 1, 1]),
        ([0, 250, 254, 255], np.uint8, "a.png", [0, 1, 1, 1]),
        ([0, 1, 1], np.uint16, "a.png", [0, 1, 1]),
        ([0, 255], np.uint16, "a.png", [0, 1]),
        ([0, 9, 32767, 32768, 65535], np.uint16, "a.png", [0, 0, 0, 1, 1]),
        ([0, 0, 0], np.uint8, "a.png", [0, 0, 0]),
        ([0, 0], np.uint8, "a.jpg", [0, 0]),
        ([3, 130, 250], np.uint8, "a.JPEG", [0, 1, 1]),
    ],
)
def test_binarize(values, dtype, name, expected):
    np.testing.assert_array_equal(binarize(np.array([values], dtype), Path(name)), np.array([expected], bool))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([0, 1, 2], "a.png"),
        ([0, 1, 255], "a.png"),
        ([1, 255], "a.png"),
        ([0, 127, 255], "a.png"),
        ([0, 85, 170, 255], "a.png"),
        ([0, 1, 0], "a.jpg"),
    ],
)
def test_binarize_refuses_what_may_be_classes(values, name, refused):
    with refused(SegzooError):
        binarize(np.array([values], np.uint8), Path(name))


def numbered(step: int, count: int, side: int) -> np.ndarray:
    """Objects of their own numbers, each a square, none touching another."""
    mask = np.zeros((128, 128), np.uint8)
    for number in range(count):
        row, column = divmod(number, 14)
        mask[9 * row + 2 : 9 * row + 2 + side, 9 * column + 2 : 9 * column + 2 + side] = step * (number + 1)
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        numbered(1, 190, 5),
        numbered(1, 190, 1),  # of a pixel each
        numbered(20, 12, 5),  # spread, to be seen
        np.repeat(numbered(1, 190, 1), 4, axis=0)[:128],  # lines
        np.kron(np.arange(256, dtype=np.uint8).reshape(16, 16), np.ones((8, 8), np.uint8)),  # touching
    ],
    ids=["areas", "pixels", "spread", "lines", "touching"],
)
def test_a_mask_of_many_instances_is_refused_or_any_of_them_is_foreground(tmp_path, mask):
    path = tmp_path / "a.png"
    Image.fromarray(mask).save(path)
    with pytest.raises(SegzooError, match=rf"a\.png holds \d+ values up to {mask.max()}, .*foreground"):
        label_of([path])
    any_of_them = replace(Sample("x", path, (path, path), "x"), foreground="any")
    np.testing.assert_array_equal(read_label(any_of_them, 2, False), mask > 0)
    np.testing.assert_array_equal(read_label(any_of_them, 2, True), [mask > 0] * 2)


@pytest.mark.parametrize("quality", [None, 20, 75])
@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 1.7])
@pytest.mark.parametrize("way", ["BOX", "BILINEAR", "BICUBIC", "LANCZOS"])
def test_soft_edges_are_cut_in_the_middle(samples, tmp_path, way, scale, quality):
    mask = Image.open(samples / "BUSI" / "Dataset_BUSI_with_GT" / "malignant" / "malignant (35)_mask.png").convert("L")
    if quality:
        mask.save(tmp_path / "b.jpg", quality=quality)
        mask = Image.open(tmp_path / "b.jpg")
    mask = mask.resize((round(mask.width * scale), round(mask.height * scale)), Image.Resampling[way])
    mask.save(tmp_path / "a.png")
    np.testing.assert_array_equal(label_of([tmp_path / "a.png"]), np.asarray(mask) > 127)


def test_any_value_of_a_palette_but_black_is_foreground_where_that_is_asked_for(tmp_path):
    for colours in ([0, 0, 0, 255, 0, 0, 0, 255, 0], [255, 0, 0, 0, 0, 0, 0, 255, 0]):
        path = save_palette(tmp_path / "a.png", [0, 1, 2, 1], colours)
        sample = Sample("x", path, (path,), "x", foreground="any")
        black = [not any(colours[3 * index : 3 * index + 3]) for index in (0, 1, 2, 1)]
        np.testing.assert_array_equal(read_label(sample, 2, False), [~np.array(black)])


def test_any_value_is_not_taken_of_a_jpeg(tmp_path, refused):
    path = save(tmp_path / "a.jpg", [[0, 255]])
    with refused(SegzooError):
        read_label(Sample("x", path, (path,), "x", foreground="any"), 2, False)


def test_several_masks_are_merged(tmp_path):
    masks = [save(tmp_path / "a.png", [[0, 255, 0, 255]]), save(tmp_path / "b.png", [[0, 0, 1, 1]])]
    np.testing.assert_array_equal(label_of(masks), [[0, 1, 1, 1]])


def test_multi_class_indices_and_ignored(tmp_path):
    mask = save(tmp_path / "a.png", [[0, 1, 2, 255]])
    np.testing.assert_array_equal(label_of([mask], num_classes=3), [[0, 1, 2, -1]])
    # where 255 is a class it is no mark
    np.testing.assert_array_equal(label_of([mask], num_classes=256), [[0, 1, 2, 255]])


@pytest.mark.parametrize(("value", "dtype"), [(3, np.uint8), (65535, np.uint16), (-1, np.int32)])
def test_value_outside_the_classes(tmp_path, value, dtype, refused):
    mask = save(tmp_path / "a.tif", [[0, 2, value]], dtype)
    with refused(SegzooError):
        label_of([mask], num_classes=3)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize(
    ("colours", "indices", "expected"),
    [
        ([255, 255, 255, 0, 0, 0], [1, 0, 1], [0, 1, 0]),  # as an adaptive palette has it
        ([255, 255, 255], [0, 0, 0], [1, 1, 1]),
        ([0, 0, 0, 255, 255, 255, 9, 8, 7], [0, 1, 0], [0, 1, 0]),  # the last is not in use
        ([200, 200, 200, 0, 0, 0, 255, 255, 255, 2, 2, 2, 9, 9, 9], [0, 1, 2, 3, 4], [1, 0, 1, 0, 0]),
        ([0, 0, 0, 128, 0, 0], [0, 1, 0], [0, 1, 0]),
        ([0, 0, 0, 128, 0, 0], [1, 1, 1], [1, 1, 1]),
        ([255, 0, 0, 0, 0, 0], [1, 0, 1], [0, 1, 0]),  # as an adaptive palette has red on black
        ([0, 0, 0, 0, 0, 0], [0, 1, 0], [0, 1, 0]),  # colours say nothing
    ],
)
def test_a_palette_is_read_as_it_looks(tmp_path, colours, indices, expected, multilabel):
    np.testing.assert_array_equal(
        label_of([save_palette(tmp_path / "a.png", indices, colours)], 2, multilabel),
        [[expected]] if multilabel else [expected],
    )


def save_palette(path: Path, indices: list[int], colours: list[int], **options: object) -> Path:
    image = Image.fromarray(np.array([indices], np.uint8), mode="P")
    image.putpalette(colours)
    image.save(path, **options)
    return path


def test_a_palette_of_one_grey_may_have_its_shape_in_its_transparency(tmp_path):
    alone = save_palette(tmp_path / "a.png", [0, 1, 0], [0] * 6, transparency=0)
    np.testing.assert_array_equal(label_of([alone]), [[0, 1, 0]])
    seen = save_palette(tmp_path / "b.png", [0, 1, 0], [0] * 3 + [255] * 3, transparency=0)
    np.testing.assert_array_equal(label_of([seen]), [[0, 1, 0]])


@pytest.mark.parametrize(
    ("colours", "indices"),
    [
        ([255, 0, 0], [0, 0, 0]),  # all lesion, or none?
        ([255, 0, 0, 255, 255, 255], [0, 1, 0]),
        ([255, 0, 0, 0, 0, 0, 0, 255, 0], [0, 1, 2]),
        ([0, 0, 0, 128, 0, 0, 64, 0, 0, 250, 0, 0, 200, 0, 0], [0, 1, 2, 3, 4]),  # soft edges, in any order
    ],
)
def test_a_palette_that_does_not_tell_the_background_is_refused(tmp_path, colours, indices, refused):
    with refused(SegzooError):
        label_of([save_palette(tmp_path / "a.png", indices, colours)])


def test_masks_whose_palettes_pillow_chose_are_alike(tmp_path):
    """Which of two colours comes first depends on which there is more of."""
    for number, size in enumerate([(20, 30), (4, 4)]):
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[: size[0], 1 : size[1], 0] = 255
        path = tmp_path / f"{number}.png"
        for converted in (
            Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE),
            Image.fromarray(pixels).quantize(2),
        ):
            converted.save(path)
            np.testing.assert_array_equal(label_of([path]), pixels[..., 0] > 0)


@pytest.mark.parametrize("name", ["a.jpg", "b.JPEG"])
def test_class_indices_are_not_read_from_a_jpeg(tmp_path, name, refused):
    mask = save(tmp_path / name, [[0, 1, 2]])
    with refused(SegzooError):
        label_of([mask], num_classes=3)


def test_multi_label_stacks_classes(tmp_path):
    masks = [save(tmp_path / f"{k}.png", [row]) for k, row in enumerate(([0, 255, 255], [0, 0, 1], [0, 0, 0]))]
    np.testing.assert_array_equal(label_of(masks, 3, multilabel=True), [[[0, 1, 1]], [[0, 0, 1]], [[0, 0, 0]]])


def test_size_mismatch_names_both(tmp_path, refused):
    image, mask = save(tmp_path / "a.png", [[0, 0]]), save(tmp_path / "m.png", [[0], [0]])
    with refused(SegzooError):
        check_sample(Sample("a", image, (mask,), "a"))


def test_pairing(tmp_path, refused):
    for name in ("images/b.JPG", "images/a.png", "images/a_extra.png", "masks/a_seg.PNG", "masks/b_seg.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images, masks = tmp_path / "images", tmp_path / "masks"
    found = paired_samples(images, [masks], {"b": "g"}, mask_suffix="_seg", skip="_extra")
    assert found == [
        Sample("a", images / "a.png", (masks / "a_seg.PNG",), "a"),
        Sample("b", images / "b.JPG", (masks / "b_seg.tif",), "g"),
    ]
    with refused(MissingError):
        paired_samples(images, [masks], {}, mask_suffix="_seg")


def test_two_files_of_one_stem(tmp_path, refused):
    (tmp_path / "a.png").touch()
    (tmp_path / "a.jpg").touch()
    with refused(SegzooError):
        files_by_stem(tmp_path)


@pytest.mark.parametrize(
    ("name", "images", "groups"),
    [
        ("busi", 176, 79),
        ("cvc_clinicdb", 612, 29),
        ("isic2017", 8, 4),
        ("kvasir_seg", 6, 3),
        ("busi_lookalikes", 215, 90),
        ("isic2017_lookalikes", 12, 6),
        ("kvasir_seg_lookalikes", 30, 15),
        ("dsb2018_lookalikes", 311, 106),
    ],
)
def test_shipped_groups(name, images, groups):
    found = shipped_groups(name)
    assert len(found) == images
    assert len(set(found.values())) == groups


@pytest.mark.parametrize("name", ["busi", "isic2017", "kvasir_seg"])
def test_shipped_lookalikes_are_of_several_groups_and_part_none(name):
    groups, lookalikes = shipped_groups(name), shipped_groups(f"{name}_lookalikes")
    for scene in set(lookalikes.values()):
        images = [image for image in lookalikes if lookalikes[image] == scene]
        together = {groups.get(image, image) for image in images}
        assert len(together) > 1
        assert {image for image in groups if groups[image] in together} <= set(images)


def test_shipped_sequences_are_those_of_the_dataset():
    found = shipped_groups("cvc_clinicdb")
    assert found["1"] == found["25"] != found["26"]
    assert set(found) == {str(n) for n in range(1, 613)}


def test_contradicting_groups_are_refused(tmp_path, refused):
    path = tmp_path / "groups.csv"
    path.write_text("image,group\na.png,patient 1\na,patient 1\n")
    assert read_groups(path) == {"a": "patient 1"}
    path.write_text("image,group\na.png,patient 1\nb.png,patient 1\na,patient 2\n")
    with refused(SegzooError):
        read_groups(path)


def test_user_groups(tmp_path, refused):
    path = tmp_path / "groups.csv"
    path.write_text("group,image\npatient 1,a.png\npatient 1,b\npatient 2,v1.2\n")
    assert read_groups(path) == {"a": "patient 1", "b": "patient 1", "v1.2": "patient 2"}
    path.write_text("image,group\na.png,patient 1\nb.png,\nc.png, \n")
    assert read_groups(path) == {"a": "patient 1"}  # the others are no group together
    path.write_bytes("image,group\na.png,Müller\n".encode("cp1252"))
    with refused(SegzooError):
        read_groups(path)
    path.write_text("file,patient\na,1\n")
    with refused(SegzooError):
        read_groups(path)
    with refused(MissingError):
        read_groups(tmp_path / "none.csv")
