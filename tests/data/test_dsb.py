from segzoo.data import DSB2018


def test_layout(tmp_path, draw):
    draw(tmp_path / "dsb2018_96" / "images" / "a.png")
    mask = draw(tmp_path / "dsb2018_96" / "masks" / "0" / "a.png", mask=True)
    (found,) = DSB2018(tmp_path).samples()
    assert (found.id, found.masks) == ("a", (mask,))


def test_published_count(shared):
    data = DSB2018(shared / "data", image_size=96)
    assert data.describe()["counts"] == {"train": 402, "val": 134, "test": 134}
