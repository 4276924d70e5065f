"""LV-UNet: a light U-Net on a pretrained MobileNetV3-Large, whose own blocks fuse after training.

Paper: "LV-UNet: A Lightweight and Vanilla Model for Medical Image Segmentation", BIBM 2024,
https://arxiv.org/abs/2408.16886. The original code (juntaoJianggavin/LV-UNet) has no licence; this is an
independent implementation that computes the same function.

The idea: train with more layers than are used afterwards. Between each two 1x1 convolutions stands a leaky ReLU whose
slope λ goes from 0, an ordinary ReLU, to 1, the identity: there the two convolutions are one, and are made one.

Where this differs from the original, on purpose: λ ends at exactly 1 and is stored with the weights (the
original ends at 0.995 and forgets it, so that its fused network is not the one it trained), any input size,
number of channels and of classes is taken, and the deployed form can be built and loaded directly.
"""

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, cast

import timm
import torch
import torch.nn.functional as F
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from segzoo.errors import MissingError, SegzooError
from segzoo.models._timm_weights import load_encoder_weights
from segzoo.module import SegmentationModule
from segzoo.network import Feature
from segzoo.nn.fuse import ActivatedConv2d, can_join, fold_norm
from segzoo.nn.normed_product import normed_product
from segzoo.preprocessing.image import Preprocessing
from segzoo.registry import register
from segzoo.training.losses import DiceCELoss
from segzoo.training.schedules import cosine_decay

if TYPE_CHECKING:  # jsonargparse reads this, too; predictions do without what the module imports
    from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

ENCODER_WIDTHS = (24, 40, 80)  # of the skips at 1/4, 1/8 and 1/16
EXPANDING_PAIRS = (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3"))  # timm's names in an inverted residual
SEPARABLE_PAIRS = (("conv_dw", "bn1"), ("conv_pw", "bn2"))  # and in the first block, which does not expand
ENCODER_NORM_EPS = 1e-3
TAPS = (2, 5, 9)  # the layers whose outputs those are, the stem being layer 0
WIDTHS = (160, 240, 480)  # of LV-UNet's own encoder blocks at 1/32, 1/64 and 1/128
FUSED_EPOCHS = 0.1  # the last tenth of the epochs trains the network that will be fused (λ = 1)


class MobileNetV3Encoder(nn.Module):
    """Stem and first nine blocks of a timm MobileNetV3-Large, under timm's own names.

    The paper's taps do not end where timm's stages do, hence the blocks are cut here: layers 1-2 (24
    channels, 1/4), 3-5 (40, 1/8) and 6-9 (80, 1/16).
    """

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise MissingError(f"timm has no model {name!r} to take as encoder; mobilenetv3_large_100 is the paper's")
        if "mobilenetv3" not in name:
            raise SegzooError(f"encoder {name!r} is not a MobileNetV3-Large; mobilenetv3_large_100 is the paper's")
        # the paper's batch norm (torchvision's); timm's default is eps 1e-5 and momentum 0.1
        whole: Any = timm.create_model(name, in_chans=in_channels, bn_eps=ENCODER_NORM_EPS, bn_momentum=0.01)
        blocks: Any = getattr(whole, "blocks", ())
        widths = [blocks[stage][-1].conv_pwl.out_channels for stage in (1, 2, 3)] if len(blocks) == 7 else []
        if widths != [*ENCODER_WIDTHS] or len(blocks[3]) < 3 or not hasattr(whole, "bn1"):
            raise SegzooError(
                f"encoder {name!r} is not a MobileNetV3-Large of widths 24, 40 and 80; take mobilenetv3_large_100 or "
                "tf_mobilenetv3_large_minimal_100"
            )
        self.conv_stem, self.bn1 = whole.conv_stem, whole.bn1
        self.blocks = nn.Sequential(*blocks[:3], blocks[3][:3])

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv_stem(x))  # timm's norm layers hold their activation
        taps = []
        layers = (layer for stage in self.blocks for layer in stage.children())
        for number, layer in enumerate(layers, start=1):
            x = layer(x)
            if number in TAPS:
                taps.append(x)
        return taps

    def fuse(self) -> None:
        """Fold every norm into the convolution before it, in place."""
        fuse_pairs(self, ("conv_stem", "bn1"))
        for block in (block for stage in self.blocks for block in stage.children()):
            expanding = hasattr(block, "conv_pwl")
            fuse_pairs(block, *(EXPANDING_PAIRS if expanding else SEPARABLE_PAIRS))


def fuse_pairs(layers: nn.Module, *pairs: tuple[str, str]) -> None:
    """Fold norms of a timm module, in place; each holds the activation after it, which is joined where it can be."""
    for conv_name, norm_name in pairs:
        conv, norm = getattr(layers, conv_name), getattr(layers, norm_name)
        folded = fold_norm(conv, norm).to(conv.weight)
        setattr(layers, conv_name, ActivatedConv2d(folded, norm.act) if can_join(folded, norm.act) else folded)
        setattr(layers, norm_name, nn.Identity() if can_join(folded, norm.act) else norm.act)


class SeriesActivation(nn.Module):
    """VanillaNet's activation: ReLU, then a depthwise 3x3 convolution and its batch norm (section 3.2).

    The ReLU overwrites its input, since at full size a further tensor costs more time than the ReLU does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels, bias=False)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)
        self.norm: nn.Module = nn.BatchNorm2d(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.before_norm(x))

    def before_norm(self, x: Tensor) -> Tensor:
        """Compute all but the norm."""
        return self.conv(F.relu(x, inplace=True))

    def fuse(self) -> None:
        """Fold the norm into the convolution, in place."""
        assert isinstance(self.norm, nn.BatchNorm2d)
        self.conv = fold_norm(self.conv, self.norm).to(self.conv.weight)
        self.norm = nn.Identity()


class FusibleBlock(nn.Module):
    """Two 1x1 convolutions with an annealed activation between them, a change of size, a series activation.

    At λ = 1 the activation between is the identity, and :meth:`fuse` makes one convolution of the two.
    """

    def __init__(self, in_channels: int, out_channels: int, resample: Literal["down", "up"]) -> None:
        super().__init__()
        self.conv: nn.Module = AnnealedPair(in_channels, out_channels)
        self.resample = nn.MaxPool2d(2) if resample == "down" else nn.Upsample(scale_factor=2, mode="bilinear")
        self.activation = SeriesActivation(out_channels)

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        return self.activation.norm(self.before_norm(x, slope))

    def before_norm(self, x: Tensor, slope: Tensor) -> Tensor:
        """Compute all but the last norm."""
        x = self.conv(x, slope) if isinstance(self.conv, AnnealedPair) else self.conv(x)
        return self.activation.before_norm(self.resample(x))

    def fuse(self) -> None:
        """Replace the block's layers by their fused form, in place; exact at λ = 1."""
        assert isinstance(self.conv, AnnealedPair)
        self.conv = self.conv.fused()
        self.activation.fuse()


class AnnealedPair(nn.Module):
    """1x1 convolution, norm, leaky ReLU of slope λ, 1x1 convolution, norm (deep training, section 3.3)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, in_channels, kernel_size=1)
        self.norm1 = nn.BatchNorm2d(in_channels, eps=1e-6)
        self.conv2 = nn.Conv2d(in_channels, out_channels, kernel_size=1)
        self.norm2 = nn.BatchNorm2d(out_channels, eps=1e-6)

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x))
        x = torch.lerp(F.relu(x), x, slope.to(x.dtype))  # a leaky ReLU, and exactly x where the slope is 1
        return self.norm2(self.conv2(x))

    def fused(self) -> nn.Conv2d:
        """Make the one convolution that the pair is at λ = 1."""
        first, second = fold_norm(self.conv1, self.norm1), fold_norm(self.conv2, self.norm2)
        assert first.bias is not None
        assert second.bias is not None
        matrix = second.weight.flatten(1)
        fused = nn.Conv2d(first.in_channels, second.out_channels, kernel_size=1)
        fused.weight = nn.Parameter((matrix @ first.weight.flatten(1))[:, :, None, None])
        fused.bias = nn.Parameter(matrix @ first.bias + second.bias)
        return fused.to(self.conv1.weight)


class LVUNet(SegmentationModule):
    """LV-UNet (section 3 of the paper).

    Its state holds λ, the slope of the annealed activations, in ``deep_training_lambda``: 0 at the start,
    raised by :meth:`deep_training_schedule` while training, exactly 1 from 90 % of the epochs on. A model
    that starts from λ = 1 (a published checkpoint) stays there.

    Args:
        in_channels: channels of the image.
        num_classes: channels of the logits; 1 is binary.
        multilabel: every class is a mask of its own.
        encoder: timm's name of a MobileNetV3-Large of the usual widths; the paper's is the default.
        encoder_weights: "imagenet" fetches timm's weights of that name from the Hub, a path reads a
            safetensors file of the whole timm model, None starts at random.
        deep_training: anneal λ from 0 to 1; without it λ stays where it is and the model cannot be fused.
        deployed: build the fused form, empty, for loading a deployed model's state.
        loss: called with logits and labels; None is the paper's 0.5 cross-entropy + Dice.
        optimizer: called with the parameters; None is the paper's Adam (1e-3, weight decay 1e-4).
        lr_scheduler: called with the optimizer, stepped once an epoch; None is the paper's cosine to 1e-5.
        frozen_epochs: epochs for which the encoder, MobileNetV3's layers, stays as it is, or "forever".

    Example:
        >>> import torch, segzoo
        >>> model = segzoo.LVUNet(in_channels=1, num_classes=4).eval()
        >>> model(torch.zeros(1, 1, 50, 70)).shape
        torch.Size([1, 4, 50, 70])
    """

    stride = 128
    int8_files = (".onnx",)
    deep_training_lambda: Tensor

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        multilabel: bool = False,
        encoder: str = "mobilenetv3_large_100",
        encoder_weights: str | None = None,
        deep_training: bool = True,
        deployed: bool = False,
        loss: nn.Module | None = None,
        optimizer: "OptimizerCallable | None" = None,
        lr_scheduler: "LRSchedulerCallable | None" = None,
        frozen_epochs: int | Literal["forever"] = 0,
    ) -> None:
        super().__init__(in_channels, num_classes, multilabel, loss, optimizer, lr_scheduler, frozen_epochs)
        self.deep_training = deep_training
        self.encoder_name = encoder
        self.encoder = MobileNetV3Encoder(encoder, in_channels)
        if encoder_weights is not None:
            load_encoder_weights(self.encoder, encoder, encoder_weights, in_channels)
        self.preprocessing = encoder_preprocessing(encoder, in_channels)

        widths = (ENCODER_WIDTHS[-1], *WIDTHS)  # 80, 160, 240, 480
        self.down = nn.ModuleList(
            FusibleBlock(wide, wider, "down") for wide, wider in zip(widths, WIDTHS, strict=False)
        )
        up_widths = (*reversed(WIDTHS), *reversed(ENCODER_WIDTHS), 16, 16)  # 480 ... 80, 40, 24, 16, 16
        self.up = nn.ModuleList(FusibleBlock(wide, narrow, "up") for wide, narrow in pairwise(up_widths))
        self.head = nn.Conv2d(16, num_classes, kernel_size=1)
        self.register_buffer("deep_training_lambda", torch.tensor(float(deployed)))
        if deployed:
            self.fuse()

    def recorded_arguments(self) -> dict[str, Any]:
        return {**super().recorded_arguments(), "encoder": self.encoder_name}

    @property
    def deployed(self) -> bool:
        """Tell whether this is the fused form."""
        return "deep_training_lambda" not in self._buffers

    @property
    def feature_info(self) -> tuple[Feature, ...]:
        return tuple(Feature(width, 4 * 2**level) for level, width in enumerate((*ENCODER_WIDTHS, *WIDTHS)))

    @property
    def slope(self) -> Tensor:
        """λ; of the fused form, whose blocks have no use for it, 1."""
        return self.head.weight.new_ones(()) if self.deployed else self.deep_training_lambda

    def compute_features(self, x: Tensor) -> list[Tensor]:
        maps, slope = self.encoder(x), self.slope
        for block in self.down:
            maps.append(block(maps[-1], slope))
        return maps

    def compute_logits(self, x: Tensor) -> Tensor:
        *skips, x = self.compute_features(x)
        slope, last = self.slope, cast(FusibleBlock, self.up[-1])
        for block in self.up[:-1]:
            x = block(x, slope)
            x = x + skips.pop() if skips else x
        return normed_product(last.before_norm(x, slope), last.activation.norm, self.head)

    def deep_training_schedule(self, epoch: int, epochs: int) -> float:
        """Return λ in epoch ``epoch`` (from 0) of ``epochs``: 1 - cos(π/2 · progress), 1 for the last tenth."""
        end = math.floor((1 - FUSED_EPOCHS) * epochs)
        return 1.0 if epoch >= end else 1 - math.cos(math.pi / 2 * epoch / end)

    def on_train_epoch_start(self) -> None:
        if self.deep_training and not self.deployed:
            self.anneal()
            self.log("deep_training_lambda", self.deep_training_lambda, on_epoch=True, on_step=False)

    def on_validation_epoch_start(self) -> None:
        # a callback that averages weights puts them here for validation, and an average of λ is none of the schedule
        if self.deep_training and not self.deployed and self.trainer.state.fn == TrainerFn.FITTING:
            self.anneal()

    def anneal(self) -> None:
        """Raise λ to this epoch's; it is never lowered, so that fine-tuning starts at 1 and stays."""
        scheduled = self.deep_training_schedule(self.current_epoch, self.total_epochs())
        self.deep_training_lambda.clamp_(min=scheduled, max=1)

    @property
    def competes_for_best(self) -> bool:
        """Only a network that will be deployed as it is may be the best one."""
        return not self.deep_training or self.is_deployable

    @property
    def is_deployable(self) -> bool:
        """Tell whether fusing keeps the function: λ = 1, or fused already."""
        return self.deployed or self.deep_training_lambda.item() == 1

    @torch.no_grad()
    def fuse(self) -> None:
        if not self.is_deployable:
            raise SegzooError(
                f"LV-UNet cannot be fused at λ = {self.deep_training_lambda.item():.4g}, since that would change what "
                "it computes; train it to the end of its deep training (λ = 1), or use it unfused"
            )
        if self.deployed:
            return
        self.encoder.fuse()
        for block in (*self.down, *self.up):
            block.fuse()
        del self.deep_training_lambda
        self.arguments = {**self.arguments, "deployed": True}

    def default_loss(self) -> nn.Module:
        return DiceCELoss(ce_weight=0.5)

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-4)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> tuple[LRScheduler, str]:
        return cosine_decay(optimizer, self.total_epochs(), lowest=1e-5), "epoch"


def encoder_preprocessing(name: str, in_channels: int) -> Preprocessing:
    """Return the normalisation that the encoder's ImageNet weights were trained with, for ``in_channels``."""
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None:
        return Preprocessing.for_channels(in_channels)
    return Preprocessing.for_channels(in_channels, pretrained.mean, pretrained.std)


@register(parameters=934_545, paper="https://arxiv.org/abs/2408.16886", pretrained="lv-unet-busi")
def lv_unet(**arguments: Any) -> LVUNet:
    """LV-UNet: a light U-Net on MobileNetV3-Large; deployed, 0.51 M parameters with the paper's encoder."""
    return LVUNet(**arguments)
