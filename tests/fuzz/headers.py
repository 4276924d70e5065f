"""Headers of volumes, NIfTI, NRRD and MHA, that say odd things."""

import gzip
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from tests.fuzz.edits import BytesEdit, LineEdit, bytes_edits, edit_bytes, edit_lines
from tests.fuzz.materials import require_volume_mask, volume_checkpoint, voxels
from tests.fuzz.oracle import Order

SECRET = "secret.raw"
NRRD = """NRRD0004
# made for a test
type: short
dimension: 3
space: left-posterior-superior
sizes: 8 7 6
space directions: (1,0,0) (0,1,0) (0,0,1)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)"""
MHA = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
CenterOfRotation = 0 0 0
AnatomicalOrientation = RAI
ElementSpacing = 1 1 1
DimSize = 8 7 6
ElementType = MET_SHORT
ElementDataFile = LOCAL"""
VALUES = (
    "", "0", "-1", "1", "2", "4", "nan", "inf", "1e400", "1e-320", "1,5 1,5 1,5", "8 7", "8 7 6 5", "0 0 0", "-8 7 6",
    "99999 99999 99999", "4294967296 1 1", "9" * 50, "none", "LOCAL", "local", "LIST", "/etc/passwd", SECRET,
    "../" + SECRET, "./%d.raw 1 2 1", "MET_DOUBLE", "MET_UCHAR_ARRAY", "MET_OTHER", "double", "block", "uint64",
    "gzip", "gz", "bzip2", "hex", "ascii", "txt", "big", "True", "False", "(nan,0,0) (0,1,0) (0,0,1)",
    "(0,0,0) (0,0,0) (0,0,0)", "(1,1,0) (0,1,0) (0,0,1)", "none (1,0,0) (0,1,0)", "(1,0) (0,1)",
    "1 0 0 0 1 0 0 0 0", "1 1 0 0 1 0 0 0 1", "RAI", "LPS", "XYZ", "right-anterior-superior", "3D-right-handed",
    "vector domain domain", "RGB-color domain domain domain", "x" * 5000, "\u00e9", "\0", "1 2 3 4 5 6 7 8 9 10",
)  # fmt: skip
LINES = (
    "data file: " + SECRET, "datafile: /etc/passwd", "data file: LIST", "ElementDataFile = /etc/passwd",
    "ElementDataFile = " + SECRET, "elementdatafile=secret.raw", "byte skip: -1", "line skip: 5", "byteskip: 999999",
    "HeaderSize = -1", "HeaderSize = 99999999", "spacings: 1 1 1", "thicknesses: nan nan nan", "axis mins: 0 0 0",
    "space units: \"mm\" \"mm\" \"mm\"", "measurement frame: (nan,0,0) (0,1,0) (0,0,1)", "key:=value", "key:=", "",
    "no colon", "#", "min: 0", "old max: 3", "content: x", "CompressedDataSize = 99999999999", "Modality = MET_MOD_CT",
    "ElementNumberOfChannels = 3", "ElementNumberOfChannels = -1", "DimSize = 8 7 6", "NDims = 1000", "dimension: 17",
)  # fmt: skip
# fields of NIfTI-1: where, how packed
FIELDS = (
    (0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (68, "h"), (70, "h"), (72, "h"),
    (76, "f"), (80, "f"), (84, "f"), (88, "f"), (108, "f"), (112, "f"), (116, "f"), (123, "b"), (252, "h"), (254, "h"),
    (256, "f"), (260, "f"), (264, "f"), (268, "f"), (280, "f"), (284, "f"), (288, "f"), (296, "f"), (300, "f"),
    (312, "f"), (320, "f"), (344, "4s"),
)  # fmt: skip
NUMBERS = {
    "i": (0, 348, -348, 540, 1543569408, 2**31 - 1),
    "h": (0, 1, 2, 3, 4, 5, 7, 8, 16, 32, 64, 128, 256, 512, 768, 1792, 2304, -1, -8, 32767, -32768),
    "f": (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, 352.0, 348.0, 1e9, -1e9, float("nan"), float("inf"), float("-inf")),
    "b": (0, 1, 2, 10, -1, 127),
    "4s": (b"n+1\0", b"ni1\0", b"n+2\0", b"\0\0\0\0", b"xxxx"),
}


@dataclass(frozen=True)
class OddText:
    """``segzoo predict`` on a NRRD or MHA volume whose header lines are edited."""

    format: str
    edits: tuple[LineEdit, ...]
    bytes: tuple[BytesEdit, ...] = ()

    def lay(self, folder: Path) -> Order:
        lines = edit_lines((NRRD if self.format == "nrrd" else MHA).split("\n"), self.edits)
        header = "\n".join(lines) + ("\n\n" if self.format == "nrrd" else "\n")
        pixels = voxels().tobytes()
        (folder / SECRET).write_bytes(pixels)
        content = edit_bytes(header.encode("utf-8", "surrogateescape"), self.bytes) + pixels
        (folder / f"scan.{self.format}").write_bytes(content)
        return order(f"scan.{self.format}", points_elsewhere(self.format, content[: -len(pixels)].decode("latin-1")))


@dataclass(frozen=True)
class OddNifti:
    """``segzoo predict`` on a NIfTI volume with other fields in its header."""

    fields: tuple[tuple[int, int], ...] = ()
    bytes: tuple[BytesEdit, ...] = ()
    packed: bool = True

    def lay(self, folder: Path) -> Order:
        header = bytearray(nifti_header())
        for field, number in self.fields:
            at, kind = FIELDS[field % len(FIELDS)]
            struct.pack_into(f"<{kind}", header, at, NUMBERS[kind][number % len(NUMBERS[kind])])
        content = edit_bytes(bytes(header), self.bytes) + voxels().tobytes()
        name = "scan.nii.gz" if self.packed else "scan.nii"
        (folder / name).write_bytes(gzip.compress(content, 1) if self.packed else content)
        return order(name)


def nifti_header() -> bytes:
    """Return the 352 bytes before the voxels of a NIfTI-1 file of 8 x 7 x 6 16-bit numbers."""
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 8, 7, 6, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, 4, 16)
    struct.pack_into("<8f", header, 76, 1, 1, 1, 1, 0, 0, 0, 0)
    struct.pack_into("<fff", header, 108, 352, 1, 0)
    struct.pack_into("<b", header, 123, 2)
    struct.pack_into("<hh", header, 252, 1, 1)
    struct.pack_into("<12f", header, 280, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    struct.pack_into("<4s", header, 344, b"n+1\0")
    return bytes(header)


def points_elsewhere(format: str, header: str) -> bool:
    """Return whether a header names another file for its voxels, by the field that its format has for it."""
    field = r"data ?file[ \t]*:" if format == "nrrd" else r"ElementDataFile[ \t]*="
    named = re.findall(rf"^[ \t]*{field}[ \t]*(\S+)", header, re.MULTILINE | re.I)
    return any(name.lower() != "local" for name in named)


def order(name: str, refused: bool = False) -> Order:
    """Return the command on a volume."""

    def check(folder: Path, printed: str) -> None:
        (mask,) = (folder / "masks").iterdir()
        require_volume_mask(mask, folder / name)

    command = ["predict", str(volume_checkpoint()), name, "--output", "masks", "--device", "cpu"]
    return Order(command, ("masks/scan.*",), check, refused=refused)


lines = st.lists(
    st.tuples(
        st.sampled_from(["value", "value", "value", "insert", "delete", "repeat", "set"]),
        st.integers(0, 12),
        st.one_of(st.sampled_from(VALUES), st.sampled_from(LINES), st.text(max_size=10)),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
damage = st.one_of(st.just(()), st.just(()), bytes_edits())
cases = st.one_of(
    st.builds(OddText, st.sampled_from(["nrrd", "mha"]), lines, damage),
    st.builds(
        OddNifti,
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, 30)), max_size=4).map(tuple),
        damage,
        st.booleans(),
    ),
)
