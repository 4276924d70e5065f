"""Image files <-> arrays: pictures in, masks out.

Images are read for what a person sees: 8 bits a channel, palette and alpha resolved. EXIF orientation is not applied:
masks belong to the stored pixel grid. What a mask file stores is read in masks.py.
"""

import os
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.strips import array_of
from segzoo.imaging.volumes import no_volume

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
UInt8Array = npt.NDArray[np.uint8]
# What Pillow raises for truncated, garbled or absurdly large files, by format, of which it knows dozens.
DECODING_ERRORS = (
    *(OSError, SyntaxError, TypeError, ValueError, EOFError, LookupError, ArithmeticError, RuntimeError),
    *(AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
TWELVE_BITS = 4096  # of values: what scanners give, often saved in 16 bits as it is
_WIDTH, _LENGTH, _PHOTOMETRIC, _ORIENTATION = 256, 257, 262, 274  # tags of TIFF, the last one also of EXIF
_WHITE_IS_ZERO = 0  # the photometric interpretation of a negative
_TURNED_BACK = {  # from the orientation by which Pillow turns a TIFF to what turns it back
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's mode "L"
_NOTE = "segzoo"  # the keyword of a PNG's note
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class ImageFile:
    """Picture as an input, and as a mask or an overlay; see :class:`segzoo.imaging.readers.Reader`."""

    folders: ClassVar[bool] = False
    large: ClassVar[bool] = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stem = path.stem
        self.mask_name = f"{path.stem}.png"

    @staticmethod
    def accepts(path: Path) -> bool:
        """Return whether a file's name is that of an image."""
        return path.suffix.lower() in IMAGE_SUFFIXES

    def for_images(self, channels: int) -> UInt8Array:
        """Read it for a model of images."""
        return read_image(self.path, channels)

    def for_volumes(self, channels: int) -> Any:
        """Refuse it where a model takes volumes."""
        raise no_volume(self.path)

    def note(self) -> str | None:
        """Return the note that it was written with, as `read_note` does."""
        return read_note(self.path)


# ---- read


def image_files(folder: str | Path) -> list[Path]:
    """Return the image files directly inside a folder, by name; hidden files (``._x.png`` of macOS) are left out.

    Raises:
        MissingFileError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}.")
    return sorted(path for path in folder.iterdir() if ImageFile.accepts(path) and not path.name.startswith("."))


def read_image(path: str | Path, channels: int = 3) -> UInt8Array:
    """Read an image file of any usual mode.

    Palette images become RGB, alpha is dropped, 1-bit becomes 0/255, 16 bits are scaled by their full range. Of one
    that is stored turned (EXIF), which viewers turn back, the stored pixels are read, with a warning.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        channels: 1 (RGB becomes grey), 3 (grey is repeated), or exactly as many as the file has.

    Returns:
        uint8 array ``[H, W, channels]``.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it cannot be decoded, has several pages or the wrong number of channels, or 16 bits of which
            only 12 are used.
    """
    path = Path(path)
    pixels = decode(path, _intensities)
    try:
        return as_image(pixels, channels)
    except SegzooError as error:
        raise SegzooError(f"{path}: {error}") from error


def as_image(image: Any, channels: int = 3) -> UInt8Array:
    """Bring an image in memory to the form that `read_image` gives.

    Args:
        image: PIL image; array ``[H, W]`` or ``[H, W, C]``; tensor ``[H, W]`` or ``[C, H, W]``. Intensities: booleans,
            0..255, uint16 by its full range, or floats, which count as 0..1 (with a warning) when none exceeds 1.
        channels: As in `read_image`.

    Returns:
        uint8 array ``[H, W, channels]``.

    Raises:
        SegzooError: For another shape, NaN or infinity, intensities outside 0..255 or the wrong number of channels.
    """
    if isinstance(image, Image.Image):
        pixels = pixels_of(image, for_mask=False)
    elif is_tensor(image):
        tensor = image.detach().cpu()
        pixels = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
        pixels = np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels
    else:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise SegzooError(
            f"An image must be an array [H, W] or [H, W, C] or a tensor [H, W] or [C, H, W], not of shape "
            f"{list(pixels.shape)}."
        )
    return np.ascontiguousarray(_match_channels(_to_uint8(pixels), channels))


def is_tensor(value: Any) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return height and width as the file's header says, without decoding the pixels.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it is no readable image.
    """
    path = Path(path)
    require_file(path)
    try:
        with Image.open(path) as image:
            if image.format == "TIFF":  # whose size Pillow turns, as it turns the pixels
                tags: Any = image
                return tags.tag_v2[_LENGTH], tags.tag_v2[_WIDTH]
            return image.height, image.width
    except DECODING_ERRORS as error:
        height, width = _decode_tiff(path, error).shape[:2]
        return height, width


def _to_uint8(pixels: npt.NDArray[Any]) -> UInt8Array:
    """Bring intensities of any dtype to 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of either byte order
        if 0 < (brightest := int(pixels.max())) < TWELVE_BITS:
            raise SegzooError(_nearly_black(brightest))
        return np.round(pixels / 257.0).astype(np.uint8)  # 65535 -> 255
    if pixels.dtype.kind not in "iuf":
        raise SegzooError(f"An image must hold numbers, not {pixels.dtype}.")
    if not np.isfinite(pixels).all():
        raise SegzooError("The image holds NaN or infinite values.")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255:
        raise SegzooError(f"The image's {pixels.dtype} values span {low:g}..{high:g}; scale them to 0..255 first.")
    if pixels.dtype.kind == "f" and 1 < high < 2:
        raise SegzooError(f"The image's values span {low:g}..{high:g}, neither 0..1 nor 0..255; scale them first.")
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        warnings.warn("No value of this floating-point image exceeds 1: it is read as 0..1, not 0..255.", stacklevel=3)
        pixels = pixels * 255.0
    return np.round(pixels).astype(np.uint8)


def _match_channels(pixels: UInt8Array, channels: int) -> UInt8Array:
    """Go between grey and RGB, and drop alpha, where that is what it takes to have [H, W, channels]."""
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if channels in (1, 3) and found in (2, 4):  # grey or RGB with alpha
        pixels, found = pixels[..., :-1], found - 1
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (found, channels) == (3, 1):
        return np.round(pixels @ _GREY_WEIGHTS).astype(np.uint8)[..., None]
    raise SegzooError(f"The image has {found} channel{'s' if found > 1 else ''} where {channels} are needed.")


# ---- decode


def require_file(path: Path) -> None:
    """Refuse a path where there is no file."""
    if not path.is_file():
        raise MissingFileError(f"There is no file {path}.")


def decode(path: Path, pixels: Callable[[Path, Any], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return pixels [H, W] or [H, W, C] of a file in its own dtype, as a function takes them from what Pillow opened.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If neither Pillow nor tifffile can read it.
    """
    require_file(path)
    try:
        with path.open("rb") as file, Image.open(file) as image:  # of a file by name Pillow garbles turned grey TIFFs
            if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
                raise SegzooError(f"{path} has {pages} pages; save the one to use as a file of its own.")
            return pixels(path, image)
    except SegzooError:
        raise
    except DECODING_ERRORS as error:
        return _decode_tiff(path, error)


def _intensities(path: Path, image: Any) -> npt.NDArray[Any]:
    """Return an opened image's pixels [H, W] or [H, W, C], where it has 16 bits a colour the high eight of them."""
    deep = ";16" in str(image.tile)  # what is stored, asked before it is loaded; the mode tells only of grey
    negative = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    if image.getexif().get(_ORIENTATION, 1) != 1:
        warnings.warn(
            f"{path} is stored turned or mirrored, and viewers turn it back: its mask belongs to the stored pixels.",
            stacklevel=2,
        )
    pixels = pixels_of(as_stored(image), for_mask=False)
    if pixels.dtype == np.uint16 and negative:  # which Pillow heeds in 8 bits alone
        return np.uint16(65535) - pixels
    if deep and pixels.dtype == np.uint8 and (brightest := int(pixels[..., :3].max())) < TWELVE_BITS // 256:
        raise SegzooError(f"{path}: {_nearly_black(256 * brightest + 255)}")
    return pixels


def as_stored(image: Image.Image) -> Image.Image:
    """Return the picture as its file has it: Pillow turns TIFFs, and no others, by their orientation."""
    orientation = image.getexif().get(_ORIENTATION, 1)
    image.load()
    turned = image.format == "TIFF" and orientation in _TURNED_BACK
    return image.transpose(_TURNED_BACK[orientation]) if turned else image


def pixels_of(image: Image.Image, *, for_mask: bool) -> npt.NDArray[Any]:
    """Return a PIL image's pixels [H, W] or [H, W, C]; ``for_mask`` keeps palette indices and 1-bit values."""
    mode = image.mode
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)
    if mode == "I" and image.format == "PNG":  # older Pillow's mode for 16-bit grey PNG
        return np.asarray(image).astype(np.uint16)
    if mode in ("I", "F") or (mode in ("P", "1") and for_mask):
        return np.asarray(image)
    if mode in ("La", "RGBa"):  # premultiplied: Pillow converts these only by way of LA and RGBA
        image = image.convert(mode.upper())
    if mode == "RGBA" or (for_mask and image.mode in ("LA", "RGBA")):
        return array_of(image)
    if image.mode in ("1", "L", "LA"):
        return array_of(image, "L")
    return array_of(image, "RGB")


def _decode_tiff(path: Path, error: BaseException) -> npt.NDArray[Any]:
    """Read a TIFF that Pillow rejects (CVC-ClinicDB's originals among them) by tifffile; else raise the clear error."""
    hint = "it is damaged or not an image"
    if isinstance(error, Image.DecompressionBombError) and Image.MAX_IMAGE_PIXELS:  # of which Pillow reads two times
        hint = f"it has more pixels than the {2 * Image.MAX_IMAGE_PIXELS} that are read; reduce it, or cut it in parts"
    if isinstance(error, OSError) and error.errno is not None:  # the system's: not allowed, no such share, ...
        raise SegzooError(f"Cannot read {path}: {error.strerror}.") from error
    if path.suffix.lower() in (".tif", ".tiff"):
        try:
            import tifffile
        except ImportError:
            hint = "it is damaged or of a kind that needs `pip install tifffile`"
        else:
            try:
                pixels = tifffile.imread(path)
                if pixels.ndim in (2, 3):
                    return pixels
            except Exception:  # tifffile raises many kinds; all mean the same here
                pass
    raise SegzooError(f"Cannot read {path} as an image: {hint}.") from error


def _nearly_black(brightest: int) -> str:
    """Say that a 16-bit image uses but the lowest of its values."""
    return (
        f"The image's 16-bit values only reach {brightest} of 65535, which is nearly black; scale them to the full "
        "range first."
    )


# ---- write


def write_mask(path: str | Path, mask: npt.ArrayLike, note: str = "") -> None:
    """Write class indices as a grey PNG of 8 bits, or of 16 where a value exceeds 255.

    Args:
        path: The file; its folder is made where missing.
        mask: Integer (or boolean) array ``[H, W]`` of values 0..65535.
        note: For `read_note`.

    Raises:
        SegzooError: If the mask is of another shape or holds other values.
    """
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise SegzooError(f"A mask must be integers of shape [H, W], not {values.dtype} of shape {list(values.shape)}.")
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise SegzooError(f"A mask file holds values 0..65535, not {values.min()}..{values.max()}.")
    wide = values.size > 0 and values.max() > 255
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, Image.fromarray(values.astype(np.uint16 if wide else np.uint8)), note)


def write_png(path: Path, picture: Image.Image, note: str = "") -> None:
    """Write a picture as PNG, with a note for `read_note`."""
    texts = PngInfo()
    if note:
        texts.add_text(_NOTE, note)
    picture.save(path, format="PNG", pnginfo=texts)


def read_note(path: Path) -> str | None:
    """Return the note that a PNG was written with, an empty one where it has none; None where it is damaged."""
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            note = str(picture.info.get(_NOTE, ""))
            file.seek(-len(_PNG_END), os.SEEK_END)
            return note if not note or file.read() == _PNG_END else None
    except DECODING_ERRORS:
        return None


def is_colour(path: Path) -> bool:
    """Return whether a picture is RGB, as overlays are and masks are not; as its header says."""
    with Image.open(path) as picture:
        return picture.mode == "RGB"
