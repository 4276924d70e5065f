"""Volume files as inputs: a file for each case or, as nnU-Net has it, one for each channel of a case."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from segzoo.errors import MissingFileError, SegzooError, attempt
from segzoo.imaging.geometry import same_grid
from segzoo.imaging.nifti import Form
from segzoo.imaging.pairing import channel_of, channel_stem
from segzoo.imaging.volumes import (
    Volume,
    is_volume,
    read_channel_count,
    read_volume,
    read_volume_note,
    volume_stem,
    volume_suffix,
)


class VolumeFile:
    """Volume file as an input, and as a mask; see :class:`segzoo.imaging.readers.Reader`.

    Args:
        path: of the file.
        geometry: as of `read_volume`.
    """

    folders: ClassVar[bool] = False
    large: ClassVar[bool] = True

    def __init__(self, path: Path, geometry: Form | None = None) -> None:
        self.path, self.geometry = path, geometry
        self.stem = volume_stem(path)
        self.mask_name = path.name

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a file's name is that of a volume."""
        return is_volume(path)

    def for_images(self, channels: int, intensity_range: tuple[float, float] | None = None) -> Volume:
        """Read it for a model of images, to which its slices are grey, also where the model takes RGB."""
        return read_channels(self.path, 1 if channels == 3 else channels, self.geometry)

    def for_volumes(self, channels: int) -> Volume:
        """Read it for a model of volumes, with the other channels of its case where these have a file each."""
        return read_channels(self.path, channels, self.geometry)

    def note(self) -> str | None:
        """Return the note that it was written with, as `read_volume_note` does."""
        return read_volume_note(self.path)


class CaseFiles(VolumeFile):
    """Case whose channels have a file each, as an input.

    Args:
        files: that are there, in the order of their channels.
        case: its name.
        geometry: as of `VolumeFile`.
    """

    def __init__(self, files: Sequence[Path], case: str, geometry: Form | None = None) -> None:
        super().__init__(files[0], geometry)
        self.files, self.stem = list(files), case
        self.mask_name = f"{case}{volume_suffix(self.path)}"


def case_of(path: Path, channels: int) -> str | None:
    """Return the name of the case that a file holds one channel of; None of a file that is a case by itself.

    ``scan_0000`` and ``scan_0001`` are two channels of a case to a model that takes several, and two cases to a model
    that takes one; to the latter ``scan_0000`` alone is the only channel of ``scan``.

    Args:
        path: of a volume file.
        channels: that a case must have.
    """
    named = channel_of(volume_stem(path))
    if named is None:
        return None
    case, number = named
    if channels == 1:
        others = _channel(path, case, 1), path.with_name(f"{case}{volume_suffix(path)}")
        return case if number == 0 and not any(map(Path.is_file, others)) else None
    count = attempt(read_channel_count, path)  # of what cannot be read, reading it will tell
    return case if isinstance(count, SegzooError) or count == 1 else None


def channel_files(path: Path, channels: int) -> list[Path]:
    """Return the files that hold the channels of a case, in their order: the file itself or one for each channel.

    Args:
        path: of the file, or of one of them.
        channels: that the case must have.

    Raises:
        MissingFileError: A channel has no file.
        SegzooError: There are more channels.
    """
    case = case_of(path, channels)
    if case is None or channels == 1:
        return [path]
    files = [_channel(path, case, number) for number in range(channels)]
    for file in files:
        if not file.is_file():
            raise MissingFileError(
                f"Case {case} in {path.parent} lacks its file {file.name}: {channels} channels are needed, in a file "
                f"each, from {files[0].name} to {files[-1].name}."
            )
    if (further := _channel(path, case, channels)).is_file():
        raise SegzooError(
            f"Case {case} in {path.parent} has the file {further.name}, and the {channels} channels that are needed "
            f"end with {files[-1].name}; take the files of other channels away."
        )
    return files


def read_channels(path: Path, channels: int, geometry: Form | None = None) -> Volume:
    """Read a volume of one file, or of one for each channel; see `channel_files` and `read_files`."""
    return read_files(channel_files(path, channels), channels, geometry)


def read_files(files: Sequence[Path], channels: int, geometry: Form | None = None) -> Volume:
    """Read a volume from the file that holds all channels, or from one for each.

    Raises:
        SegzooError: As `read_volume`, and if the files do not lie on one grid.
    """
    if len(files) == 1:
        return read_volume(files[0], channels, geometry=geometry)
    first, *others = (read_volume(file, geometry=geometry) for file in files)
    for file, other in zip(files[1:], others, strict=True):
        if not same_grid(first.geometry, other.geometry):
            raise SegzooError(
                f"{file} is on another grid (size, spacing, origin or direction) than the first channel, {files[0]}; "
                "resample the channels of a volume onto one grid."
            )
    return Volume(np.concatenate([one.array for one in (first, *others)]), first.geometry)


def _channel(path: Path, case: str, number: int) -> Path:
    """Return the file of another channel of a case, beside that of one."""
    return path.with_name(f"{channel_stem(case, number)}{volume_suffix(path)}")
