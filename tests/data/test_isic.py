from segzoo.data import ISIC2017
from segzoo.data.samples import shipped_groups
from segzoo.errors import MissingError

IMAGES, MASKS = "ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth"


def test_layout(tmp_path, draw):
    for number in ("0000000", "0014846"):
        draw(tmp_path / IMAGES / f"ISIC_{number}.jpg")
        draw(tmp_path / IMAGES / f"ISIC_{number}_superpixels.png")
        draw(tmp_path / MASKS / f"ISIC_{number}_segmentation.png", mask=True)
    found = ISIC2017(tmp_path).samples()
    assert [(s.id, s.group) for s in found] == [("ISIC_0000000", "ISIC_0000000"), ("ISIC_0014846", "ISIC_0000222")]


def test_image_without_mask(tmp_path, draw, refused):
    draw(tmp_path / IMAGES / "ISIC_1.jpg")
    (tmp_path / MASKS).mkdir()
    with refused(MissingError):
        ISIC2017(tmp_path).setup()


def test_counts_and_groups(shared):
    data = ISIC2017(shared / "data")
    part_of = {i: part for part, ids in data.split_ids.items() for i in ids}
    assert len(part_of) == 1599  # and one image that looks like one of the training part
    for image, group in shipped_groups("isic2017").items():
        assert part_of[image] == part_of[group]
