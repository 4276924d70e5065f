"""Image and mask files <-> arrays.

Images are read for what a person sees (8 bits a channel, palette and alpha resolved), masks for what is stored
(class indices are never rescaled). EXIF orientation is not applied: masks belong to the stored pixel grid.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from segzoo.errors import MissingFileError, SegzooError
from segzoo.imaging.pillow import (
    DECODING_ERRORS,
    LENGTH,
    TWELVE_BITS,
    WIDTH,
    decode,
    decode_tiff,
    nearly_black,
    pixels_of,
    require_file,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
UInt8Array = npt.NDArray[np.uint8]
_GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # ITU-R 601, as Pillow's mode "L"


def image_files(folder: str | Path) -> list[Path]:
    """Return the image files directly inside a folder, by name; hidden files (``._x.png`` of macOS) are left out.

    Raises:
        MissingFileError: If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MissingFileError(f"There is no folder {folder}.")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


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
    pixels = decode(path, for_mask=False)
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
    """Return whether this is a torch tensor, asked without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width as the file's header says, without decoding the pixels.

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
                return tags.tag_v2[LENGTH], tags.tag_v2[WIDTH]
            return image.height, image.width
    except DECODING_ERRORS as error:
        height, width = decode_tiff(path, error).shape[:2]
        return height, width


def _to_uint8(pixels: npt.NDArray[Any]) -> UInt8Array:
    """Intensities of any dtype as 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:  # of either byte order
        if 0 < (brightest := int(pixels.max())) < TWELVE_BITS:
            raise SegzooError(nearly_black(brightest))
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
    """[H, W, C] with C = channels, going between grey and RGB and dropping alpha where that is what it takes."""
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
