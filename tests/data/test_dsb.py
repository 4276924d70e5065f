from segzoo.data import DSB2018
from segzoo.data.samples import shipped_groups


def test_layout(tmp_path, draw):
    draw(tmp_path / "dsb2018_96" / "images" / "a.png")
    mask = draw(tmp_path / "dsb2018_96" / "masks" / "0" / "a.png", mask=True)
    (found,) = DSB2018(tmp_path).samples()
    assert (found.id, found.masks) == ("a", (mask,))


def test_published_count_but_for_tiles_that_another_part_continues(shared):
    data = DSB2018(shared / "data", image_size=96)
    assert len(data.samples()) == 670
    assert data.describe()["counts"] == {"train": 402, "val": 134, "test": 75}
    pictures = shipped_groups("dsb2018_lookalikes")
    seen = {pictures.get(image) for part in ("train", "val") for image in data.split_ids[part]} - {None}
    assert not seen & {pictures.get(image) for image in data.split_ids["test"]}
