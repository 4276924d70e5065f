"""Paths that are opened: regular files and links to them; whatever else is said to be what it is, and never waits.

And files that are written.
"""

import errno
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import segzoo
from segzoo.checkpoints.config import read_config
from segzoo.checkpoints.state import read_state
from segzoo.checkpoints.weights import read_safetensors, sha256
from segzoo.cli.command import main
from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.images import image_size, read_image
from segzoo.imaging.masks import read_mask
from segzoo.imaging.volumes import read_geometry, read_volume
from segzoo.paths import require_file, write_whole
from segzoo.prediction.resume import stored_note
from segzoo.prediction.runtimes import open_exported

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes among its files")


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """What opens a pipe waits for ever, unless something ends it."""

    def end(*_: Any) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(300)  # far more than a loaded machine needs
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


OPENERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "an image": ("a.png", read_image),
    "an image's size": ("a.png", image_size),
    "a mask": ("a.png", read_mask),
    "a volume": ("a.nii.gz", read_volume),
    "a volume's grid": ("a.nrrd", read_geometry),
    "a config": ("config.json", lambda path: read_config(path.parent)),
    "a hash": ("a.bin", sha256),
    "weights": ("a.safetensors", read_safetensors),
    "weights of others": ("a.pth", read_state),
    "an exported file": ("a.onnx", lambda path: open_exported(path, None)),
}


@pytest.mark.parametrize("opener", OPENERS)
def test_a_pipe_is_not_opened(tmp_path, opener, refused):
    name, read = OPENERS[opener]
    os.mkfifo(tmp_path / name)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / name).symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "link" / name):
        with refused(SegzooError):
            read(path)


def test_what_a_path_is_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    (tmp_path / "file").touch()
    (tmp_path / "linked").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    for good in ("file", "linked"):
        require_file(Path(good))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("plug")
        for path, word in (("plug", "socket"), (os.devnull, "device")):
            with pytest.raises(SegzooError, match=f"{path} is a {word}"):
                require_file(Path(path))
    for path in ("none", "file/below", "loop", "x" * 300, "zero\0byte", "."):
        with pytest.raises(MissingFileError):
            require_file(Path(path))


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch):
    file = tmp_path / "train.yaml"
    write_whole(file, b"model: LVUNet")
    assert file.read_bytes() == b"model: LVUNet"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(file, b"model: CMUNeXt")
    assert caught.value.filename == str(file)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"train.yaml": b"model: LVUNet"}


def test_a_pipe_among_others_stops_none_of_them(samples, tmp_path, monkeypatch, capsys):
    """Inputs of a folder, a mirror's checkpoints, and what lies where a mask is written."""
    shutil.copytree(Path(segzoo.__file__).parents[2] / "model_cards" / "lv-unet-busi", tmp_path / "hub" / "good")
    (tmp_path / "hub" / "piped").mkdir()
    os.mkfifo(tmp_path / "hub" / "piped" / "config.json")
    (tmp_path / "hub" / "piped" / "model.safetensors").touch()
    monkeypatch.setenv("SEGZOO_HUB", str(tmp_path / "hub"))
    assert main(["list", "--json"]) == 0
    assert "piped/config.json is a named pipe" in capsys.readouterr().out
    image = sorted(samples.glob("BUSI/*/*/*).png"))[0]
    (tmp_path / "in").mkdir()
    shutil.copy(image, tmp_path / "in" / "a.png")
    os.mkfifo(tmp_path / "in" / "b.png")
    assert main(["predict", "good", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
    assert "b.png is a named pipe" in capsys.readouterr().err


def test_a_pipe_in_the_place_of_a_mask_holds_no_note(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert stored_note(tmp_path / "a.png") is None
