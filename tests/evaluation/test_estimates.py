"""estimates.py against a loop over the cells."""

from __future__ import annotations

import math

import numpy as np
import pytest

from darlr_jax.evaluation.estimates import (
    Estimates,
    count_visits,
    estimate_errors,
)

RNG = np.random.default_rng(3)
TRUTH = RNG.integers(1, 4, (6, 5)).astype(np.float32)
ACTIVITY = np.array([1, 1, 2, 2, 9, 9])
USERS, ITEMS = RNG.integers(0, 6, 80), RNG.integers(0, 5, 80)
CELLS = list(zip(USERS, ITEMS, strict=True))


def report(same_unit=True):
    visits = count_visits(USERS, ITEMS, TRUTH.shape)
    values = {
        "exact": TRUTH[USERS, ITEMS],
        "noisy": TRUTH[USERS, ITEMS] + RNG.normal(size=80),
    }
    estimates = Estimates(USERS, ITEMS, visits[USERS, ITEMS], values)
    units = dict.fromkeys(values, same_unit)
    return estimates, estimate_errors(estimates, TRUTH, ACTIVITY, units)


def test_visits_are_counted():
    visits = count_visits(np.array([1, 1, 0]), np.array([2, 2, 0]), (2, 3))
    assert visits.tolist() == [[1, 0, 0], [0, 0, 2]]


def test_errors_are_those_of_a_loop():
    estimates, found = report()
    assert found["cells"] == 80
    assert found["overall"]["exact"] == {
        "count": 80, "mae": 0.0, "bias": 0.0, "rank_correlation": pytest.approx(1.0)
    }  # fmt: skip
    keys = {
        "by_true_reward": TRUTH[USERS, ITEMS],
        "by_user_activity": ACTIVITY[USERS],
        "by_visits": np.array(
            [np.sum((u == USERS) & (i == ITEMS)) for u, i in CELLS],
        ),
    }
    error = np.abs(estimates.values["noisy"] - TRUTH[USERS, ITEMS])
    for name, key in keys.items():
        counts = 0
        for row in found[name]:
            inside = (key >= row["low"]) & (key <= row["high"])
            fit = row["estimators"]["noisy"]
            assert fit["mae"] == pytest.approx(np.mean(error[inside]))
            assert fit["count"] == np.sum(inside)
            counts += fit["count"]
        assert counts == 80
    assert [row["low"] for row in found["by_true_reward"]] == [1, 2, 3]
    assert [row["high"] for row in found["by_user_activity"]] == [1, 2, 9]


def test_another_unit_has_no_error():
    _, found = report(same_unit=False)
    assert math.isnan(found["overall"]["noisy"]["mae"])
    assert 0 < found["overall"]["noisy"]["rank_correlation"] < 1
