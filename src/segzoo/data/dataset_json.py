"""Labels and channels as ``dataset.json`` names them, in the forms of the Decathlon and of nnU-Net."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzoo.errors import SegzooError
from segzoo.tasks import is_label

IGNORE = "ignore"  # nnU-Net's name for a value that marks voxels without a label
ORDER = "regions_class_order"


@dataclass(frozen=True)
class Labels:
    """Classes of a dataset, and the values of its label files.

    Attributes:
        names: Of the classes: of the values 0, 1, 2 ... or, where there are regions, of these.
        values: Number of the values that mark something, the background included.
        ignored: Value that marks voxels to leave out, or None.
        regions: The values that make up each class; none where each value is a class.
        region_values: What the masks of regions are written as, each over those before it.
    """

    names: tuple[str, ...]
    values: int
    ignored: int | None = None
    regions: tuple[tuple[int, ...], ...] = ()
    region_values: tuple[int, ...] = ()


def read_labels(description: Mapping[str, Any], path: Path) -> Labels:
    """Read the labels of a description.

    Args:
        description: The content of ``dataset.json``, whose entry ``labels`` is an object.
        path: Of the file, for messages.

    Raises:
        SegzooError: If values are missing or odd, names repeat, or regions cannot be written.
    """
    labels = {name: alone(value) for name, value in description["labels"].items()}
    if any(isinstance(value, list) for value in labels.values()):
        return read_regions(labels, description.get(ORDER), path)
    names = label_names(labels, path)
    ignored = next((value for value, name in names.items() if name == IGNORE), None)
    kept = tuple(name for name in names.values() if name != IGNORE)
    return Labels(kept, len(kept), ignored)


def alone(value: Any) -> Any:
    """Return the only value of a list of one, which is no region."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def label_names(labels: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Map label values to names, from either direction that ``dataset.json`` may have.

    Args:
        labels: ``{"0": "background", ...}`` (the Decathlon, nnU-Net v1) or ``{"background": 0, ...}`` (nnU-Net v2).
        path: Of the file, for messages.

    Raises:
        SegzooError: If the values are not 0, 1, 2 ..., or names repeat.
    """
    by_value = all(str(key).isdigit() for key in labels)
    if not by_value and not all(str(value).isdigit() for value in labels.values()):
        raise SegzooError(
            f'{path} must give every label a number, as in {{"background": 0, "tumour": 1}}, not {labels}.'
        )
    pairs = [(int(key), str(name)) if by_value else (int(name), str(key)) for key, name in labels.items()]
    require_values([value for value, _ in pairs], [name for _, name in pairs], path)
    found = dict(sorted(pairs))
    if len(found) < 2 or IGNORE in list(found.values())[:-1]:
        raise SegzooError(f"{path} must name a background and a class, and {IGNORE!r}, if any, as the highest value.")
    return found


def require_values(values: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Refuse label values with gaps, and names that repeat."""
    if sorted(values) != list(range(len(values))) or len(set(names)) < len(names):
        raise SegzooError(
            f"{path} names the label values {sorted(values)}; they must be 0 (background), 1, 2 ... without gaps, each "
            "with a name of its own: renumber the labels."
        )


# ---- regions


def read_regions(labels: Mapping[str, Any], order: Any, path: Path) -> Labels:
    """Read labels of which some are regions.

    Args:
        labels: ``{"background": 0, "whole": [1, 2], "core": 2}``, perhaps with ``ignore`` and the highest value.
        order: ``regions_class_order``: the value that each region is written as.
        path: Of the file, for messages.

    Raises:
        SegzooError: If a value is none, values have gaps, or a written mask would not mean the regions it was made of.
    """
    several = {str(name): value if isinstance(value, list) else [value] for name, value in labels.items()}
    if wrong := [name for name, values in several.items() if values != [0] and not all(map(is_label, values))]:
        raise SegzooError(
            f"{path} gives the label {wrong[0]!r} as {labels[wrong[0]]!r}; it must be a whole number or, for a region, "
            "a list of whole numbers above 0."
        )
    ignored = several.pop(IGNORE, [])
    regions = {name: tuple(sorted(values)) for name, values in several.items() if values != [0]}
    marking = {0, *(value for values in regions.values() for value in values)}
    require_values([*marking, *ignored], [], path)
    if ignored and ignored != [len(marking)]:
        raise SegzooError(f"{path} must give {IGNORE!r} the highest value, {len(marking)}, not {labels[IGNORE]!r}.")
    if not isinstance(order, list) or len(order) != len(regions) or not all(map(is_label, order)):
        raise SegzooError(
            f"{path} defines regions (labels of several values), so its {ORDER} must give each of {', '.join(regions)} "
            f"the value that it is written as, a list of {len(regions)} whole numbers above 0, not {order!r}."
        )
    require_readable(regions, order, path)
    return Labels(tuple(regions), len(marking), ignored[0] if ignored else None, tuple(regions.values()), tuple(order))


def require_readable(regions: Mapping[str, tuple[int, ...]], order: Sequence[int], path: Path) -> None:
    """Refuse an order by which a written mask would be of other regions than it was made of.

    Of a voxel the value of its last region is written; in the regions of that value the voxel must be, and in no other.
    """
    for value in sorted({value for values in regions.values() for value in values}):
        own = [name for name, values in regions.items() if value in values]
        *_, written = (number for name, number in zip(regions, order, strict=True) if name in own)
        found = [name for name, values in regions.items() if written in values]
        if found != own:
            raise SegzooError(
                f"By the {ORDER} {list(order)} of {path} a voxel of the label value {value}, which is in "
                f"{' and '.join(own)}, would be written as {written}, which is in {' and '.join(found) or 'none'}; "
                "order labels and values so that each region comes after those that it lies in."
            )
