"""Networks that `speed.py` times: the zoo's, and their peers from other packages. All give one channel of logits.

Eager, the zoo's networks are layer by layer what their papers describe; nothing is fused before `deploy()`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segzoo
from segzoo.module import SegmentationModule

PEER = "U-Net, MobileNetV3 (smp)"  # to which all speeds are relative


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
        "MedNeXtS": {"spatial_dims": 2, "in_channels": 3, "out_channels": 1},
    }
    return getattr(nets, name)(**settings[name])


ZOO: dict[str, Callable[[], nn.Module]] = {
    "LV-UNet": lambda: lv_unet(encoder="tf_mobilenetv3_large_minimal_100"),  # that of the zoo's checkpoints
    "LV-UNet, paper's encoder": lv_unet,
    "CMUNeXt-S": lambda: segzoo.create_model("cmunext_s"),
    "CMUNeXt": lambda: segzoo.create_model("cmunext"),
    "Med-URWKV": lambda: segzoo.create_model("med_urwkv"),
    "MedNeXt-S k3, 2D": lambda: segzoo.create_model("mednext_s_k3", spatial_dims=2, in_channels=3, num_classes=1),
}
ATTENTION = "Med-URWKV, softmax attention"
PEERS: dict[str, Callable[[], nn.Module]] = {
    PEER: lambda: smp_unet("tu-mobilenetv3_large_100"),
    "U-Net, ResNet34 (smp)": lambda: smp_unet("resnet34"),
    "LR-ASPP, MobileNetV3 (torchvision)": LRASPP,
    "BasicUNet (MONAI)": lambda: monai("BasicUNet"),
    "UNet (MONAI)": lambda: monai("UNet"),
    "SegResNet (MONAI)": lambda: monai("SegResNet"),
    "MedNeXt-S k3, 2D (MONAI)": lambda: monai("MedNeXtS"),
}


def build(name: str, *, deployed: bool = False) -> nn.Module:
    """Return a network with random weights, the same each time, in eval mode.

    Args:
        name: of `ZOO` or `PEERS`, or `ATTENTION`.
        deployed: in its deployed form, where it is the zoo's.
    """
    torch.manual_seed(0)
    network = {**ZOO, **PEERS, ATTENTION: med_urwkv_with_attention}[name]().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # or folding it would change nothing
            nn.init.uniform_(layer.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
    return network.deploy() if deployed and isinstance(network, SegmentationModule) else network
