"""Intervals of means and the paired test: by hand, by theory, and beside SciPy's."""

import numpy as np
import pytest
from scipy import stats

from segzoo.metrics.statistics import RESAMPLES, holm, interval, paired_p


def test_an_interval_holds_the_mean_and_shrinks_with_more_images():
    values = np.random.default_rng(0).beta(8, 2, size=900)
    widths = []
    for images in (25, 225, 900):
        low, high = interval(values[:images])
        assert low < values[:images].mean() < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 3.5 * widths[2]
    # of a mean, so close to the textbook's
    assert widths[2] == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.05)
    assert interval(values) == interval(values)
    assert interval(np.full(10, 0.7)) == pytest.approx((0.7, 0.7))


def test_intervals_hold_the_truth_nineteen_times_in_twenty():
    draws = np.random.default_rng(1).exponential(size=(400, 60))
    held = [low < 1 < high for low, high in map(interval, draws)]
    assert 0.88 < np.mean(held) < 0.98


def test_images_of_a_group_count_together():
    frames = np.repeat(np.random.default_rng(4).beta(8, 2, size=6), 20)  # of six sequences, all alike
    groups = np.repeat(np.arange(6), 20)
    widths = [high - low for low, high in (interval(frames, each) for each in (groups, None))]
    assert widths[0] > 3 * widths[1]
    assert interval(frames, np.arange(120)) == pytest.approx(interval(frames))
    # 2 of the 2^6 ways to give six sequences their signs are as far from 0
    assert paired_p(frames, groups) == pytest.approx(2 / 64, abs=0.01)
    assert paired_p(frames) < 0.001


def test_equal_scores_give_p_of_one():
    assert paired_p(np.zeros(40)) == 1
    assert paired_p(np.array([0.1, -0.1] * 20)) == 1  # not only where every difference is 0


def test_p_is_that_of_all_signs():
    # 2 of the 2^4 ways to give four ones their signs are as far from 0 as all alike
    assert paired_p(np.ones(4)) == pytest.approx(2 / 16, abs=0.01)
    assert paired_p(-np.ones(4)) == paired_p(np.ones(4))
    assert paired_p(np.ones(40)) == 1 / (1 + RESAMPLES)


def test_p_is_that_of_scipy():
    drawn = np.random.default_rng(2)
    for shift in (0, 0.2, 0.5):
        differences = drawn.standard_t(3, size=12) + shift
        exact = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf)
        assert paired_p(differences) == pytest.approx(exact.pvalue, abs=0.02)


def test_holm_by_hand():
    # sorted 0.01 x 4, 0.015 x 3, 0.03 x 2, 0.04 x 1: the last may not fall below the one before
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
