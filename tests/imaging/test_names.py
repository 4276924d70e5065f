import os
from pathlib import Path

import pytest

from segzoo.errors import SegzooError
from segzoo.imaging.names import as_utf8, is_hidden, on_one_line, require_good_name

NOT_UTF8 = os.fsdecode(b"M\xfcller.png")


@pytest.mark.parametrize(
    "name", ["a.png", "-a.png", "=a.png", " a .png", "a" * 250 + ".png", "Müller 東京.png", NOT_UTF8]
)
def test_a_name_that_is_one_line_is_good(name):
    require_good_name(name)
    require_good_name(Path("folder") / name)
    assert not is_hidden(Path(name))
    assert on_one_line(name) == name
    as_utf8(name).encode()


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\0", "\x1b", "\x85", "\u2028", "\u2029"])
def test_a_name_of_more_lines_or_with_commands_for_a_terminal_is_refused_on_one_line(character):
    name = f"scan{character}1.png"
    with pytest.raises(SegzooError, match="rename") as caught:
        require_good_name(name)
    for said in (str(caught.value), on_one_line(name)):
        assert len(said.splitlines()) == 1
        assert character not in said


def test_what_is_utf8_is_written_as_it_is():
    assert as_utf8("Müller 東京") == "Müller 東京"
    assert as_utf8(NOT_UTF8) == "M\\udcfcller.png"


def test_hidden_files_are_those_with_a_dot():
    assert is_hidden(Path("folder") / "._a.png")
    assert not is_hidden(Path(".folder") / "a.png")
