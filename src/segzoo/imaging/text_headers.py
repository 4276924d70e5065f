"""Checks of NRRD and MHA files before SimpleITK reads them.

Their headers are text that may name another file to take the voxels from, and of a damaged stream of packed voxels
SimpleITK gives what it likes.
"""

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.geometry import unreadable, warn_of_no_place

CHUNK = 1 << 20
NRRD_END = re.compile(rb"\n\r?\n")  # an empty line
MHA_END = b"elementdatafile"  # the field, in small letters, whose line is the last one
LOCAL = re.compile(rb"\nElementDataFile[ \t]*[=:][ \t]*(LOCAL|Local|local)[ \t]*\r?\n\Z")
SIGNS = re.compile(r"\b(un)?signed |\bu(?=\w)|_t\b|(?<=\w) int\b")  # what NRRD's names of types have more than a size
WIDTHS = {  # in bytes, of a component, without these
    **dict.fromkeys(("char", "int8", "met_char", "met_uchar"), 1),
    **dict.fromkeys(("short", "int16", "met_short", "met_ushort"), 2),
    **dict.fromkeys(("int", "int32", "float", "met_int", "met_uint", "met_float"), 4),
    **dict.fromkeys(("longlong", "long long", "int64", "double", "met_double", "met_long_long", "met_ulong_long"), 8),
}
WIDEST = 8
PATIENT = re.compile(r"(right|left)-(anterior|posterior)-superior(-time)?|(ras|las|lps)t?")  # spaces of the body


@dataclass(frozen=True)
class TextHeader:
    """Header of an NRRD or MHA file.

    Attributes:
        fields: its values, by names in small letters.
        length: its bytes, after which the voxels begin.
        nrrd: True of NRRD, False of MHA.
    """

    fields: dict[str, str]
    length: int
    nrrd: bool

    @property
    def sides(self) -> list[int] | None:
        """Voxels along each axis, of channels, too; None where it does not say."""
        said = self.fields.get("sizes" if self.nrrd else "dimsize", "").split()
        said += [] if self.nrrd else [self.fields.get("elementnumberofchannels", "1")]
        return [int(side) for side in said] if all(side.isascii() and side.isdigit() for side in said) else None

    @property
    def width(self) -> int | None:
        """Bytes of a component; None where they are not known."""
        said = self.fields.get("type" if self.nrrd else "elementtype", "").lower()
        return WIDTHS.get(SIGNS.sub("", said) if self.nrrd else said)

    @property
    def body(self) -> str:
        """Kind of what follows: "packed" voxels and nothing else, "raw" ones, or "other", which SimpleITK checks."""
        if {"line skip", "lineskip", "byte skip", "byteskip", "headersize"} & self.fields.keys():
            return "other"
        if self.nrrd:
            kinds = {"gzip": "packed", "gz": "packed", "raw": "raw"}
            return kinds.get(self.fields.get("encoding", "").lower(), "other")
        if self.fields.get("compresseddata", "").lower() == "true":
            return "packed"
        return "raw" if self.fields.get("binarydata", "").lower() == "true" else "other"

    @property
    def has_spacing(self) -> bool:
        """True where it says how large voxels are."""
        wanted = {"space directions", "spacings"} if self.nrrd else {"elementspacing", "elementsize"}
        return bool(wanted & self.fields.keys())

    @property
    def has_directions(self) -> bool:
        """True where it says where the axes lead to in the body."""
        if self.nrrd:
            return "space directions" in self.fields and bool(PATIENT.fullmatch(self.fields.get("space", "").lower()))
        return bool({"transformmatrix", "rotation", "orientation"} & self.fields.keys())


def read_text_header(path: Path, *, nrrd: bool) -> TextHeader:
    """Return the header of an NRRD or MHA file whose voxels are in the file itself.

    Raises:
        SegzooError: it is none, is larger than headers are, announces more voxels than volumes have, or names another
            file to take the voxels from.
    """
    most = limits.HEADER_BYTES.most
    with path.open("rb") as file:
        head = file.read(most + 1)
    if nrrd and not head.startswith(b"NRRD"):
        raise unreadable(path)
    length = nrrd_length(head) if nrrd else mha_length(head)
    header = TextHeader(dict(fields_of(head[:length])), length or len(head), nrrd)
    refuse_other_files(path, header, head[:length] if length is not None else None)
    if length is None:
        limits.HEADER_BYTES.check(len(head), f"{path} has")
        raise unreadable(path)
    if (sides := header.sides) is None:
        raise unreadable(path)
    limits.VOXELS.check(math.prod(sides), f"{path} has")
    return header


def nrrd_length(head: bytes) -> int | None:
    """Return the bytes of an NRRD file's header, up to an empty line; None where it does not end."""
    end = NRRD_END.search(head)
    return None if end is None else end.end()


def mha_length(head: bytes) -> int | None:
    """Return the bytes of an MHA file's header, the line that says where the voxels are included; None likewise."""
    said = head.lower().find(MHA_END)
    end = head.find(b"\n", said)
    return None if said < 0 else end + 1 if end >= 0 else len(head)


def fields_of(head: bytes) -> Iterator[tuple[str, str]]:
    """Yield names, in small letters, and values of a header's lines, whatever ends them."""
    for line in re.split(rb"[\r\n]+", head):
        name, *value = re.split(rb":=|[:=]", line, maxsplit=1)
        if value:
            yield name.strip().lower().decode("latin-1"), value[0].strip().decode("latin-1")


def refuse_other_files(path: Path, header: TextHeader, whole: bytes | None) -> None:
    """Refuse a header that names a file to take the voxels from: it might be any that this person may read.

    Args:
        path: of the file.
        header: its fields.
        whole: its bytes; None where it does not end.
    """
    if header.nrrd:
        named = header.fields.get("data file", header.fields.get("datafile"))
    elif whole is None or LOCAL.search(whole):
        named = None
    else:
        named = re.split(rb"[\r\n]+", whole.strip())[-1].decode("latin-1")
    if named is not None:
        raise SegzooError(
            f"{path} is a header that points to another file ({named[:80]!r}), which is not opened; save the volume as "
            "one file."
        )


def warn_of_text_header(path: Path, header: TextHeader) -> None:
    """Warn where a header does not say how large voxels are or how the patient lies."""
    warn_of_no_place(path, spacing=header.has_spacing, directions=header.has_directions)


def check_voxels(path: Path, header: TextHeader) -> None:
    """Find enough memory for the voxels, and what is packed to be whole: it is unpacked once.

    Raises:
        SegzooError: it is not.
    """
    count = math.prod(header.sides or ())
    limits.require_memory(count * (2 * (header.width or WIDEST) + 4), path)  # SimpleITK's, its copy, and as float32
    most = count * (header.width or WIDEST)
    if header.body == "raw" and header.width and path.stat().st_size < header.length + most:
        raise unreadable(path)
    if header.body != "packed":
        return
    unpacking, found = zlib.decompressobj(zlib.MAX_WBITS | 32), 0  # as zlib or as gzip has it
    with path.open("rb") as file:
        file.seek(header.length)
        try:
            while not unpacking.eof and (chunk := unpacking.unconsumed_tail or file.read(CHUNK)):
                found += len(unpacking.decompress(chunk, CHUNK))
                limits.TAIL_BYTES.check(max(0, found - most), f"{path} has")
            found += len(unpacking.flush())  # some hundred bytes, of what was read
        except zlib.error as error:
            raise unreadable(path) from error
    if not unpacking.eof or (header.width and found < most):
        raise unreadable(path)
