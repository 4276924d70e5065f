"""What the input contracts of images and of volumes share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from segzoo.errors import SegzooError


@dataclass(frozen=True)
class InputContract:
    """What the contracts of images and of volumes share: how config.json stores them."""

    spatial_dims: ClassVar[int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json (tuples as lists)."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            SegzooError: If a key is unknown or a value does not fit.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise SegzooError(f"Unknown preprocessing key {unknown[0]!r}; known are {', '.join(sorted(known))}.")
        try:
            return cls(**config)
        except TypeError as error:
            raise SegzooError(f"The preprocessing {dict(config)} cannot be read: {error}.") from error
