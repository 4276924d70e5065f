import os
from pathlib import Path

import pytest

from segzoo.imaging.names import is_hidden, spelled_out


@pytest.mark.parametrize("name", ["a.png", "-a.png", "=a.png", " a .png", "a" * 251 + ".png", "Müller 東.png"])
def test_what_can_be_written_on_a_line_is_written_as_it_is(name):
    assert spelled_out(name) == name
    assert not is_hidden(Path(name))


@pytest.mark.parametrize("character", [*"\n\r\t\0\x1b\x7f\x85\u2028\u2029", os.fsdecode(b"\xfc")])
def test_all_else_is_spelled_out(character):
    written = spelled_out(f"scan{character}1.png")
    assert character not in written
    assert len(written.splitlines()) == 1
    assert written.encode().decode().startswith("scan\\")


def test_hidden_files_are_those_with_a_dot():
    assert is_hidden(Path("folder") / "._a.png")
    assert not is_hidden(Path(".folder") / "a.png")
