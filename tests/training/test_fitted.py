"""Losses of torch and MONAI on real images, in each task: they learn, ignore what has no label, or are refused."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.losses
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

import segzoo
from segzoo.data import BUSI
from segzoo.errors import SegzooError
from segzoo.imaging.volumes import read_volume, read_volume_mask
from segzoo.tasks import Task
from segzoo.training.fitted import INSTEAD, KNOWN, fitted, kind_of
from segzoo.training.losses import DiceCELoss, deep_supervision_loss

TASKS = {"binary": Task(), "multi-class": Task(3), "multi-label": Task(2, multilabel=True)}
DISTANCES = torch.tensor([[0, 1, 1], [1, 0, 0.5], [1, 0.5, 0]])
MADE: dict[str, Callable[[], nn.Module]] = {  # those that need arguments
    "monai.GeneralizedWassersteinDiceLoss": lambda: monai.losses.GeneralizedWassersteinDiceLoss(DISTANCES),
    "monai.NACLLoss": lambda: monai.losses.NACLLoss(3, 2),
    "monai.DeepSupervisionLoss": lambda: monai.losses.DeepSupervisionLoss(monai.losses.DiceLoss()),
    "monai.MaskedLoss": lambda: monai.losses.MaskedLoss(monai.losses.DiceLoss()),
    "monai.MultiScaleLoss": lambda: monai.losses.MultiScaleLoss(monai.losses.DiceLoss()),
    "monai.SSIMLoss": lambda: monai.losses.SSIMLoss(2),
}
OTHERS = ["torch.MSELoss", "torch.MultiLabelSoftMarginLoss", "torch.CTCLoss"]
OTHERS += ["monai.SSIMLoss", "monai.MultiScaleLoss", "monai.ContrastiveLoss", "monai.BarlowTwinsLoss"]
NAMES = [*KNOWN, *INSTEAD, *OTHERS]


def made(name: str, **options: Any) -> nn.Module:
    package, _, short = name.partition(".")
    home = nn if package == "torch" else monai.losses
    if not hasattr(home, short):
        pytest.skip(f"this version of {package} has no {short}")
    return MADE[name]() if name in MADE else getattr(home, short)(**options)


@pytest.fixture(scope="module")
def batches(samples: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Two ultrasound images, and two slices of hippocampi as two classes or two masks; a few columns are ignored."""
    batch = next(iter(BUSI(samples, split="all", image_size=32, augmentation=[], batch_size=2).val_dataloader()))
    volumes = sorted((samples / "Task04_Hippocampus").glob("imagesTr/*.nii.gz"))[:2]
    image = torch.stack([middle(torch.from_numpy(read_volume(file).array[0]).float()) for file in volumes])
    masks = [read_volume_mask(file.parents[1] / "labelsTr" / file.name)[0] for file in volumes]
    label = torch.stack([middle(torch.from_numpy(mask.astype(int))) for mask in masks])
    assert label.unique().tolist() == [0, 1, 2]
    image = ((image - image.mean()) / image.std())[:, None].expand(-1, 3, -1, -1)
    both = torch.stack([label == 1, label == 2], dim=1).float()
    found = {
        "binary": (batch["image"], batch["label"].clone()),
        "multi-class": (image, label),
        "multi-label": (image, both),
    }
    for _, one in found.values():
        one[..., -3:] = -1
    return found


def middle(volume: Tensor) -> Tensor:
    """A slice of a hippocampus, where both of its parts are."""
    return volume[volume.shape[0] // 2, 4:36, 4:32]


class Net(segzoo.SegmentationModule):
    """Three convolutions."""

    def __init__(self, task: Task, loss: nn.Module | None) -> None:
        super().__init__(3, task.num_classes, task.multilabel, loss=loss)
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
            nn.Conv2d(8, task.num_classes, 1),
        )

    def compute_logits(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def default_optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.01)

    def default_lr_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        return ConstantLR(optimizer, 1.0), "epoch"


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_learns_from_real_images_or_is_refused_by_name(name, kind, batches):
    loss, task = made(name), TASKS[kind]
    if name not in KNOWN or kind not in KNOWN[name].tasks:
        with pytest.raises(SegzooError, match=rf"{name.replace('.', chr(39) + 's ')} "):
            Net(task, loss)
        return
    torch.manual_seed(0)
    model, (image, label) = Net(task, loss), batches[kind]
    optimizer = model.default_optimizer(model.parameters())
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "single channel")  # MONAI's word for a flag that means nothing
        for _ in range(6):
            optimizer.zero_grad()
            logits = model(image)
            logits.retain_grad()
            step = model.compute_loss(logits, label)
            assert step.ndim == 0
            step.backward()
            assert (logits.grad[..., -3:] == 0).all()  # ignored
            assert (logits.grad[..., :-3] != 0).any()
            optimizer.step()
            found.append(step.item())
    assert found[-1] < found[0]
    assert model.compute_loss(logits.detach().bfloat16(), label).dtype == torch.float32


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", [name for name, wanted in KNOWN.items() if not wanted.by_place])
def test_ignored_pixels_are_as_if_they_were_not_there(name, kind, batches):
    if kind not in KNOWN[name].tasks:
        return
    loss, (image, label) = fitted(made(name), TASKS[kind]), batches[kind]
    logits = Net(TASKS[kind], None)(image).detach()
    torch.testing.assert_close(loss(logits, label), loss(logits[..., :-3], label[..., :-3]))
    none = torch.full_like(label, -1)
    assert loss(logits.requires_grad_(), none).item() == 0


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("name", KNOWN)
def test_deep_supervision_pads_and_shrinks_what_a_loss_sees(name, kind, batches):
    if kind not in KNOWN[name].tasks:
        return
    task, (image, label) = TASKS[kind], batches[kind]
    height, width = (-(-side // 16) * 16 + 16 for side in image.shape[2:])
    generator = torch.Generator().manual_seed(0)
    shapes = [(len(image), task.num_classes, height // scale, width // scale) for scale in (1, 4)]
    outputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    deep_supervision_loss(fitted(made(name), task), outputs, label).backward()
    for output in outputs:
        assert output.grad.isfinite().all()
        assert (output.grad[..., -1] == 0).all()
        assert (output.grad != 0).any()


def test_a_loss_is_what_it_is_in_its_own_package(batches):
    """With the label and the flags that its documentation asks for, computed by hand."""
    sigmoid = {"sigmoid": True, "include_background": True}  # which in these tasks no channel is
    options = {"binary": sigmoid, "multi-label": sigmoid, "multi-class": {"softmax": True, "to_onehot_y": True}}
    shorts = ("DiceLoss", "DiceFocalLoss", "GeneralizedDiceLoss", "TverskyLoss", "HausdorffDTLoss", "DiceCELoss")
    for kind, flags in options.items():
        image, label = (one[..., :-3] for one in batches[kind])
        logits = Net(TASKS[kind], None)(image).detach()
        own = label if kind == "multi-label" else label[:, None].float()
        for name in (f"monai.{short}" for short in shorts if kind in KNOWN[f"monai.{short}"].tasks):
            wanted = made(name, **flags)(logits, own)
            for given in ({}, flags):
                torch.testing.assert_close(fitted(made(name, **given), TASKS[kind])(logits, label), wanted)
    image, label = (one[..., :-3] for one in batches["multi-class"])
    logits = Net(TASKS["multi-class"], None)(image).detach()
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 2.0, 3.0]), label_smoothing=0.1)
    torch.testing.assert_close(fitted(weighted, TASKS["multi-class"])(logits, label), weighted(logits, label))
    image, label = (one[..., :-3] for one in batches["multi-label"])
    logits = Net(TASKS["multi-label"], None)(image).detach()
    wanted = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0, 5.0])[:, None, None])(logits, label)
    for weights in (torch.tensor([2.0, 5.0]), torch.tensor([2.0, 5.0])[:, None, None]):
        found = fitted(nn.BCEWithLogitsLoss(pos_weight=weights), TASKS["multi-label"])(logits, label)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("torch.CrossEntropyLoss", {"weight": torch.ones(4)}, "multi-class"),
        ("torch.CrossEntropyLoss", {"reduction": "none"}, "multi-class"),
        ("torch.BCEWithLogitsLoss", {"pos_weight": torch.ones(3)}, "multi-label"),
        ("monai.DiceLoss", {"softmax": True}, "multi-label"),
        ("monai.FocalLoss", {"use_softmax": True}, "binary"),
        ("monai.DiceFocalLoss", {"weight": [1.0, 2.0]}, "multi-class"),
        ("monai.GeneralizedWassersteinDiceLoss", {}, "four classes"),
    ],
)
def test_options_that_fit_no_such_model_are_refused_before_the_training(name, options, kind, refused):
    with refused(SegzooError):
        fitted(made(name, **options), TASKS.get(kind, Task(4)))


def test_classes_that_are_ignored_apart_are_refused_where_they_cannot_be(batches, refused):
    image, label = batches["multi-label"]
    label = label.clone()
    label[:, 1] = -1
    logits = Net(TASKS["multi-label"], None)(image).detach()
    fitted(nn.BCEWithLogitsLoss(), TASKS["multi-label"])(logits, label)
    with refused(SegzooError):
        fitted(monai.losses.DiceLoss(), TASKS["multi-label"])(logits, label)


WEIGHTS = {
    "binary": torch.tensor([[0.6, 3.0]]),
    "multi-class": torch.tensor([0.4, 2.0, 5.0]),
    "multi-label": torch.tensor([[0.6, 3.0], [0.5, 20.0]]),
}


def test_class_weights_are_those_of_the_losses_own(batches):
    """What a loss of its own weights computes, and by hand where it has a factor for the foreground alone."""
    torch.manual_seed(0)
    weights = WEIGHTS["multi-class"]
    for name, options in {
        "torch.CrossEntropyLoss": {"weight": weights},
        "monai.DiceCELoss": {"weight": weights, "include_background": False},
        "monai.DiceFocalLoss": {"weight": weights},
    }.items():
        shared = {key: value for key, value in options.items() if key != "weight"}
        loss, label = fitted(made(name, **shared), TASKS["multi-class"]), batches["multi-class"][1]
        loss.weigh(weights)
        logits = torch.randn(len(label), 3, *label.shape[1:])
        wanted = fitted(made(name, **options), TASKS["multi-class"])(logits, label)
        torch.testing.assert_close(loss(logits, label), wanted)
    for kind in ("binary", "multi-label"):
        label = batches[kind][1].reshape(len(batches[kind][1]), TASKS[kind].num_classes, *batches[kind][1].shape[-2:])
        logits = torch.randn(label.shape)
        entropies = nn.functional.binary_cross_entropy_with_logits(logits, label.clamp(min=0).float(), reduction="none")
        absent, present = WEIGHTS[kind].T[..., None, None]
        valid = label >= 0
        wanted = (entropies * torch.where(label > 0, present, absent))[valid].mean()
        for loss in (fitted(nn.BCEWithLogitsLoss(), TASKS[kind]), DiceCELoss(dice_weight=0)):
            loss.weigh(WEIGHTS[kind])
            torch.testing.assert_close(loss(logits, batches[kind][1]), wanted)
    label, own = batches["multi-class"][1], DiceCELoss(dice_weight=0)
    logits = torch.randn(len(label), 3, *label.shape[1:])
    own.weigh(weights)
    entropies = nn.functional.cross_entropy(logits, label, weights, ignore_index=-1, reduction="none")
    torch.testing.assert_close(own(logits, label), entropies[label >= 0].mean())


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("monai.HausdorffDTLoss", {}, "multi-class"),
        ("monai.DiceLoss", {}, "binary"),
        ("torch.BCEWithLogitsLoss", {"pos_weight": torch.ones(1)}, "binary"),
    ],
)
def test_class_weights_are_refused_where_a_loss_takes_none_or_has_some(name, options, kind, refused):
    with refused(SegzooError):
        fitted(made(name, **options), TASKS[kind]).weigh(WEIGHTS[kind])


def test_a_loss_of_somebodys_own_is_called_in_the_zoos_form():
    class Own(monai.losses.DiceLoss):
        def forward(self, logits: Tensor, label: Tensor) -> Tensor:
            return super().forward(logits.sigmoid(), label[:, None].float())

    own = Own()
    assert fitted(own, Task()) is own
    assert isinstance(Net(Task(), None)._loss[0], DiceCELoss)


def test_a_loss_that_was_given_is_not_changed():
    given = monai.losses.DiceLoss()
    fitted(given, Task(3))
    assert (given.softmax, given.to_onehot_y) == (False, False)


def test_every_task_has_its_word():
    assert {name: kind_of(task) for name, task in TASKS.items()} == {name: name for name in TASKS}
