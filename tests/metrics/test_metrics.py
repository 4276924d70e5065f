"""Metrics against torchmetrics and MONAI where they agree, and against numbers worked out by hand where they do not."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from segzoo.errors import SegzooError
from segzoo.metrics.functional import confusion, dice_score, hausdorff_distance95, precision_score, recall_score
from segzoo.metrics.metric import METRICS, Dice, HausdorffDistance95, IoU, Precision, Recall, metric_class
from segzoo.metrics.per_image import image_scores

TASKS = {"binary": (1, False), "multiclass": (4, False), "multilabel": (3, True)}
OVERLAP = ("dice", "iou", "precision", "recall")


def example(task: str, images: int = 5, size: tuple[int, ...] = (9, 11), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random masks in which every class is there, but for the last image, which is empty in target and prediction."""
    num_classes, multilabel = TASKS[task]
    g = torch.Generator().manual_seed(seed)
    shape = (images, num_classes, *size) if multilabel else (images, *size)
    high = 2 if multilabel else max(num_classes, 2)
    prediction, target = (torch.randint(0, high, shape, generator=g) for _ in range(2))
    prediction[-1] = target[-1] = 0
    return prediction, target.float() if multilabel else target


def planes(masks: Tensor, task: str) -> Tensor:
    """One bool channel per foreground class, [B, K', *S]."""
    num_classes, multilabel = TASKS[task]
    if multilabel:
        return masks == 1
    return torch.stack([masks == k for k in range(1, max(num_classes, 2))], dim=1)


def computed(name: str, task: str, prediction: Tensor, target: Tensor, **arguments: Any) -> float:
    num_classes, multilabel = TASKS[task]
    metric = METRICS[name](num_classes=num_classes, multilabel=multilabel, **arguments)
    metric.update(prediction, target)
    return metric.compute().item()


# Four images of 1 x 8 pixels, by hand:      tp fp fn   Dice  IoU
#   1  hit                                    4  0  0   1     1
#   2  half                                   2  2  2   1/2   1/3
#   3  target empty, something predicted      0  1  0   0     0
#   4  target empty, nothing predicted        0  0  0   ?     ?
FOUR_TARGETS = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0], [0] * 8, [0] * 8])
FOUR_PREDICTIONS = torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0], [1] + [0] * 7, [0] * 8])


@pytest.mark.parametrize(
    ("name", "aggregation", "empty", "wanted"),
    [
        ("dice", "image", "one", (1 + 1 / 2 + 0 + 1) / 4),
        ("dice", "image", "zero", (1 + 1 / 2 + 0 + 0) / 4),
        ("dice", "image", "skip", (1 + 1 / 2 + 0) / 3),
        ("dice", "dataset", "one", 12 / 17),
        ("iou", "image", "one", (1 + 1 / 3 + 0 + 1) / 4),
        ("iou", "dataset", "skip", 6 / 11),
        ("precision", "image", "one", (1 + 1 / 2 + 0 + 1) / 4),
        ("precision", "dataset", "one", 6 / 9),
        ("recall", "image", "one", (1 + 1 / 2 + 0 + 1) / 4),
        ("recall", "image", "skip", (1 + 1 / 2 + 0) / 3),
        ("recall", "dataset", "one", 6 / 8),
    ],
)
def test_four_predictions(name: str, aggregation: Any, empty: Any, wanted: float) -> None:
    metric = METRICS[name](aggregation=aggregation, empty=empty)
    for prediction, target in zip(FOUR_PREDICTIONS, FOUR_TARGETS, strict=True):
        metric.update(prediction[None], target[None])
    assert metric.compute().item() == pytest.approx(wanted, abs=1e-7)
    assert metric.compute().dtype == torch.float32
    assert metric.images == 4
    assert metric.empty_images.tolist() == [1]


def test_undefined_ratios(refused) -> None:
    """Nothing predicted, nothing there, neither: (tp, fp, fn) = (0, 0, 3), (0, 3, 0), (0, 0, 0)."""
    tp, fp, fn = torch.tensor([0, 0, 0]), torch.tensor([0, 3, 0]), torch.tensor([3, 0, 0])
    for score in (precision_score, recall_score, dice_score):
        assert score(tp, fp, fn).tolist() == [0, 0, 1]
        assert score(tp, fp, fn, "zero").tolist() == [0, 0, 0]
        assert score(tp, fp, fn, "skip").isnan().tolist() == [False, False, True]
    with refused(SegzooError):
        dice_score(tp, fp, fn, "nan")  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("size", [(9, 11), (4, 5, 6)])
def test_confusion_counts_pixels(task: str, size: tuple[int, ...]) -> None:
    prediction, target = example(task, size=size)
    num_classes, multilabel = TASKS[task]
    tp, fp, fn = confusion(prediction, target, num_classes, multilabel)
    p, t = planes(prediction, task).flatten(2), planes(target, task).flatten(2)
    assert tp.equal((p * t).sum(2))
    assert (tp + fp).equal(p.sum(2))
    assert (tp + fn).equal(t.sum(2))
    assert tp.dtype == torch.int64


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_torchmetrics_per_image(task: str, seed: int) -> None:
    from torchmetrics.functional import classification as tm

    prediction, target = example(task, seed=seed)
    theirs = {
        "dice": tm.binary_f1_score,
        "iou": tm.binary_jaccard_index,
        "precision": tm.binary_precision,
        "recall": tm.binary_recall,
    }
    p, t = (planes(m, task)[:-1].long() for m in (prediction, target))  # on the empty image they have their own ideas
    for name, function in theirs.items():
        wanted = torch.stack([function(a, b) for i in range(len(p)) for a, b in zip(p[i], t[i], strict=True)]).mean()
        assert computed(name, task, prediction[:-1], target[:-1]) == pytest.approx(wanted.item(), abs=1e-6)
        assert computed(name, task, prediction, target, empty="skip") == pytest.approx(wanted.item(), abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_torchmetrics_dice_score(task: str) -> None:
    """Its per-image mean drops images that are empty in both; pooled over the dataset there is nothing to drop."""
    from torchmetrics.segmentation import DiceScore

    prediction, target = example(task)
    p, t = planes(prediction, task), planes(target, task)
    for level, aggregation in (("samplewise", "image"), ("global", "dataset")):
        theirs = DiceScore(p.shape[1], average="macro", aggregation_level=level, input_format="one-hot")
        wanted = theirs(p.long(), t.long()).item()
        ours = computed("dice", task, prediction, target, aggregation=aggregation, empty="skip")
        assert ours == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_agrees_with_monai(task: str) -> None:
    from monai.metrics import compute_dice, compute_iou

    prediction, target = example(task)
    p, t = planes(prediction, task), planes(target, task)
    for name, function in (("dice", compute_dice), ("iou", compute_iou)):
        skipped = function(p, t, ignore_empty=True)
        assert computed(name, task, prediction, target, empty="skip") == pytest.approx(
            skipped.nanmean().item(), abs=1e-6
        )
        ones = function(p, t, ignore_empty=False)
        assert computed(name, task, prediction, target, empty="one") == pytest.approx(ones.mean().item(), abs=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning:monai")
@pytest.mark.parametrize("spacing", [None, (0.5, 2.0)])
@pytest.mark.parametrize("task", TASKS)
def test_hausdorff_agrees_with_monai(task: str, spacing: tuple[float, ...] | None) -> None:
    from monai.metrics import compute_hausdorff_distance

    num_classes, multilabel = TASKS[task]
    prediction, target = example(task)
    prediction, target = prediction[:-1], target[:-1]
    p, t = planes(prediction, task), planes(target, task)
    wanted = compute_hausdorff_distance(p, t, include_background=True, percentile=95, spacing=spacing)
    ours = hausdorff_distance95(prediction, target, num_classes, multilabel, spacing=spacing)
    torch.testing.assert_close(ours, wanted.double(), rtol=0, atol=1e-5)
    metric = HausdorffDistance95(num_classes, multilabel=multilabel, spacing=spacing)
    metric.update(prediction, target)
    assert metric.compute().item() == pytest.approx(wanted.mean().item(), abs=1e-5)


def test_hausdorff_by_hand() -> None:
    """Two points 3 down and 4 right of each other; then one or both masks empty, on a 6 x 8 image (diagonal 10)."""
    target, prediction = torch.zeros(4, 6, 8).long(), torch.zeros(4, 6, 8).long()
    target[0, 1, 1] = prediction[0, 4, 5] = 1
    target[1, 1, 1] = prediction[2, 1, 1] = 1
    assert hausdorff_distance95(prediction, target).flatten().tolist() == [5, 10, 10, 0]
    assert hausdorff_distance95(prediction, target, spacing=(2, 1)).flatten().tolist() == pytest.approx(
        [math.hypot(6, 4), math.hypot(12, 8), math.hypot(12, 8), 0]
    )
    assert computed("hd95", "binary", prediction, target) == pytest.approx(25 / 4)
    assert computed("hd95", "binary", prediction, target, empty="skip") == pytest.approx(25 / 3)
    volume = torch.zeros(1, 3, 4, 12).long()
    assert hausdorff_distance95(volume + 1, volume).item() == 13


def test_hausdorff_refuses_what_it_cannot_mean(refused) -> None:
    with refused(SegzooError):
        HausdorffDistance95(aggregation="dataset")
    with refused(SegzooError):
        HausdorffDistance95(empty="zero")
    mask = torch.zeros(1, 6, 8).long()
    with refused(SegzooError):
        hausdorff_distance95(mask, mask, spacing=(1, 1, 1))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("task", TASKS)
def test_ignored_pixels_are_in_no_mask(task: str, name: str) -> None:
    prediction, target = example(task)
    target[..., :4] = -1
    wanted = computed(name, task, prediction[..., 4:], target[..., 4:])
    assert computed(name, task, prediction, target) == pytest.approx(wanted, abs=1e-6)
    target[...] = -1  # all ignored: every image counts as empty in both
    assert computed(name, task, prediction, target) == (0 if name == "hd95" else 1)
    assert math.isnan(computed(name, task, prediction, target, empty="skip"))


@pytest.mark.parametrize("aggregation", ["image", "dataset"])
@pytest.mark.parametrize("empty", ["one", "zero", "skip"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OVERLAP)
def test_parts_merge_to_the_whole(name: str, task: str, empty: Any, aggregation: Any) -> None:
    """To the last bit, in any order and any sizes of batches, as processes under DDP would sum them."""
    num_classes, multilabel = TASKS[task]
    prediction, target = example(task, images=7)
    parts = [METRICS[name](num_classes, multilabel=multilabel, empty=empty, aggregation=aggregation) for _ in range(3)]
    whole, first, second = parts
    whole.update(prediction, target)
    for i in (6, 2, 0):
        first.update(prediction[i : i + 1], target[i : i + 1])
    second.update(prediction[[5, 4, 1, 3]], target[[5, 4, 1, 3]])
    second.merge_state(first)
    assert second.compute().equal(whole.compute())
    assert second.per_class().equal(whole.per_class())
    assert second.empty_images.equal(whole.empty_images)
    assert second.images == 7


@pytest.mark.parametrize("aggregation", ["image", "dataset"])
def test_two_processes(aggregation: Any) -> None:
    """DDP with the other process played by a gather function; this one has seen no image, the other all."""
    prediction, target = example("multiclass")
    other = Dice(4, aggregation=aggregation)
    other.update(prediction, target)

    def synced() -> Dice:
        states = iter(other.metric_state.values())
        return Dice(
            4,
            aggregation=aggregation,
            distributed_available_fn=lambda: True,
            dist_sync_fn=lambda state, group: [state, next(states)],
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compute before update
        assert synced().compute().equal(other.compute())
    assert synced().per_class().equal(other.per_class())
    here = synced()
    with here.sync_context(dist_sync_fn=here.dist_sync_fn):
        assert here.empty_images.tolist() == [1, 1, 1]
    assert here.empty_images.tolist() == [0, 0, 0]


@pytest.mark.parametrize("name", OVERLAP)
def test_image_mean_is_over_images_then_classes(name: str) -> None:
    """Class 1 is in two images, class 2 in one, class 3 in none: with "skip" the classes weigh the same."""
    target = torch.tensor([[1, 1, 0, 0], [1, 0, 2, 2]])
    prediction = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]])
    metric = METRICS[name](4, empty="skip")
    metric.update(prediction, target)
    assert metric.per_class()[:2].tolist() == [1, 0]
    assert metric.per_class()[2].isnan()
    assert metric.compute() == 0.5
    assert metric.empty_images.tolist() == [0, 1, 2]


@pytest.mark.parametrize("aggregation", ["image", "dataset"])
def test_nothing_seen_is_nan(aggregation: Any) -> None:
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert Dice(3, aggregation=aggregation).compute().isnan()


def test_reset_and_forward() -> None:
    metric = IoU()
    assert metric(FOUR_PREDICTIONS[1:2], FOUR_TARGETS[1:2]).item() == pytest.approx(1 / 3)
    assert metric(FOUR_PREDICTIONS[:1], FOUR_TARGETS[:1]).item() == 1
    assert metric.compute().item() == pytest.approx(2 / 3)
    with torch.inference_mode():
        metric.reset()
    metric.update(FOUR_PREDICTIONS[:1], FOUR_TARGETS[:1])
    assert metric.compute() == 1


def test_states_survive_half_precision() -> None:
    metric = Dice().half().to(torch.bfloat16)
    for _ in range(300):
        metric.update(FOUR_PREDICTIONS[1:2], FOUR_TARGETS[1:2])
    assert metric.compute() == 0.5


def test_compute_groups_do_not_mix_metrics_up() -> None:
    """A first batch on which all metrics agree must not make torchmetrics share the sums of different ones."""
    from torchmetrics import MetricCollection

    metrics = {"dice": Dice(), "iou": IoU(), "skip": Dice(empty="skip"), "pooled": IoU(aggregation="dataset")}
    collection = MetricCollection(dict(metrics), compute_groups=True)
    for i in range(4):
        collection.update(FOUR_PREDICTIONS[i : i + 1], FOUR_TARGETS[i : i + 1])
    values = {name: value.item() for name, value in collection.compute().items()}
    assert values == pytest.approx({"dice": 5 / 8, "iou": 7 / 12, "skip": 1 / 2, "pooled": 6 / 11}, abs=1e-6)


def test_protocols_are_stable_words() -> None:
    """Model cards quote them."""
    assert Dice().protocol == "per-image mean, foreground classes, an empty mask predicted empty counts 1"
    assert IoU(3, empty="skip").protocol == (
        "per-image mean, foreground classes, an empty mask predicted empty is left out"
    )
    assert Recall(3, multilabel=True, aggregation="dataset", empty="zero").protocol == (
        "pixels pooled over the dataset, all labels, a class in neither targets nor predictions counts 0"
    )
    assert Precision().protocol == Dice().protocol
    assert HausdorffDistance95(spacing=(1, 0.5)).protocol == (
        "per-image mean in mm at spacing 1 x 0.5, foreground classes, an empty mask predicted empty counts 0, "
        "one empty of the two counts the image's diagonal"
    )


@pytest.mark.parametrize("task", TASKS)
def test_image_scores_average_to_the_metric(task: str) -> None:
    num_classes, multilabel = TASKS[task]
    prediction, target = example(task)
    rows = image_scores(prediction, target, num_classes, multilabel, tuple(METRICS))
    assert len(rows) == len(target)
    for name in METRICS:
        mean = sum(row[name] for row in rows) / len(rows)
        assert mean == pytest.approx(computed(name, task, prediction, target), abs=1e-6)
    classes = {"binary": [], "multiclass": [1, 2, 3], "multilabel": [0, 1, 2]}[task]
    assert set(rows[0]) == {*METRICS, *(f"{name}_{k}" for name in METRICS for k in classes)}
    if classes:
        p, t = planes(prediction, task)[0, -1], planes(target, task)[0, -1]
        wanted = 2 * (p & t).sum() / (p.sum() + t.sum())
        assert rows[0][f"dice_{classes[-1]}"] == pytest.approx(wanted.item(), abs=1e-6)


def test_unknown_names(refused) -> None:
    mask = torch.zeros(1, 2, 2).long()
    with refused(SegzooError):
        image_scores(mask, mask, names=("dise",))
    with refused(SegzooError):
        metric_class("accuracy")
    assert metric_class("iou") is IoU
    with refused(SegzooError):
        Dice(aggregation="micro")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prediction", "target", "arguments"),
    [
        (torch.zeros(1, 4, 4), torch.zeros(1, 4, 4).long(), {}),
        (torch.zeros(1, 4, 4).long(), torch.zeros(1, 4, 5).long(), {}),
        (torch.zeros(1, 4, 4).long(), torch.full((1, 4, 4), 255), {}),
        (torch.full((1, 4, 4), 3), torch.zeros(1, 4, 4).long(), {"num_classes": 3}),
        (torch.zeros(1, 2, 4).long(), torch.zeros(1, 2, 4), {"num_classes": 3, "multilabel": True}),
        (torch.zeros(1, 2, 4).long(), torch.full((1, 2, 4), 0.5), {"num_classes": 2, "multilabel": True}),
    ],
)
def test_bad_masks_are_one_clear_error(prediction: Tensor, target: Tensor, arguments: dict, refused) -> None:
    with refused(SegzooError):
        Dice(**arguments).update(prediction, target)
