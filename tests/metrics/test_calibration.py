"""Calibration and doubt: errors by torchmetrics, the band by another way, images alike, and ranks by their pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

import segzoo.metrics.calibration as module
from segzoo.metrics.calibration import BAND, BINS, Curves, bands, calibration
from segzoo.metrics.doubt import worth
from segzoo.metrics.reliability import draw_curves, write_curves
from segzoo.metrics.score_file import read_image_scores


def case(classes: int, shape: tuple[int, ...] = (30, 40), seed: int = 0):
    """Probabilities [K, *S] that are too sure, their mask and a truth with pixels that are not looked at."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(classes, *shape))
    p = 1 / (1 + np.exp(-logits)) if classes == 1 else np.exp(logits) / np.exp(logits).sum(0)
    mask = (p[0] > 0.5).astype(int) if classes == 1 else p.argmax(0)
    truth = np.where(random.random(shape) < 0.7, mask, random.integers(0, max(2, classes), shape))
    truth[:3] = -1
    return p.astype(np.float32), mask, truth


@pytest.mark.parametrize("shape", [(30, 40), (7, 30, 20)])
def test_errors_are_those_of_torchmetrics_whatever_the_slab(shape, monkeypatch):
    p, mask, truth = case(1, shape)
    expected = binary_calibration_error(torch.tensor(p[0]), torch.tensor(truth), BINS, "l1", ignore_index=-1)
    several, *labels = case(4, shape)
    known = {"num_classes": 4, "n_bins": BINS, "norm": "l1", "ignore_index": -1}
    of_several = multiclass_calibration_error(torch.tensor(several)[None], torch.tensor(labels[1])[None], **known)
    whole = calibration(p, mask, truth).scores
    assert whole["ece"] == pytest.approx(expected.item(), abs=1e-6)
    assert calibration(several, *labels).scores["ece"] == pytest.approx(of_several.item(), abs=1e-6)
    monkeypatch.setattr(module, "SLAB", 5 * math.prod(shape[1:]))
    assert calibration(p, mask, truth).scores == pytest.approx(whole)


def test_masks_that_overlap_are_looked_at_each_by_itself():
    (p, mask, truth), (q, other, target) = case(1), case(1, seed=1)
    both = calibration(np.concatenate([p, q]), np.stack([mask, other]), np.stack([truth, target])).scores
    alone = [calibration(*one).scores for one in ((p, mask, truth), (q, other, target))]
    assert both == pytest.approx({name: (alone[0][name] + alone[1][name]) / 2 for name in both})


def test_the_band_is_ten_pixels_on_each_side_of_both_boundaries(monkeypatch):
    truth, mask = np.zeros((2, 64, 80), int)
    truth[20:40, 30:50] = 1
    mask[25:50, 30:50] = 1
    truth[:, 78:] = -1  # beside which there is no boundary
    offsets = np.indices((2 * BAND + 1,) * 2) - BAND
    disc = (offsets**2).sum(0) < BAND**2
    edges = np.zeros(truth.shape, bool)
    for label in truth.clip(0), mask:
        for axis in 0, 1:
            step = np.diff(label, axis=axis) != 0
            for side in (0, 1), (1, 0):
                edges |= np.pad(step, [side if axis == other else (0, 0) for other in (0, 1)])
    expected = binary_dilation(edges, disc)
    monkeypatch.setattr(module, "SLAB", 7 * 80)
    assert (np.concatenate([band for _, band in bands(mask, truth)]) == expected).all()
    empty = np.zeros((1, 8, 8))
    assert math.isnan(calibration(empty, empty[0].astype(int), empty[0].astype(int)).scores["ece_boundary"])


def test_images_count_alike_in_the_curves(tmp_path):
    curves, sure = Curves(), np.full((1, 10, 10), 0.99, np.float32)
    curves.add(calibration(sure, np.ones((10, 10), int), np.ones((10, 10), int)))
    curves.add(calibration(sure[:, :2, :2], np.ones((2, 2), int), np.zeros((2, 2), int)))
    write_curves(curves, tmp_path / "curves.csv")
    last = read_image_scores(tmp_path / "curves.csv")[-1]
    assert [float(last[name]) for name in ("share_all", "probability_all", "right_all")] == [1, 0.99, 0.5]
    pytest.importorskip("matplotlib")
    draw_curves(curves, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("failing", "words"), [(8, "Dice below 0.5 (8 of 30)"), (7, "the worst tenth (3 of 30)")])
def test_doubt_is_worth_the_pairs_that_it_orders(failing, words):
    random = np.random.default_rng(0)
    dice = np.concatenate([random.uniform(0, 0.49, failing), random.uniform(0.5, 1, 30 - failing)])
    doubts = (1 - dice + random.normal(0, 0.3, 30)).round(1)
    bad = dice < 0.5 if failing == 8 else dice <= np.sort(dice)[2]
    pairs = [(one > other) + (one == other) / 2 for one in doubts[bad] for other in doubts[~bad]]
    found = worth(doubts, dice)
    assert found.failed == words
    assert found.auroc == pytest.approx(np.mean(pairs))
    assert -1 < found.spearman < 0
    assert worth(np.zeros(30), dice).scores == {"doubt_auroc": 0.5}  # a constant has no ranks
