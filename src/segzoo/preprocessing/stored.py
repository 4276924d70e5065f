"""Input contracts as a checkpoint stores them."""

from collections.abc import Mapping
from typing import Any

from segzoo.preprocessing.image import Preprocessing
from segzoo.preprocessing.volume import VolumePreprocessing


def preprocessing_from_dict(config: Mapping[str, Any]) -> Preprocessing | VolumePreprocessing:
    """Read the contract of a model for images or, where it names a patch size, for volumes.

    Raises:
        SegzooError: If a key is unknown or a value does not fit.
    """
    return (VolumePreprocessing if "patch_size" in config else Preprocessing).from_dict(config)
