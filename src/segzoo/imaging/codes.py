"""Classes written as colours or as values of one's own: what each stands for."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from segzoo.errors import SegzooError, first_few
from segzoo.imaging.masks import LOSSY_SUFFIXES, colours_of, hexadecimal, read_mask

BACKGROUND, IGNORED = "background", "ignored"  # names that mean these, whichever classes there are


@dataclass(frozen=True)
class Codes:
    """Classes of the values, or of the colours, of masks.

    Attributes:
        option: ``colours`` or ``values``.
        classes: Code -> index of its class, -1 where it is to be ignored; a colour's code is its 24 bits, 0xRRGGBB.
    """

    option: str
    classes: Mapping[int, int]

    def read(self, path: Path) -> npt.NDArray[np.int16]:
        """Read a mask as class indices [H, W], -1 where it is to be ignored.

        Args:
            path: PNG, TIFF or BMP.

        Raises:
            SegzooError: It holds something else, or is a JPEG, which changes values.
        """
        if path.suffix.lower() in LOSSY_SUFFIXES:
            raise SegzooError(f"Mask {path} is a JPEG, which changes {self.option}; save it as PNG.")
        stored = read_mask(path) if self.option == "values" else colours_of(path)
        found, inverse = np.unique(stored, return_inverse=True)
        if unknown := [int(code) for code in found if int(code) not in self.classes]:
            said = [hexadecimal(code) if self.option == "colours" else code for code in unknown]
            raise SegzooError(
                f"Mask {path} holds {first_few(said)}, which the option {self.option} does not name; add it, as "
                f"{IGNORED!r} where it means nothing."
            )
        table = np.array([self.classes[int(code)] for code in found], np.int16)
        indices: npt.NDArray[np.int16] = table[inverse].reshape(stored.shape)
        return indices


def class_names_of(meanings: Mapping[Any, str]) -> tuple[str, ...]:
    """Return the classes that codes stand for, in their order, background first."""
    named = [str(name) for name in meanings.values() if name != IGNORED]
    return tuple(dict.fromkeys([BACKGROUND, *named]))


def codes(option: str, meanings: Mapping[Any, str], class_names: tuple[str, ...]) -> Codes:
    """Return what codes mean among some classes; 0 or black is the first of them unless it is said to be another.

    Args:
        option: ``colours`` or ``values``.
        meanings: Colour (a name, "#rrggbb") or value -> name of a class, or "ignored".
        class_names: The classes; the first one is the background.

    Raises:
        SegzooError: A name is no class, or a code is no colour or no value of a mask.

    Example:
        >>> from segzoo.imaging.codes import codes
        >>> codes("colours", {"red": "lesion", "white": "ignored"}, ("background", "lesion")).classes
        {0: 0, 16711680: 1, 16777215: -1}
    """
    classes = {0: 0}
    for given, name in meanings.items():
        if name not in (*class_names, IGNORED):
            raise SegzooError(f"{option} says {name!r} of {given}, which is none of the classes {list(class_names)}.")
        code = _colour(given) if option == "colours" else _value(given)
        classes[code] = -1 if name == IGNORED else class_names.index(name)
    return Codes(option, classes)


def _colour(given: object) -> int:
    colour: tuple[int, ...] = ()
    with suppress(ValueError):
        colour = ImageColor.getrgb(str(given))
    if len(colour) != 3:
        raise SegzooError(f"colours holds {given!r}, which is no colour; write a name, such as red, or '#ff0000'.")
    return int(colour[0]) << 16 | int(colour[1]) << 8 | int(colour[2])


def _value(given: object) -> int:
    if isinstance(given, bool) or not str(given).isdecimal() or int(str(given)) > 65535:
        raise SegzooError(f"values holds {given!r}, which is no value of a mask; write whole numbers from 0 to 65535.")
    return int(str(given))
