"""Input contracts: the way from an image or a volume as it is to what the network sees, and back."""

from typing import TYPE_CHECKING

from segzoo.lazy import lazily

if TYPE_CHECKING:
    from segzoo.preprocessing.image import Preprocessing as Preprocessing
    from segzoo.preprocessing.volume import VolumePreprocessing as VolumePreprocessing

__getattr__ = lazily(
    __name__,
    {"Preprocessing": "segzoo.preprocessing.image", "VolumePreprocessing": "segzoo.preprocessing.volume"},
)
