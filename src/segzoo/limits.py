"""Limits on what a file, a checkpoint or a hub may ask for: each with its reason, its name and a way to raise it.

They are far above what scans and networks have, and below what stops a machine. The environment variable
``SEGZOO_MAX_<NAME>`` sets another one, such as ``SEGZOO_MAX_IMAGE_PIXELS=500000000``.
"""

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from segzoo.errors import SegzooError

CGROUP = Path("/sys/fs/cgroup")  # where containers and batch systems say what memory a process may have


@dataclass(frozen=True)
class Limit:
    """Largest amount of something that is taken.

    Args:
        name: of the limit, as its environment variable ends.
        default: the amount.
        unit: of it, in the plural.
        reason: why there is a limit, in a few words.

    Example:
        >>> from segzoo.limits import IMAGE_PIXELS
        >>> IMAGE_PIXELS.most, IMAGE_PIXELS.variable
        (200000000, 'SEGZOO_MAX_IMAGE_PIXELS')
    """

    name: str
    default: int
    unit: str
    reason: str

    @property
    def variable(self) -> str:
        """Environment variable that sets another amount."""
        return f"SEGZOO_MAX_{self.name}"

    @property
    def most(self) -> int:
        """Amount that is taken.

        Raises:
            SegzooError: the environment variable holds no whole number above 0.
        """
        said = os.environ.get(self.variable, "").strip()
        if not said:
            return self.default
        if not (said.isascii() and said.isdigit() and int(said) > 0):
            raise SegzooError(f"{self.variable} must be a whole number above 0, not {said!r}; set it anew or unset it")
        return int(said)

    def check(self, found: float, what: str) -> None:
        """Refuse more.

        Args:
            found: amount.
            what: begins the sentence before the amount: "scan.png has".

        Raises:
            SegzooError: saying so.
        """
        if not found <= self.most:  # NaN included
            raise SegzooError(
                f"{what} {found:,} {self.unit}, above the limit of {self.most:,} ({self.reason}); if that is meant, "
                f"set {self.variable} to as many"
            )


# ---- of checkpoints

JSON_BYTES = Limit("JSON_BYTES", 2**22, "bytes of JSON", "descriptions of networks have some thousand")
JSON_DEPTH = Limit("JSON_DEPTH", 32, "levels of nesting", "descriptions of networks have five")
MODEL_NUMBER = Limit("MODEL_NUMBER", 2**16, "as one number of a model", "no width, depth or count is larger")
MODEL_NUMBERS = Limit("MODEL_NUMBERS", 1000, "numbers for one model", "published checkpoints have at most 7")
CLASSES = Limit("CLASSES", 1024, "classes", "no dataset has as many, and each is a picture of its own")
NETWORK_INPUT = Limit("NETWORK_INPUT", 2**24, "pixels or voxels", "what a network sees at once is some 100,000")
FILES = Limit("FILES", 100, "files", "published checkpoints list at most four")
PARAMETERS = Limit("PARAMETERS", 10**9, "parameters", "the zoo's largest network has 141 million")
TENSORS = Limit("TENSORS", 10**5, "parameter tensors", "the zoo's largest network has 658")

# ---- of images and volumes

IMAGE_PIXELS = Limit("IMAGE_PIXELS", 2 * 10**8, "pixels", "a decoded picture stays below 1 GB")
PIXELS_IN_FLIGHT = Limit("PIXELS_IN_FLIGHT", 2**26, "pixels", "a folder of large pictures is gone through one by one")
ANNOTATION_BYTES = Limit("ANNOTATION_BYTES", 2**30, "bytes of annotations", "those of COCO's 118,287 images are fewer")
TABLE_BYTES = Limit("TABLE_BYTES", 2**27, "bytes of a table", "a line for each of a million images has fewer")
VOXELS = Limit("VOXELS", 2**31, "voxels", "8 GiB in float32; no scanner makes as many")
HEADER_BYTES = Limit("HEADER_BYTES", 2**20, "bytes of header", "volumes have some hundred")
DICOM_FILES = Limit("DICOM_FILES", 2**20, "DICOM files", "hundreds of studies have some hundred thousand")
DICOM_FRAMES = Limit("DICOM_FRAMES", 2**17, "frames", "an hour of ultrasound has fewer")
TAIL_BYTES = Limit(
    "TAIL_BYTES", 2**20, "bytes after its voxels", "such a tail means nothing, and may unpack without end"
)

# ---- of hubs

DOWNLOAD_BYTES = Limit("DOWNLOAD_BYTES", 2**33, "bytes", "the largest that is published has 29 MB")
DOWNLOAD_SECONDS = Limit("DOWNLOAD_SECONDS", 6 * 60 * 60, "seconds", "what takes longer does not end")
DOWNLOAD_SILENCE = Limit("DOWNLOAD_SILENCE", 120, "seconds for 100 kB", "a server that slow does not end")
UPLOAD_SECONDS = Limit("UPLOAD_SECONDS", 6 * 60 * 60, "seconds", "what takes longer does not end")
ANSWER_SECONDS = Limit("ANSWER_SECONDS", 60, "seconds", "a hub answers within one")

# ---- of processes

WORKER_SILENCE = Limit("WORKER_SILENCE", 600, "seconds without progress", "no file and no window of one takes as long")

# ---- memory


def memory_left() -> int:
    """Return the bytes that this process may still take: of the machine, of its container, of its own limit.

    Endless where nothing tells, as under torch.hub, which does not install psutil.
    """
    try:
        import psutil
    except ImportError:
        return sys.maxsize
    left: list[int] = [psutil.virtual_memory().available]
    with suppress(OSError, ValueError):  # no such system, or "max"
        left.append(int((CGROUP / "memory.max").read_text()) - int((CGROUP / "memory.current").read_text()))
    try:
        import resource
    except ImportError:  # Windows
        return max(0, min(left))
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        left.append(most - psutil.Process().memory_info().vms)
    return max(0, min(left))


def require_memory(needed: int, what: object) -> None:
    """Refuse what would not fit, before the system ends the process over it.

    Args:
        needed: bytes.
        what: is worked on, such as a file.

    Raises:
        SegzooError: saying so.
    """
    if needed > (left := memory_left()):
        raise SegzooError(
            f"there is not enough memory for {what}: it needs about {needed / 2**30:.1f} GiB, and {left / 2**30:.1f} "
            "GiB are free; close other programs, or take a machine with more"
        )
