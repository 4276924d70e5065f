"""Networks that `speed.py` times: the zoo's, and their peers from other packages. All give one channel of logits.

Those for volumes, whose names say 3D, take one channel, the others three. A peer's package is imported when it is
built; `refuse_missing` says beforehand what there is to install.

Eager, the zoo's networks are layer by layer what their papers describe; nothing is fused before `deploy()`.
"""

from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segzoo
from segzoo.module import SegmentationModule

PEER = "U-Net, MobileNetV3 (smp)"  # to which all speeds are relative
VOLUME_PEER = "MedNeXt-S k3, 3D (MONAI)"  # of networks for volumes
CHANNELS = {2: 3, 3: 1}  # of images and of volumes
SOURCES = {"(smp)": "segmentation_models_pytorch", "(MONAI)": "monai", "(torchvision)": "torchvision"}


def lv_unet(**arguments: str) -> SegmentationModule:
    model = segzoo.create_model("lv_unet", **arguments)
    model.deep_training_lambda.fill_(1)  # type: ignore[operator]  # as trained: what can be deployed
    return model


def smp_unet(encoder: str) -> nn.Module:
    from segmentation_models_pytorch import Unet

    return Unet(encoder, encoder_weights=None)


def med_urwkv_with_attention() -> nn.Module:
    """Med-URWKV whose tokens mix by softmax attention of the same width, in heads of 32 channels, as in a ViT."""
    from segzoo.nn import vrwkv

    def attention(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (x.unflatten(-1, (-1, 32)).transpose(1, 2) for x in (k, v))
        return F.scaled_dot_product_attention(k, k, v).transpose(1, 2).flatten(2)

    vrwkv.bi_wkv = attention  # of this process, which has no other network
    return segzoo.create_model("med_urwkv")


class LRASPP(nn.Module):
    """torchvision's LR-ASPP, which gives its logits by name."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models.segmentation import lraspp_mobilenet_v3_large

        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 1, H, W]."""
        return self.network(x)["out"]


def monai(name: str) -> nn.Module:
    from monai.networks import nets

    settings = {
        "BasicUNet": {"spatial_dims": 2, "in_channels": 3, "out_channels": 1},
        "UNet": {
            "spatial_dims": 2,
            "in_channels": 3,
            "out_channels": 1,
            "channels": (32, 64, 128, 256, 512),
            "strides": (2, 2, 2, 2),
            "num_res_units": 2,
        },
        "SegResNet": {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "init_filters": 16},
    }
    return getattr(nets, name)(**settings[name])


def mednext(kernel: int, dims: int) -> SegmentationModule:
    return segzoo.create_model(f"mednext_s_k{kernel}", spatial_dims=dims, in_channels=CHANNELS[dims], num_classes=1)


def monai_mednext(kernel: int, dims: int) -> nn.Module:
    """Return MONAI's, with deep supervision in training, as ours has it."""
    from monai.networks.nets.mednext import create_mednext

    return create_mednext("S", dims, CHANNELS[dims], 1, kernel, deep_supervision=True)


ZOO: dict[str, Callable[[], nn.Module]] = {
    "LV-UNet": lambda: lv_unet(encoder="tf_mobilenetv3_large_minimal_100"),  # that of the zoo's checkpoints
    "LV-UNet, paper's encoder": lv_unet,
    "CMUNeXt-S": lambda: segzoo.create_model("cmunext_s"),
    "CMUNeXt": lambda: segzoo.create_model("cmunext"),
    "Med-URWKV": lambda: segzoo.create_model("med_urwkv"),
    "MedNeXt-S k3, 2D": lambda: mednext(3, 2),
    "MedNeXt-S k5, 2D": lambda: mednext(5, 2),
    "MedNeXt-S k3, 3D": lambda: mednext(3, 3),
    "MedNeXt-S k5, 3D": lambda: mednext(5, 3),
}
ATTENTION = "Med-URWKV, softmax attention"
PEERS: dict[str, Callable[[], nn.Module]] = {
    PEER: lambda: smp_unet("tu-mobilenetv3_large_100"),
    "U-Net, ResNet34 (smp)": lambda: smp_unet("resnet34"),
    "LR-ASPP, MobileNetV3 (torchvision)": LRASPP,
    "BasicUNet (MONAI)": lambda: monai("BasicUNet"),
    "UNet (MONAI)": lambda: monai("UNet"),
    "SegResNet (MONAI)": lambda: monai("SegResNet"),
    "MedNeXt-S k3, 2D (MONAI)": lambda: monai_mednext(3, 2),
    "MedNeXt-S k5, 2D (MONAI)": lambda: monai_mednext(5, 2),
    VOLUME_PEER: lambda: monai_mednext(3, 3),
    "MedNeXt-S k5, 3D (MONAI)": lambda: monai_mednext(5, 3),
}
ALL = {**ZOO, **PEERS}


def dims_of(name: str) -> int:
    """Return the spatial axes of what a network takes."""
    return 3 if "3D" in name else 2


def refuse_missing(names: Iterable[str], runtimes: Iterable[str]) -> None:
    """Refuse to start where something is not installed.

    Args:
        names: of networks.
        runtimes: packages that run them.

    Raises:
        SystemExit: says what is missing, and how to get it.
    """
    needed = {SOURCES[suffix] for name in names for suffix in SOURCES if name.endswith(suffix)} | set(runtimes)
    if missing := sorted(package for package in needed if find_spec(package) is None):
        raise SystemExit(
            f"speed.py: {', '.join(missing)} cannot be imported; install medsegzoo[bench], which has the peers and the "
            "runtimes that they are timed in: pip install -e '.[bench]'"
        )


def build(name: str, *, deployed: bool = False) -> nn.Module:
    """Return a network with random weights, the same each time, in eval mode.

    Args:
        name: of `ALL`, or `ATTENTION`.
        deployed: in its deployed form, where it is the zoo's.
    """
    torch.manual_seed(0)
    network = {**ALL, ATTENTION: med_urwkv_with_attention}[name]().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # or folding it would change nothing
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
    return network.deploy() if deployed and isinstance(network, SegmentationModule) else network
