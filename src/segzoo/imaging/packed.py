"""Checks of packed volume files before SimpleITK reads them."""

import itertools
import zlib
from io import BufferedIOBase
from pathlib import Path

from segzoo.imaging.geometry import unreadable

CHUNK = 1 << 20
HEADER_LINES = 1000  # at most


def is_gzipped(path: Path) -> bool:
    """Return whether a file is packed, whatever its name says."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def check_packed(path: Path) -> None:
    """Unpack the voxels of an MHA or NRRD file once: of a damaged stream SimpleITK gives what it likes."""
    with path.open("rb") as file:
        if not announces_packed(text_header(file)):
            return
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # as zlib or as gzip has it
        try:
            while chunk := file.read(CHUNK):
                unpacking.decompress(chunk)
        except zlib.error as error:
            raise unreadable(path) from error
        if not unpacking.eof:
            raise unreadable(path)


def text_header(file: BufferedIOBase) -> dict[bytes, bytes]:
    """Return the fields of an MHA or NRRD file's header, in small letters; the file is left where the voxels start."""
    fields: dict[bytes, bytes] = {}
    for line in itertools.islice(file, HEADER_LINES):
        name, _, value = line.replace(b":", b"=", 1).partition(b"=")
        fields[name.strip().lower()] = value.strip().lower()
        if not line.strip() or line.startswith(b"ElementDataFile"):  # the last line of NRRD, and of MHA
            break
    return fields


def announces_packed(fields: dict[bytes, bytes]) -> bool:
    """Return whether nothing but compressed voxels follows a header."""
    if b"elementdatafile" in fields:
        return fields[b"elementdatafile"] == b"local" and fields.get(b"compresseddata") == b"true"
    elsewhere = {b"data file", b"datafile", b"line skip", b"lineskip", b"byte skip", b"byteskip"} & fields.keys()
    return not elsewhere and fields.get(b"encoding") in (b"gzip", b"gz")
