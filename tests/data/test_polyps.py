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


def test_missing_layout_is_explained(tmp_path, refused):
    with refused(MissingError):
        CVCClinicDB(tmp_path).setup()
    with refused(MissingError):
        KvasirSEG(tmp_path / "nowhere").setup()
    for name in KvasirSEG.layout:
        (tmp_path / name).touch()
    with refused(MissingError):  # files are no folders
        KvasirSEG(tmp_path).setup()


@pytest.mark.parametrize(
    ("dataset", "count", "used", "groups"),
    [(KvasirSEG, 1000, 994, "kvasir_seg"), (CVCClinicDB, 612, 612, "cvc_clinicdb")],  # six look like others
)
def test_published_counts_and_groups(shared, dataset, count, used, groups):
    data = dataset(shared / "data")
    data.setup()
    part_of = {i: part for part, ids in data.split_ids.items() for i in ids}
    assert (len(data.samples()), len(part_of)) == (count, used)
    parts_of_group: dict[str, set[str]] = {}
    for image, group in shipped_groups(groups).items():
        parts_of_group.setdefault(group, set()).add(part_of[image])
    assert all(len(parts) == 1 for parts in parts_of_group.values())
