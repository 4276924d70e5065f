"""Learning rates over the steps of a training."""

import pytest
import torch

from segzoo.training.schedules import cosine_decay


@pytest.mark.parametrize(("rate", "last"), [(1e-3, 1e-5), (1e-6, 1e-6), (0.0, 0.0)])
def test_a_cosine_never_rises(rate, last):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule = cosine_decay(optimizer, 10, 1e-5)
    rates = []
    for _ in range(12):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rate
    assert rates[-1] == pytest.approx(last)
