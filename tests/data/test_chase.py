import pytest

from layouts import write_layouts
from segzoo.data import CHASEDB1
from segzoo.data.samples import read_label
from segzoo.errors import MissingError, SegzooError


@pytest.fixture
def photographs(samples, tmp_path):
    write_layouts(tmp_path, samples)
    return tmp_path / "CHASE_DB1"


def test_eyes_of_a_child_are_one_group(photographs):
    found = CHASEDB1(photographs.parent).samples()
    assert [(one.id, one.group) for one in found[:3]] == [
        ("Image_01L", "child 01"),
        ("Image_01R", "child 01"),
        ("Image_02L", "child 02"),
    ]
    assert len(found) == 8


def test_the_truth_is_what_the_reader_has_drawn(photographs):
    for reader, ending in ((1, "1stHO"), (2, "2ndHO")):
        data = CHASEDB1(photographs, reader=reader)
        assert [one.masks[0].name for one in data.samples()] == [f"{one.id}_{ending}.png" for one in data.samples()]
        assert data.describe()["reader"] == reader
    first, second = (CHASEDB1(photographs, reader=reader).samples()[0] for reader in (1, 2))
    assert (read_label(first, 2, False) != read_label(second, 2, False)).any()


def test_what_is_not_there_is_said(photographs, refused):
    with refused(SegzooError):
        CHASEDB1(photographs, reader=3)
    with refused(MissingError):
        CHASEDB1(photographs.parent / "mine").setup()
    (photographs / "Image_02R_2ndHO.png").unlink()
    CHASEDB1(photographs).setup()
    with refused(MissingError):
        CHASEDB1(photographs, reader=2).setup()


def test_published_counts(shared):
    if not (shared / "data" / "CHASE_DB1").is_dir():
        pytest.skip(f"the photographs of CHASE_DB1 are not in {shared / 'data'}")
    data = CHASEDB1(shared / "data")
    assert data.summary() == ["CHASEDB1: 28 images in 14 groups: 16 to train, 6 to validate, 6 to test"]
    assert data.describe()["longest_side"] == 999
