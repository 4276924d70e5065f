"""What stored values mean is the same whatever opened the file: Pillow, tifffile or somebody's own program."""

import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from segzoo.errors import SegzooError
from segzoo.imaging import decoding
from segzoo.imaging.images import as_image, image_size, read_image
from segzoo.imaging.masks import palette, read_mask

ROWS, COLUMNS = np.mgrid[:48, :64]
RED = (3 * COLUMNS + 2 * ROWS) % 256
COLOURS = np.stack([RED, 255 - RED, np.full_like(RED, 90)], axis=-1).astype(np.uint8)
GREYS = COLOURS[..., 0]
OBJECT = np.zeros((48, 64), bool)
OBJECT[8:20, 10:22] = True
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = range(4)


def write_tiff(path: Path, strips: list[bytes], shape: tuple[int, ...], bits: int, order: str = "<", **tags) -> Path:
    """Write a TIFF of one page as its specification has it: strips, then tags, for what Pillow does not write."""
    height, width, samples = (*shape, 1)[:3]
    entries = {256: width, 257: height, 258: (bits,) * samples, 259: 1, 262: RGB if samples > 2 else BLACK_IS_ZERO}
    entries |= {277: samples, 278: height, 284: 1} | {int(tag[1:]): value for tag, value in tags.items()}
    entries |= {273: tuple(8 + sum(map(len, strips[:i])) for i in range(len(strips))), 279: tuple(map(len, strips))}
    data = b"".join(strips)
    start = 8 + len(data)
    directory, more = b"", b""
    wanted = sorted((tag, value) for tag, value in entries.items() if value is not None)
    for tag, value in wanted:
        values = value if isinstance(value, tuple) else (value,)
        kind = "I" if tag in (273, 279) else "H"
        stored = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(stored) > 4:
            place = struct.pack(f"{order}I", start + 2 + 12 * len(wanted) + 4 + len(more))
            more += stored
        else:
            place = stored.ljust(4, b"\0")
        directory += struct.pack(f"{order}HHI", tag, 4 if kind == "I" else 3, len(values)) + place
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    path.write_bytes(header + data + struct.pack(f"{order}H", len(wanted)) + directory + bytes(4) + more)
    return path


def contiguous(pixels: np.ndarray) -> list[bytes]:
    return [pixels.tobytes()]


def planes(pixels: np.ndarray) -> list[bytes]:
    return [np.ascontiguousarray(pixels[..., band]).tobytes() for band in range(pixels.shape[2])]


@pytest.fixture(params=["Pillow", "tifffile"])
def opener(request, monkeypatch) -> str:
    """Have files opened by Pillow, or by tifffile since Pillow refuses them."""
    if request.param == "tifffile":
        pytest.importorskip("tifffile")

        def refuse(file: object) -> Image.Image:
            raise UnidentifiedImageError("cannot identify image file")

        monkeypatch.setattr(decoding.Image, "open", refuse)
    return request.param


# ---- one meaning


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stored", [contiguous, planes])
def test_16_bit_colours_are_right_in_one_plane_and_in_three(tmp_path, opener, stored, order):
    pixels = COLOURS.astype(f"{order}u2") * 257
    path = write_tiff(tmp_path / "a.tif", stored(pixels), pixels.shape, 16, order, t284=2 if stored is planes else 1)
    np.testing.assert_array_equal(read_image(path), COLOURS)
    np.testing.assert_array_equal(read_image(path, 3, (0, 65535)), COLOURS)
    assert image_size(path) == (48, 64)


def test_planes_that_pillow_has_read_already_are_refused(tmp_path, refused):
    path = write_tiff(tmp_path / "a.tif", planes(COLOURS.astype("<u2") * 257), COLOURS.shape, 16, t284=2)
    image = Image.open(path)
    np.testing.assert_array_equal(as_image(image), COLOURS)
    image = Image.open(path)
    image.load()
    with refused(SegzooError):
        as_image(image)


@pytest.mark.parametrize(("bits", "dtype"), [(8, "u1"), (16, "<u2")])
@pytest.mark.parametrize("plane", [1, 2])
def test_a_negative_is_turned_positive(tmp_path, opener, bits, dtype, plane):
    white = 2**bits - 1
    stored = np.where(OBJECT, 0, white).astype(dtype)
    path = write_tiff(tmp_path / "a.tif", contiguous(stored), stored.shape, bits, t262=WHITE_IS_ZERO, t284=plane)
    if (opener, plane) == ("Pillow", 2):  # of one plane it forgets that it is a negative
        pytest.importorskip("tifffile")
    np.testing.assert_array_equal(read_mask(path, binary=True), OBJECT * white)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], OBJECT * 255)


def test_a_negative_of_one_plane_is_not_read_inverted_without_tifffile(tmp_path, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    path = write_tiff(tmp_path / "a.tif", contiguous(GREYS), GREYS.shape, 8, t262=WHITE_IS_ZERO, t284=2)
    with refused(SegzooError):
        read_mask(path)


@pytest.mark.parametrize("bits", [2, 4])
def test_classes_in_few_bits_are_read_as_stored_and_seen_as_shades(tmp_path, opener, bits):
    classes = (COLUMNS % 2**bits).astype(np.uint8)
    packed = np.packbits(np.unpackbits(classes[..., None], axis=-1)[..., -bits:].reshape(48, -1), axis=-1)
    path = write_tiff(tmp_path / "a.tif", [packed.tobytes()], classes.shape, bits)
    if opener == "tifffile":
        pytest.importorskip("imagecodecs")
    np.testing.assert_array_equal(read_mask(path), classes)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], classes * (255 // (2**bits - 1)))


def test_12_bits_that_a_tiff_states_are_its_full_range(tmp_path):
    values = COLUMNS[:2] * 65
    halves = np.stack([values >> 8, values >> 4 & 15, values & 15], axis=-1).reshape(2, -1)  # four bits each
    packed = (halves[:, ::2] << 4 | halves[:, 1::2]).astype(np.uint8)
    path = write_tiff(tmp_path / "a.tif", [packed.tobytes()], values.shape, 12)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], np.round(values / 4095 * 255))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_palette_is_one_in_every_format(tmp_path, suffix):
    colours = [0, 0, 0, 255, 0, 0, 0, 255, 0]
    image = Image.fromarray((COLUMNS % 3).astype(np.uint8), mode="P")
    image.putpalette(colours)
    image.save(path := tmp_path / f"a.{suffix}")
    assert b"".join(palette(path)[:3]) == bytes(colours)
    np.testing.assert_array_equal(read_image(path)[0, :3], [[0, 0, 0], [255, 0, 0], [0, 255, 0]])
    np.testing.assert_array_equal(read_mask(path), COLUMNS % 3)
    assert palette(grey_file(tmp_path / "b.png", 257)) == []


def test_a_palette_that_tifffile_opens(tmp_path, opener):
    table = np.zeros((3, 256), np.uint16)
    table[0, 1] = table[1, 2] = 65535
    indices = (COLUMNS % 3).astype(np.uint8)
    path = write_tiff(
        tmp_path / "a.tif", contiguous(indices), indices.shape, 8, t262=PALETTE, t320=tuple(table.ravel().tolist())
    )
    assert palette(path)[:3] == [b"\0\0\0", b"\xff\0\0", b"\0\xff\0"]
    np.testing.assert_array_equal(read_mask(path), indices)
    np.testing.assert_array_equal(read_image(path)[0, :3], [[0, 0, 0], [255, 0, 0], [0, 255, 0]])


@pytest.mark.parametrize("turn", [1, 6])
def test_the_grid_is_the_stored_one(tmp_path, opener, turn):
    path = write_tiff(tmp_path / "a.tif", contiguous(COLOURS), COLOURS.shape, 8, t274=turn)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_image(path), COLOURS)
    assert [str(path) in str(one.message) for one in told] == [True] * (turn != 1)
    assert image_size(path) == (48, 64)


@pytest.mark.parametrize(
    ("pixels", "bits", "tags"),
    [
        (GREYS, 8, {"t262": None}),  # black or white?
        (GREYS.astype("<f4"), 32, {"t262": WHITE_IS_ZERO, "t339": 3}),  # what is its white?
        (GREYS.astype("i1"), 8, {"t339": 2}),
    ],
    ids=["no photometric", "float negative", "signed bytes"],
)
def test_what_does_not_say_what_its_values_mean_is_refused(tmp_path, pixels, bits, tags, refused):
    path = write_tiff(tmp_path / "a.tif", contiguous(pixels), pixels.shape, bits, **tags)
    for read in (read_image, read_mask):
        with refused(SegzooError):
            read(path)


def test_several_pages_are_refused_whatever_opens_them(tmp_path, opener):
    page = Image.fromarray(GREYS)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    for read in (read_image, read_mask):
        with pytest.raises(SegzooError, match=r"a\.tif has 3 pages"):
            read(tmp_path / "a.tif")


def test_an_animated_png_is_refused(tmp_path):
    Image.fromarray(GREYS).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(GREYS // 2)])
    with pytest.raises(SegzooError, match=r"a\.png has 2 pages"):
        read_mask(tmp_path / "a.png")


# ---- intensities of more than 8 bits


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path: Path, pixels: np.ndarray) -> Path:
    """Write a PNG of 16 bits a colour, which Pillow reads and does not write."""
    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks))
    return path


def grey_file(path: Path, scale: int) -> Path:
    Image.fromarray(GREYS.astype(np.uint16) * scale).save(path)
    return path


def colour_file(path: Path, scale: int) -> Path:
    return deep_png(path, COLOURS.astype(np.uint16) * scale)


def in_memory(path: Path, scale: int) -> np.ndarray:
    return np.dstack([COLOURS.astype(np.uint16) * scale, np.full((48, 64), 65535, np.uint16)])  # opaque


@pytest.mark.parametrize("made", [grey_file, colour_file, in_memory])
@pytest.mark.parametrize("bits", [12, 14])
def test_a_range_is_the_way_out_of_unused_bits(tmp_path, made, bits):
    given = made(tmp_path / "a.png", 2 ** (bits - 8))
    read: Callable = as_image if made is in_memory else read_image
    shown = np.repeat(GREYS[..., None], 3, axis=2) if made is grey_file else COLOURS
    if bits == 12:
        with pytest.raises(SegzooError, match=r"intensity_range .* 0 and 4095"):
            read(given)
    else:
        with pytest.warns(match=r"of 65535, so it is read as one of 0..64; .* intensity_range .* 0 and 16383"):
            assert read(given).max() in (63, 64)  # of colours in a file the high byte
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read(given, 3, (0, 255 * 2 ** (bits - 8))), shown)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        (np.array([[-1000, 0, 500, 2000]], np.int16), [0, 128, 191, 255]),
        (np.array([[-1000, 0, 500, 2000]], np.float32), [0, 128, 191, 255]),
        (np.array([[0, 100, 250]], np.uint8), [0, 100, 250]),
        (np.array([[False, True]]), [0, 255]),
    ],
)
def test_a_range_scales_and_cuts_off_what_has_more_than_8_bits(values, seen):
    assert as_image(values, 1, (-1000, 1000)).ravel().tolist() == seen


def test_an_image_wholly_outside_of_the_range_is_warned_of(tmp_path):
    with pytest.warns(match=r"a\.png.*4096\.\.\d+ all lie outside .* 0\.\.4095"):
        read_image(deep_png(tmp_path / "a.png", COLOURS.astype(np.uint16) + 4096), 1, (0, 4095))


def test_16_bits_with_transparency_cannot_be_read_whole(tmp_path, refused):
    grey_alpha = np.dstack([GREYS, GREYS]).astype(np.uint16) * 257
    with refused(SegzooError):
        read_image(deep_png(tmp_path / "a.png", grey_alpha), 1, (0, 4095))


# ---- limits


def test_a_picture_above_the_limit_is_refused_by_its_header(tmp_path):
    header = struct.pack(">IIBBBBB", 30000, 20000, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"none"))
    for read in (read_image, read_mask, image_size):
        with pytest.raises(SegzooError, match=r"a\.png has 600,000,000 .* SEGZOO_MAX_IMAGE_PIXELS"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_the_limit_stands_in_place_of_pillows_which_others_keep(tmp_path, monkeypatch, suffix):
    Image.fromarray(GREYS).save(path := tmp_path / f"a.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_mask(path), GREYS)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_picture_that_the_memory_does_not_hold_is_refused(tmp_path):
    Image.new("RGB", (5000, 5000)).save(tmp_path / "a.png")
    code = """
import resource, sys, psutil
from segzoo import SegzooError
from segzoo.imaging.images import read_image
left = psutil.Process().memory_info().vms + 2**28
resource.setrlimit(resource.RLIMIT_AS, (left, left))
try:
    read_image(sys.argv[1])
except SegzooError as error:
    print(error, "torch" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "not enough memory" in said
    assert "a.png" in said
    assert said.endswith("False\n")


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_without_end_is_one_sentence(tmp_path, kind):
    bomb = zlib.compress(bytes(2**23))
    text = b"k\0\0" + bomb if kind == b"zTXt" else b"k\0\1\0\0\0" + bomb
    Image.fromarray(GREYS).save(tmp_path / "a.png")
    raw = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(raw[:33] + chunk(kind, text) + raw[33:])
    for read in (read_image, read_mask, image_size):
        with pytest.raises(SegzooError, match=r"a\.png"):
            read(tmp_path / "a.png")
