"""Videos <-> frames, by PyAV: frame rate, times and turn are those of the file; sound is left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo.errors import MissingPackageError, SegzooError, first_line
from segzoo.imaging.names import is_hidden
from segzoo.limits import IMAGE_PIXELS
from segzoo.paths import require_file

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".wmv")
ENCODERS = ("libx264", "mpeg4")  # the first that PyAV was built with
SLACK = 1.0  # seconds that a file may promise more than it holds, as of sound
UInt8Array = npt.NDArray[np.uint8]


def is_video(path: Path) -> bool:
    """Return whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_hidden(path) and not path.is_dir()


def require_pyav() -> None:
    """Refuse to go on where nothing reads videos.

    Raises:
        MissingPackageError: saying so.
    """
    if find_spec("av") is None:
        raise MissingPackageError("videos need PyAV to be read and written: pip install 'medsegzoo[video]'")


@dataclass(frozen=True)
class Frame:
    """One picture of a video.

    Attributes:
        number: from 0, in the order of the film.
        image: uint8 [H, W, 3], on the stored grid: where the video is turned, players turn it.
        time: when it is shown, in units of the video's ``time_base``.
    """

    number: int
    image: UInt8Array
    time: int


class Video:
    """Video file that is read from its beginning to its end, or for as far as it goes.

    Args:
        path: of the file.

    Attributes:
        width: of its frames.
        height: likewise.
        rate: frames a second, on average.
        time_base: seconds of a unit of time.
        turn: degrees, counterclockwise, by which players turn the pictures; known from the first frame on.
        read: frames read so far.
        damage: what kept the rest from being read; "" where nothing has.

    Raises:
        MissingError: there is no such file, or PyAV is not installed.
        SegzooError: it cannot be opened or holds no pictures.
    """

    def __init__(self, path: Path) -> None:
        require_file(path)
        require_pyav()
        import av

        self.path, self.turn, self.read, self.damage = path, 0, 0, ""
        try:
            self._container = av.open(str(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SegzooError(
                f"{path} cannot be opened as a video ({first_line(error)}): it is damaged, cut short or none"
            ) from error
        if not self._container.streams.video:
            raise SegzooError(f"{path} holds no video, only other streams")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.width, self.height = self._stream.width, self._stream.height
        IMAGE_PIXELS.check(self.width * self.height, f"a frame of {path} has")
        self.rate = Fraction(self._stream.average_rate or 25)
        self.time_base = Fraction(self._stream.time_base or 1 / self.rate)

    def __iter__(self) -> Iterator[Frame]:
        import av

        last = -1
        try:
            for frame in self._container.decode(self._stream):
                self.turn = frame.rotation
                step = round(1 / (self.rate * self.time_base))
                time = frame.pts if frame.pts is not None and frame.pts > last else last + max(1, step)
                last = time
                image = frame.to_ndarray(format="rgb24")
                if image.shape[:2] != (self.height, self.width):
                    self.damage = "its frames change their size"
                    break
                self.read += 1
                yield Frame(self.read - 1, image, time)
        except av.FFmpegError as error:
            self.damage = first_line(error)
        if not self.damage and self.ends_early(last):
            self.damage = "it promises more"
        if not self.read:
            raise SegzooError(f"no frame of {self.path} can be read ({self.damage or 'it is empty'})")

    def ends_early(self, last: int) -> bool:
        """Return whether there are fewer frames than the file's header says."""
        if self._stream.frames:
            return self.read < self._stream.frames
        if self._stream.duration is not None:
            promised = float(self._stream.duration * self.time_base)
        else:
            promised = (self._container.duration or 0) / 1e6
        return float((last - (self._stream.start_time or 0)) * self.time_base) + SLACK < promised

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()


class VideoWriter:
    """Video file that is written frame by frame, with the times and the turn of another one.

    Sides are made even, which players need, by repeating the last row or column.

    Args:
        path: of the file, .mp4.
        like: the video that the frames come from, one of which has been read.
        note: kept in the file's comment.
    """

    def __init__(self, path: Path, like: Video, note: str = "") -> None:
        import av

        self._container = av.open(str(path), "w")
        self._container.metadata["comment"] = note
        name = next(one for one in ENCODERS if one in av.codecs_available)
        stream: Any = self._container.add_stream(name, rate=like.rate)
        stream.pix_fmt, stream.time_base, stream.codec_context.time_base = "yuv420p", like.time_base, like.time_base
        stream.width, stream.height = like.width + like.width % 2, like.height + like.height % 2
        if name == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        if like.turn:
            stream.set_display_rotation(like.turn)
        self._stream, self._base = stream, like.time_base

    def write(self, image: UInt8Array, time: int) -> None:
        """Add a picture, uint8 [H, W, 3], to be shown at a time of the other video."""
        import av

        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = time, self._base
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is still held back, and the end."""
        self._container.mux(self._stream.encode(None))
        self._container.close()


def comment_of(path: Path) -> str | None:
    """Return the note of a video; "" where it has none, None where it cannot be read."""
    import av

    try:
        with av.open(str(path)) as container:
            return container.metadata.get("comment", "")
    except (av.FFmpegError, OSError, ValueError):
        return None
