"""segzoo: a PyTorch Lightning model zoo for medical image segmentation.

The public names are imported when first used, so that ``import segzoo`` and the shell's
``segzoo list`` cost nothing.
"""

import os
from typing import TYPE_CHECKING, ParamSpec

from segzoo.lazy import lazily

__version__ = "0.1.0"

# From 1.29 on, ONNX Runtime tells its maker which files are opened, on Linux too, unless it finds this when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# public name -> the module that defines it
_HOMES = {
    "list_models": "segzoo.registry",
    "create_model": "segzoo.registry",
    "register": "segzoo.registry",
    "list_checkpoints": "segzoo.hub.listing",
    "list_encoders": "segzoo.hub.listing",
    "from_pretrained": "segzoo.hub.load",
    "convert": "segzoo.conversion.convert",
    "upkern": "segzoo.models._upkern",
    "SegmentationModule": "segzoo.module",
    "Ensemble": "segzoo.models._ensemble",
    "LVUNet": "segzoo.models.lv_unet",
    "CMUNeXt": "segzoo.models.cmunext",
    "MedNeXt": "segzoo.models.mednext",
    "MedURWKV": "segzoo.models.med_urwkv",
    "Predictor": "segzoo.live",
    "Segmentation": "segzoo.imaging.segmentation",
    "Preprocessing": "segzoo.preprocessing.image",
    "VolumePreprocessing": "segzoo.preprocessing.volume",
    "SegzooError": "segzoo.errors",
    "MissingError": "segzoo.errors",
    "data": "segzoo.data",
    "nn": "segzoo.nn",
}
__all__ = [*_HOMES, "__version__"]


if TYPE_CHECKING:  # what type checkers and editors see
    from collections.abc import Callable

    from segzoo import data as data
    from segzoo import nn as nn
    from segzoo.conversion.convert import convert as convert
    from segzoo.errors import MissingError as MissingError
    from segzoo.errors import SegzooError as SegzooError
    from segzoo.hub.listing import list_checkpoints as list_checkpoints
    from segzoo.hub.listing import list_encoders as list_encoders
    from segzoo.hub.load import from_pretrained as _from_pretrained
    from segzoo.imaging.segmentation import Segmentation as Segmentation
    from segzoo.live import Predictor as Predictor
    from segzoo.models._ensemble import Ensemble as Ensemble
    from segzoo.models._upkern import upkern as upkern
    from segzoo.models.cmunext import CMUNeXt as CMUNeXt
    from segzoo.models.lv_unet import LVUNet as LVUNet
    from segzoo.models.med_urwkv import MedURWKV as MedURWKV
    from segzoo.models.mednext import MedNeXt as MedNeXt
    from segzoo.module import SegmentationModule as SegmentationModule
    from segzoo.network import SegmentationNetwork as _Network
    from segzoo.preprocessing.image import Preprocessing as Preprocessing
    from segzoo.preprocessing.volume import VolumePreprocessing as VolumePreprocessing
    from segzoo.registry import create_model as _create_model
    from segzoo.registry import list_models as list_models
    from segzoo.registry import register as register

    _P = ParamSpec("_P")

    def _with_verbs(function: Callable[_P, _Network]) -> Callable[_P, SegmentationModule]:
        """Say that a function of a lower floor, which knows no verbs, returns a model that has them."""

    create_model, from_pretrained = _with_verbs(_create_model), _with_verbs(_from_pretrained)

__getattr__ = lazily(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted(__all__)
