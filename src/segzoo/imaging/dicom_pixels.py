"""Pixels of DICOM files: decoded, made intensities by their modality's rule, and pictures by their window.

pydicom decodes what is not compressed, and run lengths; SimpleITK's GDCM the JPEG family. It is given the pixels alone,
in a file without anything else, for it would apply rescalings itself, of several frames those of the first.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from segzoo import limits
from segzoo.errors import SegzooError
from segzoo.imaging.dicom_files import imported, of_frames
from segzoo.imaging.images import scaled
from segzoo.imaging.itk import read_itk

CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # a class of images that say nothing of a patient's body
LAYOUT = (  # of what GDCM decodes
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"),
)
BY_GDCM = {  # transfer syntaxes
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG of 12 bits",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
}
RUN_LENGTHS = "1.2.840.10008.1.2.5"
PALETTE = "PALETTE COLOR"
Pixels = npt.NDArray[Any]


# ---- decode


def stored(content: Any, frames: int) -> Pixels:
    """Return the stored pixels of a file, [F, H, W], or [F, H, W, 3] of colours, which become RGB.

    Args:
        content: of the file, as `segzoo.imaging.dicom_files.opened` yields it.
        frames: in the file.

    Raises:
        SegzooError: it has no pixels, or they are cut short or compressed in another way; begins with a verb.
    """
    pydicom = imported()
    syntax = content.file_meta.get("TransferSyntaxUID", "1.2.840.10008.1.2")
    rows, columns, samples = content.Rows, content.Columns, content.get("SamplesPerPixel") or 1
    voxels = frames * rows * columns * samples
    limits.VOXELS.check(voxels, "has")
    limits.require_memory(voxels * math.ceil(content.BitsAllocated / 8) * 2, "its pixels")
    if "PixelData" not in content:
        raise SegzooError("has no pixels; export it anew")
    try:
        if syntax in BY_GDCM:
            pixels = by_gdcm(content, syntax)
        elif syntax == RUN_LENGTHS or not getattr(syntax, "is_compressed", False):
            pixels = pydicom.pixels.pixel_array(content, correct_unused_bits=False)  # wherever they lie
        else:
            raise SegzooError(f"is compressed by {syntax.name}, which is not read; store it in another transfer syntax")
        return without_unused_bits(pixels.reshape(frames, rows, columns, *((samples,) if samples > 1 else ())), content)
    except (SegzooError, MemoryError):
        raise
    except Exception as error:  # of many kinds
        raise damaged() from error


def damaged() -> SegzooError:
    """Say that pixels cannot be decoded."""
    return SegzooError("has pixels that are damaged or cut short; export it anew")


def by_gdcm(content: Any, syntax: Any) -> Pixels:
    """Return compressed pixels as SimpleITK's GDCM decodes them: [F, H, W], or [F, H, W, 3]."""
    pydicom = imported()
    bare = pydicom.Dataset()
    for keyword in LAYOUT:
        if keyword in content:
            bare[keyword] = content[keyword]
    if bare.PhotometricInterpretation == PALETTE:
        bare.PhotometricInterpretation = "MONOCHROME2"  # the palette comes later
    bare.SOPClassUID, bare.SOPInstanceUID = CAPTURE, pydicom.uid.generate_uid()
    bare.file_meta = pydicom.dataset.FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    with TemporaryDirectory(prefix="segzoo-") as folder:
        file = Path(folder) / "pixels.dcm"
        bare.save_as(file, enforce_file_format=True)
        try:
            voxels, _ = read_itk(file, "GDCMImageIO")
        except SegzooError as error:  # which would name the file that nobody knows
            raise damaged() from error
    return voxels[0] if len(voxels) == 1 else np.moveaxis(voxels, 0, -1)


def without_unused_bits(pixels: Pixels, content: Any) -> Pixels:
    """Return whole numbers without what lies beside them in their bytes, such as overlays of old: 12 bits of 16."""
    bits = 8 * pixels.dtype.itemsize
    used, high = int(content.BitsStored), int(content.get("HighBit", content.BitsStored - 1))
    if pixels.dtype.kind not in "iu" or content.BitsAllocated != bits or used >= bits or not used <= high + 1 <= bits:
        return pixels
    return (pixels << (bits - 1 - high)) >> (bits - used)  # of signed numbers the sign's bit fills up


# ---- intensities


def intensities(pixels: Pixels, content: Any) -> Iterator[Pixels]:
    """Yield stored frames [H, W] as what the modality measures, such as Hounsfield units.

    Args:
        pixels: as `stored` gives them, [F, H, W].
        content: of their file.

    Raises:
        SegzooError: a slope means nothing; begins with a verb.
    """
    slopes = of_frames(content, len(pixels), "PixelValueTransformationSequence", "RescaleSlope")
    intercepts = of_frames(content, len(pixels), "PixelValueTransformationSequence", "RescaleIntercept")
    for frame, slope, intercept in zip(pixels, slopes, intercepts, strict=True):
        if content.get("ModalityLUTSequence"):
            yield imported().pixels.apply_modality_lut(frame, content)
            continue
        by, plus = (1.0 if slope is None else float(slope)), float(intercept or 0)
        if not (math.isfinite(by) and math.isfinite(plus) and by != 0):
            raise SegzooError(f"has a slope of {by:g} and an intercept of {plus:g}; export it anew")
        yield frame if (by, plus) == (1, 0) else frame * by + plus


# ---- pictures


def pictures(pixels: Pixels, content: Any, stated: tuple[float, float] | None, name: Path) -> npt.NDArray[np.uint8]:
    """Return what a person sees of the frames of a file, [F, H, W, 1], or [F, H, W, 3] of colours.

    Grey is seen through the window or table of the file; where it has none, 8 bits are as they are, others by the bits
    that are used. What is bright where values are low (MONOCHROME1) is turned round.

    Args:
        pixels: as `stored` gives them.
        content: of their file.
        stated: intensities that become 0 and 255, instead of the file's window; 8 bits stay as they are.
        name: of the case, for sentences.
    """
    if content.PhotometricInterpretation == PALETTE:
        colours = imported().pixels.apply_color_lut(pixels, content)
        return (colours >> 8).astype(np.uint8) if colours.dtype.itemsize == 2 else colours
    if pixels.ndim == 4:
        return by_bits(pixels, content)
    seen = through_window(pixels, content, stated, name)
    return (255 - seen if content.PhotometricInterpretation == "MONOCHROME1" else seen)[..., None]


def through_window(
    pixels: Pixels, content: Any, stated: tuple[float, float] | None, name: Path
) -> npt.NDArray[np.uint8]:
    """Return greys [F, H, W] as 0..255."""
    if pixels.dtype == np.uint8 and stated is not None:
        return pixels
    values = np.stack([frame.astype(np.float32) for frame in intensities(pixels, content)])
    if stated is not None:
        return scaled(values, *stated, f"{name}: the image")
    if content.get("VOILUTSequence"):
        table = content.VOILUTSequence[0]
        found = imported().pixels.apply_voi(values.astype(np.int64), content)
        return np.round(found * (255 / (2 ** int(table.LUTDescriptor[2]) - 1))).clip(0, 255).astype(np.uint8)
    centre, width = (first(content.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width >= 1:
        return windowed(values, centre, width, str(content.get("VOILUTFunction") or "LINEAR"))
    if np.array_equal(values, pixels) and pixels.dtype.kind == "u":
        return by_bits(pixels, content)
    low, high = float(values.min()), float(values.max())
    return scaled(values, low, high) if low < high else np.zeros(values.shape, np.uint8)


def windowed(values: npt.NDArray[np.float32], centre: float, width: float, function: str) -> npt.NDArray[np.uint8]:
    """Return intensities as 0..255 through a window, by the standard's functions (PS3.3 C.11.2.1.2)."""
    if function == "SIGMOID":
        seen = 255 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80)))
    elif function == "LINEAR_EXACT":
        seen = ((values - centre) / width + 0.5) * 255
    else:
        seen = ((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5) * 255
    return np.round(seen.clip(0, 255)).astype(np.uint8)


def by_bits(pixels: Pixels, content: Any) -> npt.NDArray[np.uint8]:
    """Return whole numbers of as many bits as a file uses as 0..255."""
    bits = int(content.BitsStored)
    return pixels.astype(np.uint8) if bits == 8 else np.round(pixels * (255 / (2**bits - 1))).astype(np.uint8)


def first(value: Any) -> float | None:
    """Return a number of a header, of several the first; None where there is none."""
    if value is None or value == "":
        return None
    return float(value) if np.isscalar(value) or not hasattr(value, "__len__") else float(value[0])
