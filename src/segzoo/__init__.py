"""segzoo: a PyTorch Lightning model zoo for medical image segmentation.

The public names are imported when first used, so that ``import segzoo`` and the shell's
``segzoo list`` cost nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# public name -> the module that defines it
_HOMES = {
    "list_models": "segzoo.registry",
    "create_model": "segzoo.registry",
    "list_checkpoints": "segzoo.hub",
    "from_pretrained": "segzoo.hub",
    "convert": "segzoo.conversion",
    "upkern": "segzoo.kernel_resampling",
    "SegmentationModule": "segzoo.module",
    "LVUNet": "segzoo.models.lv_unet",
    "CMUNeXt": "segzoo.models.cmunext",
    "MedNeXt": "segzoo.models.mednext",
    "MedURWKV": "segzoo.models.med_urwkv",
    "Segmentation": "segzoo.segmentation",
    "Preprocessing": "segzoo.preprocessing",
    "VolumePreprocessing": "segzoo.volume_preprocessing",
    "SegzooError": "segzoo.errors",
    "MissingError": "segzoo.errors",
}
_SUBPACKAGES = ("data", "nn")

__all__ = [*_HOMES, *_SUBPACKAGES, "__version__"]


if TYPE_CHECKING:  # what type checkers and editors see
    from segzoo import data as data
    from segzoo import nn as nn
    from segzoo.conversion import convert as convert
    from segzoo.errors import MissingError as MissingError
    from segzoo.errors import SegzooError as SegzooError
    from segzoo.hub import from_pretrained as from_pretrained
    from segzoo.hub import list_checkpoints as list_checkpoints
    from segzoo.kernel_resampling import upkern as upkern
    from segzoo.models.cmunext import CMUNeXt as CMUNeXt
    from segzoo.models.lv_unet import LVUNet as LVUNet
    from segzoo.models.med_urwkv import MedURWKV as MedURWKV
    from segzoo.models.mednext import MedNeXt as MedNeXt
    from segzoo.module import SegmentationModule as SegmentationModule
    from segzoo.preprocessing import Preprocessing as Preprocessing
    from segzoo.registry import create_model as create_model
    from segzoo.registry import list_models as list_models
    from segzoo.segmentation import Segmentation as Segmentation
    from segzoo.volume_preprocessing import VolumePreprocessing as VolumePreprocessing


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"segzoo.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'segzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
