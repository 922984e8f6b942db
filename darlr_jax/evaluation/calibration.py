"""Calibration of a world model, and its error where the log is thick and thin.

Measured on held-out logged rows and, apart from them, on the true test matrix. The
second is analysis: no training and no choice of a configuration may read it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from darlr_jax.data import logs
from darlr_jax.data.dataset import Dataset
from darlr_jax.evaluation import errors
from darlr_jax.types import WorldModelTables

_BINS = 5  # of users by their logged rows, and of items by theirs
_MOST_CELLS = 1 << 20  # measured; of more than these a sample, evenly drawn
_SEED = 2022  # of the sample


class Cells(NamedTuple):
    """Observed cells of the environment."""

    users: np.ndarray  # [N] int, row of the tables
    items: np.ndarray  # [N] int, column of the tables
    observed: np.ndarray  # [N] float


def calibration_report(
    dataset: Dataset, world_model: WorldModelTables, *, predicts_variance: bool = True
) -> dict:
    """What `calibration.json` holds; not-a-number where there is nothing to measure.

    Args:
      dataset: the data.
      world_model: its tables.
      predicts_variance: whether its loss taught it any.

    Returns:
      `held_out` and `true_matrix`, each with `cells` (measured) of `available`;
      `same_unit`, whether errors can be told in units of the reward; `fit` (see
      `errors.fit`, with `pair_accuracy`); `mean` (`errors.calibration_curve`);
      `by_user_activity` and `by_item_popularity`, a row a bin of logged rows; and of a
      variance that is predicted, where the unit is the same, `variance`
      (`errors.variance_curve`), `coverage` and `z_score` (mean, root mean square).
      `held_out` has also the rows `outside` the environment, which the tables do not
      hold. Without cells nothing is measured. And `variance_shares` (see
      `errors.variance_shares`) of the `prediction` and of the `true_matrix`.
    """
    counts = logged_rows(dataset)
    held_out, outside = held_out_cells(dataset)
    truth = sampled_cells(dataset.true_reward)
    same_unit = labels_are_rewards(dataset)
    measure = functools.partial(
        _measure,
        world_model=world_model,
        counts=counts,
        predicts_variance=predicts_variance,
    )
    return {
        "held_out": {"available": len(held_out.users), "outside": outside}
        | measure(_sample(held_out), same_unit=True),
        "true_matrix": {"available": dataset.true_reward.size}
        | measure(truth, same_unit=same_unit),
        "variance_shares": {
            "prediction": errors.variance_shares(world_model.prediction),
            "true_matrix": errors.variance_shares(dataset.true_reward),
        },
    }


def labels_are_rewards(dataset: Dataset) -> bool:
    """Whether the world model predicts in the unit that evaluation pays.

    On KuaiRec it does not: labels are z-scores there, rewards watch ratios.
    """
    return np.array_equal(dataset.log.labels, dataset.log.rewards)


def logged_rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the log of every environment user `[U]` and item `[I]`."""
    users = np.bincount(dataset.log.users, minlength=dataset.num_logged_users)
    items = np.bincount(dataset.log.items, minlength=dataset.num_logged_items)
    return users[dataset.environment_users], items[dataset.environment_items]


def held_out_cells(dataset: Dataset) -> tuple[Cells, int]:
    """The held-out labels of environment cells, and how many rows are of no such cell.

    A cell that was met twice counts twice.
    """
    log = dataset.held_out
    known_users = logs.positions(dataset.environment_users, dataset.num_logged_users)
    known_items = logs.positions(dataset.environment_items, dataset.num_logged_items)
    users, items = known_users[log.users], known_items[log.items]
    inside = (users >= 0) & (items >= 0)
    cells = Cells(users[inside], items[inside], log.labels[inside])
    return cells, int(np.sum(~inside))


def sampled_cells(matrix: np.ndarray) -> Cells:
    """Cells of `matrix [U, I]`: all, or so many drawn with replacement."""
    if matrix.size > _MOST_CELLS:
        flat = np.random.default_rng(_SEED).integers(matrix.size, size=_MOST_CELLS)
    else:
        flat = np.arange(matrix.size)
    users, items = np.divmod(flat, matrix.shape[1])
    return Cells(users, items, matrix[users, items])


def _sample(cells: Cells) -> Cells:
    count = len(cells.users)
    if count <= _MOST_CELLS:
        return cells
    rows = np.random.default_rng(_SEED).integers(count, size=_MOST_CELLS)
    return Cells(*(column[rows] for column in cells))


def _measure(
    cells: Cells,
    *,
    same_unit: bool,
    world_model: WorldModelTables,
    counts: tuple[np.ndarray, np.ndarray],
    predicts_variance: bool,
) -> dict[str, Any]:
    users, items, observed = cells
    if not len(users):
        return {"cells": 0, "same_unit": same_unit}
    predicted = world_model.prediction[users, items]
    variance = world_model.variance[users, items]
    by_user, by_item = (errors.quantile_bins(count, _BINS) for count in counts)

    def measure(chosen: np.ndarray | slice) -> errors.Row:
        row = errors.fit(predicted[chosen], observed[chosen], same_unit)
        accuracy = errors.pair_accuracy(
            predicted[chosen], observed[chosen], users[chosen]
        )
        return row | {"pair_accuracy": accuracy}

    def by(bins: errors.Bins, ids: np.ndarray) -> list[errors.Row]:
        index = bins.bin_of[ids]
        return [
            {"low": int(low), "high": int(high)} | measure(index == n)
            for n, (low, high) in enumerate(zip(bins.low, bins.high, strict=True))
        ]

    report: dict[str, Any] = {
        "cells": len(users),
        "same_unit": same_unit,
        "fit": measure(slice(None)),
        "mean": errors.calibration_curve(predicted, observed),
        "by_user_activity": by(by_user, users),
        "by_item_popularity": by(by_item, items),
    }
    if same_unit and predicts_variance:
        scores = errors.z_scores(predicted, variance, observed)
        report |= {
            "variance": errors.variance_curve(predicted, variance, observed),
            "coverage": errors.coverage(predicted, variance, observed),
            "z_score": {
                "mean": float(np.mean(scores)),
                "root_mean_square": float(np.sqrt(np.mean(scores**2))),
            },
        }
    return report
