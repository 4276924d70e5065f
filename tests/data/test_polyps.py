import pytest

from segzoo.data import CVCClinicDB, KvasirSEG
from segzoo.data.samples import read_label, shipped_groups
from segzoo.errors import MissingError


@pytest.mark.parametrize("where", ["Kvasir-SEG", "."])
def test_kvasir_layout(tmp_path, draw, where):
    for name in ("a", "b"):
        draw(tmp_path / where / "images" / f"{name}.jpg")
        draw(tmp_path / where / "masks" / f"{name}.jpg", mask=True)
    found = KvasirSEG(tmp_path).samples()
    assert [s.id for s in found] == ["a", "b"]
    # JPEG rings around the rectangle, and the cut at 127 takes the ringing away
    assert read_label(found[0], 2, False).sum() == (10 - 2) * (15 - 3)


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("where", ["CVC-ClinicDB", "."])
def test_clinicdb_layout(tmp_path, draw, where, suffix):
    for frame in (1, 25, 26):
        draw(tmp_path / where / "Original" / f"{frame}.{suffix}")
        draw(tmp_path / where / "Ground Truth" / f"{frame}.{suffix}", mask=True)
    found = CVCClinicDB(tmp_path).samples()
    assert [(s.id, s.group) for s in found] == [("1", "sequence 1"), ("25", "sequence 1"), ("26", "sequence 2")]


def test_missing_layout_is_explained(tmp_path):
    with pytest.raises(MissingError, match=r"CVCClinicDB: .* expected Original/ and Ground Truth/ in it or its CVC"):
        CVCClinicDB(tmp_path).setup()
    with pytest.raises(MissingError, match=r"KvasirSEG: .*nowhere does not exist: expected images/ and masks/"):
        KvasirSEG(tmp_path / "nowhere").setup()


@pytest.mark.parametrize(
    ("dataset", "count", "groups"), [(KvasirSEG, 1000, "kvasir_seg"), (CVCClinicDB, 612, "cvc_clinicdb")]
)
def test_published_counts_and_groups(shared, dataset, count, groups):
    data = dataset(shared / "data")
    assert len(data.samples()) == count
    part_of = {i: part for part, ids in data.split_ids.items() for i in ids}
    parts_of_group: dict[str, set[str]] = {}
    for image, group in shipped_groups(groups).items():
        if image in part_of:
            parts_of_group.setdefault(group, set()).add(part_of[image])
    assert all(len(parts) == 1 for parts in parts_of_group.values())


def test_no_other_crop_of_a_tested_image_is_elsewhere(shared):
    """The figures of docs/data.md."""
    copies, tested = shipped_groups("kvasir_seg_lookalikes"), []
    for fold in range(5):
        split = KvasirSEG(shared / "data", fold=fold).split_ids
        elsewhere = {copies.get(image) for part in ("train", "val") for image in split[part]} - {None}
        assert not elsewhere & {copies.get(image) for image in split["test"]}
        tested.append(len(split["test"]))
    assert (min(tested), max(tested)) == (193, 197)
