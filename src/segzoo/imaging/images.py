"""Image files <-> arrays: pictures in, masks out.

Images are read for what a person sees: 8 bits a channel, palette and alpha resolved. EXIF orientation is not applied:
masks belong to the stored pixel grid. What a mask file stores is read in masks.py, and what both have in common in
decoding.py.
"""

import io
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.decoding import DECODING_ERRORS, Picture, decode, header_size, picture_of
from segzoo.imaging.names import is_hidden
from segzoo.imaging.seals import note_of_sealed, sealed
from segzoo.imaging.strips import Strips
from segzoo.imaging.volumes import no_volume

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
Range = tuple[float, float]
UInt8Array = npt.NDArray[np.uint8]
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's mode "L"
_PART = 2**20  # values that are converted together
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

    def for_images(self, channels: int, intensity_range: Range | None = None) -> UInt8Array:
        """Read it for a model of images."""
        return read_image(self.path, channels, intensity_range)

    def for_volumes(self, channels: int) -> Any:
        """Refuse it where a model takes volumes."""
        raise no_volume(self.path)

    def intensities(self) -> npt.NDArray[Any]:
        """Return the intensities [H, W] that it stores, of colours their brightness."""
        return brightness(decode(self.path, whole=True).intensities())

    def pixel_spacing(self) -> None:
        """Return that nobody knows how large its pixels are; what pictures say of that is for printers."""

    def note(self) -> str | None:
        """Return the note that it was written with, as `read_note` does."""
        return read_note(self.path)


# ---- read


def image_files(folder: str | Path) -> list[Path]:
    """Return the image files directly inside a folder, by name; hidden files (``._x.png`` of macOS) are left out.

    A folder that is named like an image is passed over, with a warning.

    Raises:
        MissingFileError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}.")
    named = sorted(path for path in folder.iterdir() if ImageFile.accepts(path) and not is_hidden(path))
    return [path for path in named if not is_folder_named_like_a_file(path)]


def is_folder_named_like_a_file(path: Path) -> bool:
    """Return whether what is named like a file is a folder, with a warning that says so."""
    if found := path.is_dir():
        warnings.warn(f"{path} is a folder, though named like a file, and is passed over.", stacklevel=3)
    return found


def read_image(path: str | os.PathLike[str], channels: int = 3, intensity_range: Range | None = None) -> UInt8Array:
    """Read an image file of any usual mode.

    Palette images become RGB, alpha is dropped, 1-bit becomes 0/255, 16 bits are scaled by their full range. Of one
    that is stored turned (EXIF), which viewers turn back, the stored pixels are read, with a warning.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        channels: 1 (RGB becomes grey), 3 (grey is repeated), or exactly as many as the file has.
        intensity_range: Of more than 8 bits, the stored values that become 0 and 255, instead of the full range; what
            lies outside is cut off. Images of 8 bits stay as they are.

    Returns:
        uint8 array ``[H, W, channels]``.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it cannot be decoded, has several pages or the wrong number of channels, or, without a range,
            16 bits of which only 12 are used.
    """
    path = Path(path)
    picture = decode(path, whole=intensity_range is not None)
    if picture.turned:
        warnings.warn(
            f"{path} is stored turned or mirrored, and viewers turn it back: its mask belongs to the stored pixels.",
            stacklevel=2,
        )
    try:
        return _seen(picture, channels, intensity_range, name=f"{path}: the image")
    except SegzooError as error:
        raise SegzooError(f"{path}: {error}") from error


def as_image(image: Any, channels: int = 3, intensity_range: Range | None = None) -> UInt8Array:
    """Bring an image in memory to the form that `read_image` gives.

    Args:
        image: PIL image; array ``[H, W]`` or ``[H, W, C]``; tensor ``[H, W]`` or ``[C, H, W]``. Intensities: booleans,
            0..255, uint16 by its full range, or floats, which count as 0..1 (with a warning) when none exceeds 1.
        channels: As in `read_image`.
        intensity_range: As in `read_image`, of all but booleans and uint8.

    Returns:
        uint8 array ``[H, W, channels]``.

    Raises:
        SegzooError: For another shape, NaN or infinity, intensities outside 0..255 or the wrong number of channels.
    """
    refuse_bytes(image)
    return _seen(_in_memory(image), channels, intensity_range, name="The image")


def _in_memory(image: Any) -> Picture:
    """Return a PIL image, an array or a tensor as what `decode` gives of a file."""
    if isinstance(image, Image.Image):
        try:
            return picture_of(image)
        except SegzooError:
            raise
        except DECODING_ERRORS as error:
            raise SegzooError(f"The image cannot be decoded ({error}); open an intact file.") from error
    if is_tensor(image):
        tensor = image.detach().cpu()
        pixels = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
        return Picture(np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels)
    return Picture(np.asarray(image))


def refuse_bytes(value: Any) -> None:
    """Refuse an encoded file where its pixels are expected.

    Raises:
        SegzooError: it is bytes, or an open file.
    """
    if isinstance(value, bytes | bytearray | io.IOBase):
        raise SegzooError(
            f"{type(value).__name__} is no image or volume but an encoded file; give its path or its decoded array, or "
            "what PIL.Image.open makes of it."
        )


def is_tensor(value: Any) -> bool:
    """Return whether this is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return height and width as the file's header says, without decoding the pixels.

    Raises:
        MissingFileError: If there is no such file.
        SegzooError: If it is no readable image.
    """
    return header_size(Path(path))


# ---- what a person sees


def _seen(picture: Picture, channels: int, intensity_range: Range | None, name: str) -> UInt8Array:
    """Return a picture as uint8 [H, W, channels].

    Args:
        picture: decoded.
        channels: as in `read_image`.
        intensity_range: likewise.
        name: begins what is said of it: "The image".
    """
    pixels = picture.intensities()
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or 0 in pixels.shape:
        raise SegzooError(
            f"An image must be an array [H, W] or [H, W, C] or a tensor [H, W] or [C, H, W], not of shape "
            f"{list(pixels.shape)}."
        )
    if channels in (1, 3) and pixels.shape[2] in (2, 4):  # grey or RGB with alpha
        pixels = pixels[..., :-1]
    if picture.deep:
        _require_bright(256 * int(pixels[..., :3].max()) + 255, 65535, name)
    seen = _to_uint8(pixels, picture.white, name) if intensity_range is None else scaled(pixels, *intensity_range, name)
    return np.ascontiguousarray(_match_channels(seen, channels))


def _to_uint8(pixels: npt.NDArray[Any], white: int, name: str) -> UInt8Array:
    """Bring intensities of any dtype to 0..255; uint16, of either byte order, by the value of white."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        _require_bright(int(pixels.max()), white, name)
        return _by_rows(lambda part: np.round(part / (white / 255)), pixels)  # 65535 -> 255
    _require_finite(pixels)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 255:
        raise SegzooError(
            f"The image's {pixels.dtype} values span {low:g}..{high:g}; scale them to 0..255 first, or say by "
            "intensity_range which become 0 and 255."
        )
    if pixels.dtype.kind == "f" and 1 < high < 2:
        raise SegzooError(f"The image's values span {low:g}..{high:g}, neither 0..1 nor 0..255; scale them first.")
    if pixels.dtype.kind == "f" and 0 < high <= 1:
        warnings.warn(
            f"{name} has floating-point values, of which none exceeds 1: it is read as 0..1, not 0..255.",
            stacklevel=4,
        )
        return _by_rows(lambda part: np.round(part * 255.0), pixels)
    return _by_rows(np.round, pixels)


def scaled(pixels: npt.NDArray[Any], low: float, high: float, name: str = "The image") -> UInt8Array:
    """Bring stored values low..high to 0..255, and what lies outside to the nearer end; booleans and uint8 need none.

    Args:
        pixels: numbers of any shape.
        low: what becomes 0.
        high: what becomes 255.
        name: begins what is said of it.

    Raises:
        SegzooError: a value is not a finite number.

    Example:
        >>> import numpy as np
        >>> from segzoo.imaging.images import scaled
        >>> scaled(np.array([0, 1000, 2000, 4095], np.uint16), 1000, 3000).tolist()
        [0, 0, 128, 255]
    """
    if pixels.dtype in (np.uint8, bool):
        return _to_uint8(pixels, 255, name)
    _require_finite(pixels)
    if pixels.max() < low or pixels.min() > high:
        warnings.warn(
            f"{name}'s values {pixels.min():g}..{pixels.max():g} all lie outside of the intensity_range "
            f"{low:g}..{high:g}, so nothing is seen of it.",
            stacklevel=4,
        )
    exact: type[np.floating] = np.float32 if pixels.dtype.itemsize <= 2 else np.float64
    scale = exact(255 / (high - low))
    return _by_rows(lambda part: np.round(((part.astype(exact) - exact(low)) * scale).clip(0, 255)), pixels)


def _by_rows(convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]], pixels: npt.NDArray[Any]) -> UInt8Array:
    """Convert some rows at a time: floating-point numbers of a whole picture would take several times its memory."""
    rows = max(1, _PART * len(pixels) // max(1, pixels.size))
    parts = [convert(pixels[start : start + rows]).astype(np.uint8) for start in range(0, len(pixels), rows)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _require_finite(pixels: npt.NDArray[Any]) -> None:
    if pixels.dtype.kind not in "iuf":
        raise SegzooError(f"An image must hold numbers, not {pixels.dtype}.")
    if not np.isfinite(pixels).all():
        raise SegzooError("The image holds NaN or infinite values.")


def _require_bright(brightest: int, white: int, name: str) -> None:
    """Refuse a 16-bit image that uses but the lowest of its values, as of a scanner's 12 bits; warn of more, as 14.

    Args:
        brightest: of its values.
        white: what stands for white.
        name: begins what is said of it: "The image".
    """
    way_out = (
        f"say by intensity_range (--intensity-range) which values become 0 and 255, such as 0 and "
        f"{2 ** brightest.bit_length() - 1}"
    )
    if 0 < brightest <= white // 16:
        raise SegzooError(
            f"The image's 16-bit values only reach {brightest} of {white}, which is nearly black; scale them to the "
            f"full range first, or {way_out}."
        )
    if 0 < brightest <= white // 2:
        warnings.warn(
            f"{name}'s 16-bit values only reach {brightest} of {white}, so it is read as one of 0.."
            f"{round(255 * brightest / white)}; if that is too dark, {way_out}.",
            stacklevel=5,
        )


def _match_channels(pixels: UInt8Array, channels: int) -> UInt8Array:
    """Go between grey and RGB where that is what it takes to have [H, W, channels]."""
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if (found, channels) == (1, 3):
        return np.repeat(pixels, 3, axis=2)
    if (found, channels) == (3, 1):
        return _by_rows(lambda part: np.round(part @ _GREY_WEIGHTS), pixels)[..., None]
    raise SegzooError(f"The image has {found} channel{'s' if found > 1 else ''} where {channels} are needed.")


def brightness(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return how bright pixels [H, W] or [H, W, C] are, [H, W], on their own scale; alpha counts for nothing."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :-1] if pixels.shape[2] in (2, 4) else pixels
    return colours[..., 0] if (colours == colours[..., :1]).all() else colours @ _GREY_WEIGHTS


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
    """Write a picture as PNG, with a note for `read_note` that holds a digest of the pixels."""
    texts = PngInfo()
    if note:
        texts.add_text(_NOTE, sealed(note, Strips(picture)))
    picture.save(path, format="PNG", pnginfo=texts)


def read_note(path: Path) -> str | None:
    """Return a PNG's note, "" where it has none or other pixels than it was written with; None where it is damaged."""
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            stored = str(picture.info.get(_NOTE, ""))
            note = note_of_sealed(stored, lambda: Strips(picture))
            file.seek(-len(_PNG_END), os.SEEK_END)
            return note if not stored or file.read() == _PNG_END else None
    except DECODING_ERRORS:
        return None


def is_colour(path: Path) -> bool:
    """Return whether a picture is RGB, as overlays are and masks are not; as its header says."""
    with Image.open(path) as picture:
        return picture.mode == "RGB"
