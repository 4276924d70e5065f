import struct
import sys
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from segzoo.errors import MissingError, SegzooError
from segzoo.imaging.images import as_image, image_files, image_size, read_image, read_note, write_mask
from segzoo.imaging.masks import read_mask

GREY = np.array([[0, 100, 255], [7, 8, 9]], np.uint8)
RGB = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def palette_image(path: Path, **options: object) -> Path:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([10, 20, 30, 255, 0, 0, 0, 255, 0])
    image.save(path, **options)
    return path


# ---- images


def test_read_grey_repeats_channels(tmp_path):
    path = save(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(read_image(path), np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, channels=1), GREY[..., None])


def test_read_rgb_to_grey_is_luminance(tmp_path):
    path = save(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(read_image(path), RGB)
    expected = np.asarray(Image.fromarray(RGB).convert("L")).astype(int)
    assert np.abs(read_image(path, channels=1)[..., 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("mode", "pixels"), [("LA", GREY), ("RGBA", RGB)])
def test_read_drops_alpha(tmp_path, mode, pixels):
    image = Image.fromarray(pixels).convert(mode)
    image.putalpha(Image.fromarray(np.full_like(GREY, 3)))  # nearly transparent: must not darken the colours
    image.save(tmp_path / "a.png")
    expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


def test_read_keeps_alpha_where_four_channels_are_asked_for(tmp_path):
    path = save(tmp_path / "a.png", RGB, "RGBA")
    assert (read_image(path, channels=4)[..., 3] == 255).all()


@pytest.mark.parametrize("options", [{}, {"transparency": 1}])
def test_read_palette_as_colours(tmp_path, options):
    path = palette_image(tmp_path / "a.png", **options)
    np.testing.assert_array_equal(read_image(path)[0], [[10, 20, 30], [255, 0, 0], [0, 255, 0]])


def test_read_one_bit(tmp_path):
    path = save(tmp_path / "a.png", GREY > 50)
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], (GREY > 50) * 255)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_read_16_bit_by_its_full_range(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", np.array([[0, 257, 4000, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(path, channels=1)[0, :, 0], [0, 1, 16, 255])
    assert image_size(path) == (1, 4)


def test_12_bits_saved_in_16_are_refused_and_not_read_as_black(tmp_path, refused):
    path = save(tmp_path / "a.png", np.array([[0, 257, 4000, 4095]], np.uint16))
    with refused(SegzooError):
        read_image(path)
    assert not read_image(save(tmp_path / "b.png", np.zeros((1, 4), np.uint16))).any()
    np.testing.assert_array_equal(read_mask(path), [[0, 257, 4000, 4095]])


def test_an_image_that_viewers_turn_is_read_as_stored_with_a_warning(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.png", RGB, exif=exif)
    with pytest.warns(UserWarning, match=r"a\.png is stored turned or mirrored"):
        np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_tiff_is_read_as_stored_too(tmp_path, orientation):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.tif", tiffinfo=tags)
    Image.fromarray(GREY).save(tmp_path / "mask.tif", tiffinfo=tags)
    with pytest.warns(match="stored turned") if orientation > 1 else nullcontext():
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif"), GREY)
    assert image_size(tmp_path / "a.tif") == RGB.shape[:2]


def test_a_16_bit_negative_is_turned_positive_as_an_8_bit_one_is(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    Image.fromarray(np.array([[0, 6553, 65535]], np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert read_image(tmp_path / "a.tif", 1).ravel().tolist() == [255, 230, 0]


def write_deep_png(path: Path, pixels: np.ndarray) -> Path:
    """An RGB PNG of 16 bits a colour, which Pillow reads and cannot write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_12_bits_a_colour_saved_in_16_are_refused(tmp_path, refused):
    deep = RGB.astype(np.uint16)
    np.testing.assert_array_equal(read_image(write_deep_png(tmp_path / "a.png", deep * 257)), RGB)
    with refused(SegzooError):
        read_image(write_deep_png(tmp_path / "b.png", deep * 16))


def test_read_tiff_that_pillow_rejects(tmp_path):
    """Three channels of floats here; CVC-ClinicDB's originals have such a header too."""
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", RGB.astype(np.float32), photometric="rgb")
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)
    assert image_size(tmp_path / "a.tif") == (2, 3)


def test_tiff_that_needs_tifffile_says_so(tmp_path, monkeypatch, refused):
    pytest.importorskip("tifffile").imwrite(tmp_path / "a.tif", RGB.astype(np.float32), photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for read in (read_image, read_mask, image_size):
        with refused(SegzooError):
            read(tmp_path / "a.tif")


def test_read_cmyk_jpeg(tmp_path):
    path = save(tmp_path / "a.jpg", np.full((8, 8, 3), 200, np.uint8), "CMYK")
    assert np.abs(read_image(path).astype(int) - 200).max() <= 3


def test_read_refuses_pages(tmp_path, refused):
    page = Image.fromarray(GREY)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    with refused(SegzooError):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_read_corrupt_names_the_file(tmp_path, name, refused):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:2000])
    with refused(SegzooError):
        read_image(path)
    path.write_text("not an image")
    with refused(SegzooError):
        read_image(path)


def test_a_format_that_pillow_knows_in_part_is_one_sentence(tmp_path, refused):
    header = struct.pack("<7I44x2I", 124, 0x1007, 16, 16, 0, 0, 0, 32, 4)
    (tmp_path / "a.png").write_bytes(b"DDS " + header + b"XXXX" + bytes(40))
    for read in (read_image, read_mask, image_size):
        with refused(SegzooError):
            read(tmp_path / "a.png")
    assert read_note(tmp_path / "a.png") is None


def test_an_image_of_too_many_pixels_is_not_called_damaged(tmp_path, monkeypatch, refused):
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    monkeypatch.setenv("SEGZOO_MAX_IMAGE_PIXELS", "2499")
    for read in (read_image, read_mask, image_size):
        with refused(SegzooError):
            read(tmp_path / "a.png")


def test_a_tiff_with_a_page_of_no_size_is_one_sentence(tmp_path, refused):
    raw = bytearray(save(tmp_path / "a.tif", RGB).read_bytes())
    (page,) = struct.unpack_from("<I", raw, 4)
    (entries,) = struct.unpack_from("<H", raw, page)
    struct.pack_into("<I", raw, page + 2 + 12 * entries, len(raw))  # the next page
    (tmp_path / "a.tif").write_bytes(raw + bytes(6))  # has no entries
    for read in (read_image, read_mask):
        with refused(SegzooError):
            read(tmp_path / "a.tif")


def test_read_missing(tmp_path, refused):
    for read in (read_image, read_mask, image_size):
        with refused(MissingError):
            read(tmp_path / "a.png")


def test_read_wrong_channels_names_the_file(tmp_path, refused):
    with refused(SegzooError):
        read_image(save(tmp_path / "a.png", RGB), channels=5)


# ---- images in memory


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        RGB.astype(np.int64),
        RGB.astype(np.float32),
        RGB.astype(np.uint16) * 257,
        (RGB.astype(np.uint16) * 257).astype(">u2"),
        torch.from_numpy(RGB).permute(2, 0, 1),
        torch.from_numpy(RGB).permute(2, 0, 1).bfloat16() * 1,
        Image.fromarray(RGB),
        np.dstack([RGB, GREY]),
    ],
    ids=["uint8", "int64", "float32", "uint16", "big-endian", "tensor", "bfloat16", "PIL", "RGBA"],
)
def test_as_image_forms(image):
    found = as_image(image).astype(int)
    tolerance = 1 if isinstance(image, torch.Tensor) and image.dtype == torch.bfloat16 else 0
    assert found.shape == (2, 3, 3)
    assert np.abs(found - RGB).max() <= tolerance


def test_as_image_grey_forms():
    for image in (GREY, GREY[..., None], torch.from_numpy(GREY), torch.from_numpy(GREY)[None], Image.fromarray(GREY)):
        np.testing.assert_array_equal(as_image(image, channels=1), GREY[..., None])
    np.testing.assert_array_equal(as_image(GREY > 50, channels=1)[..., 0], (GREY > 50) * 255)


def test_as_image_unit_floats_warn():
    with pytest.warns(UserWarning, match="read as 0..1"):
        found = as_image(GREY / 255.0, channels=1)
    np.testing.assert_array_equal(found[..., 0], GREY)


@pytest.mark.filterwarnings("error")
def test_as_image_black_floats_do_not_warn():
    assert (as_image(np.zeros((2, 2))) == 0).all()


@pytest.mark.parametrize(
    "image",
    [
        np.array([[0.0, np.nan]]),
        np.array([[0.0, np.inf]]),
        np.array([[-1.0, 2.0]]),
        np.array([[0, 1000]]),
        np.zeros((2, 2, 2, 3)),
        np.zeros((0, 4)),
        np.zeros((4, 4, 5), np.uint8),
        np.array([["a"]]),
        np.array([[0, 0.5, 1.001]], np.float32),
    ],
)
def test_as_image_refuses(image, refused):
    with refused(SegzooError):
        as_image(image)


# ---- masks


def test_mask_keeps_stored_values(tmp_path):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", GREY)), GREY)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "b.png", GREY > 50)), GREY > 50)
    assert read_mask(tmp_path / "b.png").dtype == np.uint8
    np.testing.assert_array_equal(read_mask(palette_image(tmp_path / "c.png")), [[0, 1, 2]])
    wide = np.array([[0, 1, 40000]], np.uint16)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "d.png", wide)), wide)
    np.testing.assert_array_equal(read_mask(save(tmp_path / "e.tif", wide.astype(np.float32))), wide)


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_mask_of_equal_channels(tmp_path, mode):
    np.testing.assert_array_equal(read_mask(save(tmp_path / "a.png", GREY, mode)), GREY)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_mask_with_a_shape_in_its_transparency_is_refused(tmp_path, mode, refused):
    def with_alpha(grey: np.ndarray, alpha: np.ndarray) -> Path:
        channels = [grey] * (len(mode) - 1) + [alpha]
        return save(tmp_path / "a.png", np.stack(channels, axis=-1).astype(np.uint8))

    shape = np.array([[0, 0, 255, 255]])
    for grey in (shape * 0, shape * 0 + 255, shape[:, [0, 2, 2, 0]]):
        with refused(SegzooError):
            read_mask(with_alpha(grey, shape))
    for grey in (shape, shape // 255):  # alpha follows the grey values
        np.testing.assert_array_equal(read_mask(with_alpha(grey, shape)), grey)
    for alpha in (0, 7, 255):
        np.testing.assert_array_equal(read_mask(with_alpha(shape, shape * 0 + alpha)), shape)


def test_mask_refuses_colours_and_fractions(tmp_path, refused):
    with refused(SegzooError):
        read_mask(save(tmp_path / "a.png", RGB))
    with refused(SegzooError):
        read_mask(save(tmp_path / "a.tif", np.array([[0.5]], np.float32)))


@pytest.mark.parametrize("values", [[0, 1, 255], [0, 256, 65535]])
def test_mask_round_trip(tmp_path, values):
    path = tmp_path / "new" / "a.png"
    write_mask(path, np.array([values]))
    np.testing.assert_array_equal(read_mask(path), [values])
    with Image.open(path) as image:
        assert image.mode == ("L" if max(values) < 256 else "I;16")


def test_write_mask_refuses(tmp_path, refused):
    for mask in (np.array([[-1]]), np.array([[0.5]]), np.array([1])):
        with refused(SegzooError):
            write_mask(tmp_path / "a.png", mask)


# ---- folders


def test_image_files_are_sorted_and_visible(tmp_path, refused):
    for name in ("b.JPG", "a.png", "._a.png", "notes.txt", "c.tiff", ".DS_Store"):
        (tmp_path / name).touch()
    assert [p.name for p in image_files(tmp_path)] == ["a.png", "b.JPG", "c.tiff"]
    with refused(MissingError):
        image_files(tmp_path / "none")
