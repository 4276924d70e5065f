"""UpKern: a network of large kernels started from a trained one of small kernels.

Section 2.3 of the MedNeXt paper (https://arxiv.org/abs/2303.09975): large kernels saturate when they are trained from
random values on the little data of this field, and do not when they start as resampled small ones.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segzoo.checkpoints.fill import LoadReport
from segzoo.checkpoints.finite import require_finite
from segzoo.errors import SegzooError
from segzoo.hub.load import from_pretrained
from segzoo.module import SegmentationModule

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@dataclass
class UpKernReport(LoadReport):
    """Report of what UpKern did to each tensor of the large model.

    ``loaded`` are copied, ``adapted`` and ``initialised`` the first layer and the heads for other channels and classes
    and what the small model lacks, ``ignored`` what only the small model has.

    Attributes:
        interpolated: kernels of another size.
    """

    interpolated: list[str] = field(default_factory=list)

    def taken(self) -> str:
        """Count the tensors that came from elsewhere, copied and interpolated."""
        return f"{len(self.loaded)} tensors copied and {len(self.interpolated)} interpolated from {self.source}"


def upkern(small: nn.Module, large: nn.Module) -> None:
    """Fill a large-kernel model from a small-kernel one of the same architecture, in place (the paper's UpKern).

    Kernels of another size are interpolated, linearly on every axis with the corners not aligned and their values not
    rescaled; every other tensor is copied. What only one of the two has (heads of deep supervision, say) stays as it
    is, and is named on the screen. What the small model was trained on counts as the large one's pretraining. Works in
    2D and in 3D, for any two sizes.

    Args:
        small: usually a trained model, such as a ``mednext_s_k3``; it is not changed.
        large: the model to fill, such as a ``mednext_s_k5`` with the same channels and classes.

    Raises:
        SegzooError: a tensor differs in more than the size of its kernel, no tensor has the same name in both, or
            ``small`` is not finite; then ``large`` is as it was.

    Example:
        >>> import segzoo
        >>> small, large = (segzoo.create_model(name, num_classes=3) for name in ("mednext_s_k3", "mednext_s_k5"))
        >>> segzoo.upkern(small, large)
    """
    report = resample(small, large, f"the {type(small).__name__} of small kernels")
    if isinstance(small, SegmentationModule) and isinstance(large, SegmentationModule):
        large.data = small.data or large.data  # which stays with it as what it was pretrained on
        large.licence = small.licence or large.licence
    if report.initialised or report.ignored:
        report.log()


def load_upkern(large: SegmentationModule, name_or_path: str) -> UpKernReport:
    """Fill ``large`` from a checkpoint of the same architecture with smaller kernels.

    A first layer for other channels is adapted and heads for other classes are new, as :func:`segzoo.from_pretrained`
    does it. Preprocessing and class names stay those of ``large``: its training data gives them.

    Args:
        large: filled in place.
        name_or_path: a checkpoint's name or folder.

    Raises:
        MissingError: there is no such checkpoint.
        SegzooError: the checkpoint is damaged, or holds another architecture or size.
    """
    small = from_pretrained(name_or_path, num_classes=large.num_classes, in_channels=large.in_channels)
    if type(small) is not type(large):
        raise SegzooError(
            f"upkern_from: {name_or_path} holds a {type(small).__name__}, not a {type(large).__name__}; give a "
            "checkpoint of the same architecture"
        )
    report = resample(small, large, str(name_or_path))
    stored = small.load_report
    assert stored is not None
    report.loaded = [name for name in report.loaded if name not in stored.adapted + stored.initialised]
    report.adapted = stored.adapted
    report.initialised += stored.initialised
    large.data, large.licence = small.data, small.licence  # the data stay as what it was pretrained on
    report.log()
    return report


@torch.no_grad()
def resample(small: nn.Module, large: nn.Module, source: str) -> UpKernReport:
    """Do what :func:`upkern` says; ``source`` is what the report and errors call ``small``."""
    given, own = small.state_dict(), large.state_dict()
    report = UpKernReport(source, ignored=[name for name in given if name not in own])
    for name, value in own.items():
        if name not in given:
            report.initialised.append(name)
        elif given[name].shape == value.shape:
            own[name] = given[name]
            report.loaded.append(name)
        elif is_kernel_of_another_size(given[name], value):
            own[name] = resample_kernel(given[name], value.shape[2:])
            report.interpolated.append(name)
        else:
            raise SegzooError(
                f"UpKern cannot fill this {type(large).__name__} from {source}: {name} is {list(given[name].shape)} "
                f"there and {list(value.shape)} here, which is more than another kernel size; build both models with "
                "the same width, depths, expansion, spatial_dims, in_channels and num_classes"
            )
    if not report.loaded and not report.interpolated:
        raise SegzooError(
            f"UpKern cannot fill this {type(large).__name__} from {source}, since no tensor has the same name in both; "
            "give two models of one architecture"
        )
    refuse_other_layers(small, large, source)
    require_finite(given, source)
    large.load_state_dict(own)
    return report


def refuse_other_layers(small: nn.Module, large: nn.Module, source: str) -> None:
    """Refuse two networks that differ in what no tensor's shape shows: the kind of norms, and strides."""
    layers = dict(small.named_modules())
    for name, layer in large.named_modules():
        other = layers.get(name, layer)
        if name and (type(layer) is not type(other) or getattr(layer, "stride", 1) != getattr(other, "stride", 1)):
            raise SegzooError(
                f"UpKern cannot fill this {type(large).__name__} from {source}: {name} has another "
                "norm or stride there; build both models with the same norm and strides"
            )


def is_kernel_of_another_size(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors are kernels [out, in, *K] that differ in K alone."""
    return one.ndim == other.ndim and one.ndim - 2 in MODES and one.shape[:2] == other.shape[:2]


def resample_kernel(kernel: Tensor, size: torch.Size) -> Tensor:
    """Interpolate kernels [out, in, *K] to another K, in at least float32."""
    wide = kernel.to(torch.promote_types(kernel.dtype, torch.float32))
    return F.interpolate(wide, size=size, mode=MODES[len(size)], align_corners=False)
