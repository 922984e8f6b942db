"""Estimates of a reward against the true one: at visited cells, and at any others.

The question is whether chosen references know better than the user's own row or her
nearest users do. It is analysis: the truth that answers it pays the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from darlr_jax.evaluation.errors import Bins, Row, bins_from, fit, quantile_bins

_VISITS = (0, 1, 2, 5)  # first numbers of visits that share a bin
_BINS = 5


class Estimates(NamedTuple):
    """What several estimators say of the same cells."""

    users: np.ndarray  # [N] int
    items: np.ndarray  # [N] int
    visits: np.ndarray  # [N] how often the cell was recommended, 0 for others
    values: Mapping[str, np.ndarray]  # estimator -> [N]


def count_visits(users: np.ndarray, items: np.ndarray, shape: tuple) -> np.ndarray:
    """How often each cell of a table of this shape was recommended, `[U, I]` int32."""
    visits = np.zeros(shape, np.int32)
    np.add.at(visits, (users, items), 1)
    return visits


def estimate_errors(
    estimates: Estimates,
    true_reward: np.ndarray,
    activity: np.ndarray,
    same_unit: Mapping[str, bool],
) -> dict:
    """The errors of each estimator, over all cells and by bins of them.

    Args:
      estimates: the cells; one that was recommended twice counts twice.
      true_reward: `[U, I]`.
      activity: `[U]` logged rows of each user.
      same_unit: estimator -> whether it answers in the unit of the true reward; if not,
        only its ranking is measured.

    Returns:
      `cells`, their number; `overall`, estimator -> `errors.fit`; and `by_true_reward`,
      `by_user_activity`, `by_visits`: a row a bin with `low`, `high` and `estimators`,
      as overall.
    """
    users, items, visits, _ = estimates
    truth = true_reward[users, items]
    everything = np.ones(len(users), bool)
    by_user = quantile_bins(activity, _BINS)
    return {
        "cells": len(users),
        "overall": _fits(estimates, truth, same_unit, everything),
        "by_true_reward": _by(quantile_bins(truth, _BINS), estimates, truth, same_unit),
        "by_user_activity": _by(
            by_user._replace(bin_of=by_user.bin_of[users]), estimates, truth, same_unit
        ),
        "by_visits": _by(bins_from(visits, _VISITS), estimates, truth, same_unit),
    }


def _by(
    bins: Bins,
    estimates: Estimates,
    truth: np.ndarray,
    same_unit: Mapping[str, bool],
) -> list[dict]:
    return [
        {
            "low": float(low),
            "high": float(high),
            "estimators": _fits(estimates, truth, same_unit, bins.bin_of == n),
        }
        for n, (low, high) in enumerate(zip(bins.low, bins.high, strict=True))
    ]


def _fits(
    estimates: Estimates,
    truth: np.ndarray,
    same_unit: Mapping[str, bool],
    chosen: np.ndarray,
) -> dict[str, Row]:
    return {
        name: fit(values[chosen], truth[chosen], same_unit[name])
        for name, values in estimates.values.items()
    }
