"""DiceCELoss against formulas written out by hand, MONAI's losses, and its promises about ignored labels."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from segzoo.training.losses import DiceCELoss


def paper_loss(logits: Tensor, label: Tensor) -> float:
    """0.5 BCE + soft Dice per sample, as CMUNeXt and LV-UNet train: pixel by pixel, in plain Python."""
    entropies, dices = [], []
    for sample, mask in zip(logits, label, strict=True):
        overlap = total = 0.0
        for x, t in zip(sample.flatten().tolist(), mask.flatten().tolist(), strict=True):
            p = 1 / (1 + math.exp(-x))
            entropies.append(-math.log(p) if t else -math.log(1 - p))
            overlap += p * t
            total += p + t
        dices.append((2 * overlap + 1e-5) / (total + 1e-5))
    return 0.5 * sum(entropies) / len(entropies) + 1 - sum(dices) / len(dices)


def example(task: str, size: tuple[int, ...] = (7, 5), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random float64 logits and a label for a batch of 3."""
    g = torch.Generator().manual_seed(seed)
    channels = 1 if task == "binary" else 4
    logits = torch.randn(3, channels, *size, generator=g, dtype=torch.float64) * 2
    if task == "multilabel":
        return logits, torch.randint(0, 2, logits.shape, generator=g).double()
    return logits, torch.randint(0, max(channels, 2), (3, *size), generator=g)


def test_the_papers_loss() -> None:
    logits, label = example("binary")
    label[2] = 0  # an image without a lesion
    assert DiceCELoss(ce_weight=0.5)(logits, label).item() == pytest.approx(paper_loss(logits, label), abs=1e-12)


def test_hand_computed_multiclass() -> None:
    logits = torch.log(torch.tensor([[[0.5, 0.1], [0.25, 0.8], [0.25, 0.1]]], dtype=torch.float64))  # [1, 3, 2]
    label = torch.tensor([[1, 1]])
    entropy = -(math.log(0.25) + math.log(0.8)) / 2
    dice_1 = (2 * 1.05 + 1e-5) / (1.05 + 2 + 1e-5)
    dice_2 = 1e-5 / (0.35 + 1e-5)
    assert DiceCELoss()(logits, label).item() == pytest.approx(entropy + 1 - (dice_1 + dice_2) / 2, abs=1e-12)
    dice_0 = 1e-5 / (0.6 + 1e-5)
    with_background = DiceCELoss(ce_weight=0, include_background=True)(logits, label).item()
    assert with_background == pytest.approx(1 - (dice_0 + dice_1 + dice_2) / 3, abs=1e-12)


@pytest.mark.parametrize("batch_dice", [False, True])
def test_agrees_with_nnunet(golden_file: Callable[[str], Path], batch_dice: bool) -> None:
    """Cross-entropy - Dice without the background at five scales; ours is the same + 1."""
    tensors, kind = load_file(golden_file("nnunet_v1_dc_ce_ds_loss.safetensors")), f"batchdice{int(batch_dice)}"
    for scale in range(5):
        logits, label = tensors[f"logits/{scale}"], tensors[f"target/{scale}"][:, 0].long()
        dice = DiceCELoss(ce_weight=0, batch_dice=batch_dice)(logits, label)
        torch.testing.assert_close(dice - 1, tensors[f"dice_{kind}/{scale}"].squeeze(), rtol=1e-5, atol=1e-5)
        entropy = DiceCELoss(dice_weight=0)(logits, label)
        torch.testing.assert_close(entropy, tensors[f"ce/{scale}"].squeeze(), rtol=1e-5, atol=1e-5)
        loss = DiceCELoss(batch_dice=batch_dice)(logits, label)
        torch.testing.assert_close(loss - 1, tensors[f"loss_{kind}/{scale}"].squeeze(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("size", [(7, 5), (3, 4, 5)])
def test_agrees_with_monai(task: str, size: tuple[int, ...], batch_dice: bool) -> None:
    from monai.losses import DiceCELoss as MonaiDiceCELoss
    from monai.losses import DiceLoss

    logits, label = example(task, size)
    ours = DiceCELoss(0.3, 0.7, batch_dice=batch_dice)(logits, label)
    if task == "multilabel":  # MONAI's joint loss would take a softmax over the channels
        dice = DiceLoss(sigmoid=True, batch=batch_dice)(logits, label)
        wanted = 0.3 * torch.nn.BCEWithLogitsLoss()(logits, label) + 0.7 * dice
    else:
        softmax = task == "multiclass"
        theirs = MonaiDiceCELoss(
            include_background=not softmax,
            to_onehot_y=softmax,
            softmax=softmax,
            sigmoid=not softmax,
            batch=batch_dice,
            lambda_ce=0.3,
            lambda_dice=0.7,
        )
        wanted = theirs(logits, label.unsqueeze(1).to(logits.dtype))
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_ignored_pixels_count_nowhere(task: str, batch_dice: bool) -> None:
    """Cutting ignored columns off, or a whole ignored sample, changes nothing; nor do their logits."""
    logits, label = example(task)
    loss = DiceCELoss(batch_dice=batch_dice)
    wanted = loss(logits[:2, ..., :3], label[:2, ..., :3])
    label[..., 3:] = -1
    label[2] = -1
    torch.testing.assert_close(loss(logits, label), wanted)
    logits.requires_grad_()
    loss(logits, label).backward()
    assert logits.grad is not None
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[..., 3:].abs().max() == 0
    assert logits.grad[:2, ..., :3].abs().min() > 0


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_all_ignored_is_zero_with_a_graph(task: str) -> None:
    logits, label = example(task)
    logits.requires_grad_()
    loss = DiceCELoss()(logits, torch.full_like(label, -1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_a_class_ignored_in_one_sample_of_a_multilabel_task() -> None:
    """Partly annotated data: what nobody labelled must not dilute the mean."""
    logits, label = example("multilabel")
    label[:, 1] = -1
    keep = [0, 2, 3]
    torch.testing.assert_close(DiceCELoss()(logits, label), DiceCELoss()(logits[:, keep], label[:, keep]))


def test_binary_and_one_multilabel_channel_are_the_same() -> None:
    logits, label = example("binary")
    torch.testing.assert_close(DiceCELoss()(logits, label), DiceCELoss()(logits, label.unsqueeze(1).double()))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_gradients(task: str) -> None:
    logits, label = example(task, (3, 2))
    label[0, ..., 0] = -1
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: DiceCELoss()(x, label), (logits,))


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_perfect_is_zero_and_wrong_is_not(task: str) -> None:
    logits, label = example(task)
    if task == "multiclass":
        perfect = torch.nn.functional.one_hot(label, 4).movedim(-1, 1) * 80.0
    else:
        perfect = (label.reshape(logits.shape) * 2 - 1) * 80.0
    assert DiceCELoss()(perfect, label).item() == pytest.approx(0, abs=1e-6)
    assert DiceCELoss()(-perfect, label).item() > 10


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_half_precision_is_summed_in_float32(task: str, half: torch.dtype) -> None:
    """512 x 512 probabilities sum to more than float16 holds."""
    logits, label = example(task, (512, 512))
    logits = logits.to(half)
    wanted = DiceCELoss()(logits.double(), label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = DiceCELoss()(logits, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("logits", "label", "says"),
    [
        ((2, 1, 8, 8), torch.zeros(2, 8, 4, dtype=torch.long), "need an integer label"),
        ((2, 1, 8, 8), torch.zeros(1, 8, 8, dtype=torch.long), "need an integer label"),
        ((2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.long), "need an integer label"),
        ((2, 3, 8, 8), torch.zeros(2, 8, 8), "for multi-label masks, a float label"),
        ((2, 1, 8, 8), torch.full((2, 8, 8), 255), "value 255.*highest is 1"),
        ((2, 3, 8, 8), torch.full((2, 8, 8), 3), "value 3.*highest is 2"),
        ((2, 3, 8, 8), torch.full((2, 3, 8, 8), 2.0), "value 2.*highest is 1"),
    ],
)
def test_bad_labels_are_one_clear_error(logits: tuple[int, ...], label: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DiceCELoss()(torch.zeros(logits), label)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="smooth"):
        DiceCELoss(smooth=0)
    with pytest.raises(ValueError, match="weights"):
        DiceCELoss(ce_weight=-0.5)
    with pytest.raises(ValueError, match="weights"):
        DiceCELoss(ce_weight=0, dice_weight=0)
