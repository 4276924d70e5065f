"""The table of inputs: which kind reads a path, what lies in a folder, and a kind that somebody adds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segzoo
from segzoo.cli.command import main
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import Geometry
from segzoo.imaging.images import ImageFile, read_image
from segzoo.imaging.readers import READERS, inputs_in, reader_of
from segzoo.imaging.segmentation import mask_paths
from segzoo.imaging.volume_files import VolumeFile
from segzoo.imaging.volumes import Volume, read_volume_mask


class Stack:
    """A folder of pictures called z*.png as one volume: what DICOM series will be."""

    folders, large = True, True

    def __init__(self, path: Path) -> None:
        self.path, self.stem, self.mask_name = path, path.name, f"{path.name}.nii.gz"

    @staticmethod
    def accepts(path: Path) -> bool:
        return path.is_dir() and any(path.glob("z*.png"))

    def for_images(self, channels: int) -> Volume:
        return self.for_volumes(1 if channels == 3 else channels)

    def for_volumes(self, channels: int) -> Volume:
        array = np.stack([read_image(file, 1)[..., 0] for file in sorted(self.path.glob("z*.png"))]).astype(np.float32)
        return Volume(array[None], Geometry.along_axes(array.shape))

    def note(self) -> str | None:
        return None


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(READERS, "added", {})
    READERS.add("stacks", Stack)


@pytest.mark.parametrize(
    ("name", "kind", "stem", "mask"),
    [
        ("scan.png", ImageFile, "scan", "scan.png"),
        ("scan.1.JPG", ImageFile, "scan.1", "scan.1.png"),
        ("scan", ImageFile, "scan", "scan.png"),  # whatever it is, Pillow tells
        ("ct.nii.gz", VolumeFile, "ct", "ct.nii.gz"),
        ("ct.1.NRRD", VolumeFile, "ct.1", "ct.1.NRRD"),
    ],
)
def test_a_name_tells_what_reads_it_and_how_its_mask_is_called(name, kind, stem, mask):
    reader = reader_of(Path("folder") / name)
    assert (type(reader), reader.path) == (kind, Path("folder") / name)
    assert (reader.stem, reader.mask_name) == (stem, mask)


def test_a_mask_a_class_keeps_the_suffix():
    assert mask_paths(Path("a/ct.1.nii.gz"), ["left lung"]) == [Path("a/ct.1_left-lung.nii.gz")]
    assert mask_paths(Path("a/x.y.png"), ["left lung"]) == [Path("a/x.y_left-lung.png")]


def test_a_folder_lists_what_some_kind_accepts_by_name(tmp_path, stacks):
    for name in ("b.png", "a.nii.gz", "notes.txt", "._b.png", ".c.png"):
        (tmp_path / name).touch()
    (tmp_path / "a-series").mkdir()
    Image.new("L", (4, 3)).save(tmp_path / "a-series" / "z1.png")
    (tmp_path / "empty").mkdir()
    found = inputs_in(tmp_path)
    assert [(type(given), given.path.name) for given in found] == [
        (Stack, "a-series"),
        (VolumeFile, "a.nii.gz"),
        (ImageFile, "b.png"),
    ]
    (tmp_path / "d.png").mkdir()
    (tmp_path / "e.nii.gz").mkdir()
    with pytest.warns(match=r"[de]\.\S+ is a folder") as told:
        assert [given.path for given in inputs_in(tmp_path)] == [given.path for given in found]
    assert len(told) == 2
    assert [type(given) for given in inputs_in(tmp_path / "a-series")] == [Stack]  # and not its pictures
    assert [given.path for given in inputs_in(tmp_path / "notes.txt")] == [tmp_path / "notes.txt"]
    for nothing in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(segzoo.MissingError):
            inputs_in(nothing)


def test_a_kind_that_was_added_is_segmented_by_the_command(tmp_path, stacks, capsys):
    random = np.random.default_rng(0)
    for number in range(3):
        (tmp_path / "in" / "case").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 30), np.uint8)).save(tmp_path / "in" / "case" / f"z{number}.png")
    model = segzoo.create_model("cmunext_s")
    model.preprocessing = segzoo.Preprocessing(image_size=(32, 32))
    checkpoint = model.save_pretrained(tmp_path / "tiny")
    arguments: list[Any] = ["predict", checkpoint, tmp_path / "in", "--output", tmp_path / "out", "--device", "cpu"]
    for said in ("case.nii.gz", "1 of 1 were done before"):
        assert main([str(word) for word in arguments]) == 0
        assert said in capsys.readouterr().out
    assert read_volume_mask(tmp_path / "out" / "case.nii.gz")[0].shape == (3, 40, 30)


def test_the_zoos_own_kinds_keep_their_names(refused):
    with refused(SegzooError):
        READERS.add("images", Stack)
