"""Networks that the zoo's models are compared with, trained by `segzoo fit` as those are.

    python -m segzoo.cli fit --config benchmarks/recipes/unet-busi.yaml --trainer.default_root_dir runs/unet-busi
    python benchmarks/quality.py score runs/unet-busi unet-busi

Run from the repository's root, where the class paths of such recipes start. The networks are other people's; loss,
optimizer and schedule are those of LV-UNet (for volumes of MedNeXt), so that it is the networks that are compared. A
run leaves best.ckpt and no checkpoint folder, since these are no models of the zoo.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from monai.networks.nets.basic_unet import BasicUNet as MonaiUNet
from torch import Tensor, nn

from segzoo.errors import MissingError
from segzoo.models.lv_unet import LVUNet, load_encoder_weights
from segzoo.models.mednext import MedNeXt
from segzoo.module import SegmentationModule
from segzoo.preprocessing.volume import VolumePreprocessing

BEST = "best.ckpt"


class Baseline(SegmentationModule):
    """Somebody's network in the zoo's training, padding and scores."""

    network: nn.Module

    def compute_logits(self, x: Tensor) -> Tensor:
        """Return the network's own."""
        return self.network(x)

    default_loss = LVUNet.default_loss
    default_optimizer = LVUNet.default_optimizer
    default_lr_scheduler = LVUNet.default_lr_scheduler


class BasicUNet(Baseline):
    """MONAI's U-Net, by default of 2.0 M parameters.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        features: channels of the five levels and before the head; 64, 128, 256, 512, 1024, 64 is the classical U-Net
            of 31.1 M parameters.
        starts_from: the folder of a finished run of this network, whose best weights it goes on from.
        loss: called with logits and labels; None is LV-UNet's.
        optimizer: called with the parameters; None is LV-UNet's.
        lr_scheduler: called with the optimizer, stepped once an epoch; None is LV-UNet's.
    """

    stride = 16

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        multilabel: bool = False,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        starts_from: str | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler)
        self.network = MonaiUNet(self.spatial_dims, in_channels, num_classes, tuple(features))
        for level in (self.network.upcat_4, self.network.upcat_3, self.network.upcat_2, self.network.upcat_1):
            level.is_pad = False  # inputs come padded to the stride already, and padding by nothing copies them
        if starts_from is not None:
            self.load_state_dict(best_weights(Path(starts_from)))

    def setup(self, stage: str) -> None:
        """Set up as every model does, but in the plain memory format: instance norm is slower in channels last."""
        super().setup(stage)
        self.to(memory_format=torch.contiguous_format)

    def is_too_small(self, cells: Sequence[int], batch_size: int) -> bool:
        """Instance norm takes statistics of each channel of each image, also when it predicts."""
        return math.prod(cells) == 1


class VolumeUNet(BasicUNet):
    """MONAI's U-Net for volumes, by default of 5.7 M parameters, as many as MedNeXt-S has; it has one head alone.

    Args:
        in_channels: channels of the volume.
        **arguments: as of `BasicUNet`, but that None is MedNeXt's loss, optimizer and schedule.
    """

    spatial_dims = 3

    def __init__(self, in_channels: int = 1, **arguments: Any) -> None:
        super().__init__(in_channels, **arguments)
        self.preprocessing = VolumePreprocessing(channels=in_channels)

    default_loss = MedNeXt.default_loss
    default_optimizer = MedNeXt.default_optimizer
    default_lr_scheduler = MedNeXt.default_lr_scheduler
    configure_gradient_clipping = MedNeXt.configure_gradient_clipping


class SMPUNet(Baseline):
    """U-Net of segmentation-models-pytorch on LV-UNet's encoder, where that package is installed; 5.1 M parameters.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        encoder: timm's name of a MobileNetV3.
        encoder_weights: as LV-UNet takes them: "imagenet", a safetensors file, or None for random ones.
        starts_from: the folder of a finished run of this network, whose best weights it goes on from.
        loss: called with logits and labels; None is LV-UNet's.
        optimizer: called with the parameters; None is LV-UNet's.
        lr_scheduler: called with the optimizer, stepped once an epoch; None is LV-UNet's.
    """

    stride = 32

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        multilabel: bool = False,
        encoder: str = "tf_mobilenetv3_large_minimal_100",
        encoder_weights: str | None = None,
        starts_from: str | None = None,
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler)
        try:
            from segmentation_models_pytorch import Unet
        except ImportError:
            raise MissingError("SMPUNet needs another package: pip install segmentation-models-pytorch") from None
        self.network = Unet(f"tu-{encoder}", encoder_weights=None, in_channels=in_channels, classes=num_classes)
        if encoder_weights is not None:
            load_encoder_weights(self.network.encoder.model, encoder, encoder_weights, in_channels)
        if starts_from is not None:
            self.load_state_dict(best_weights(Path(starts_from)))


def best_weights(run: Path) -> dict[str, Tensor]:
    """Those of a run's best epoch.

    Raises:
        MissingError: It has none yet.
    """
    if not (run / BEST).is_file():
        raise MissingError(
            f"{run} holds no {BEST} to start from: train it first, python benchmarks/train_queue.py {run.name}"
        )
    return torch.load(run / BEST, map_location="cpu", weights_only=True)["state_dict"]
