"""Training pairs: every logged row beside random cells (protocol 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from darlr_jax.data.dataset import Dataset

_TRIES = 3  # draws of a negative; the last one is accepted as it is
_LARGEST_TABLE = 1 << 28  # cells of a table of logged values


class TrainingPairs(NamedTuple):
    """N logged rows and K negatives of each; pair p belongs to row p mod N."""

    users: np.ndarray  # [N] int32
    items: np.ndarray  # [N] int32
    labels: np.ndarray  # [N] float32
    negative_users: np.ndarray  # [K * N] int32
    negative_items: np.ndarray  # [K * N] int32
    importance: np.ndarray  # [N] float32, one over the number of rows of the item


def draw_training_pairs(
    dataset: Dataset, num_negatives: int, seed: int
) -> TrainingPairs:
    """Draws the negatives once; they stay frozen for all epochs, as published.

    A negative is a uniformly random (user, item) pair, the user drawn anew too. It is
    redrawn until its logged value (0 if unlogged) is below that of the row's pair: of
    a pair that is logged more than once, both are sums.
    """
    rng = np.random.default_rng(seed)
    log = dataset.log
    size = len(log) * num_negatives
    logged_value = _logged_values(dataset)
    highest = logged_value(_cells(log.users, log.items, dataset.num_logged_items))
    users = np.empty(size, np.int32)
    items = np.empty(size, np.int32)
    pending = np.arange(size)
    for _ in range(_TRIES):
        users[pending] = rng.integers(dataset.num_logged_users, size=len(pending))
        items[pending] = rng.integers(dataset.num_logged_items, size=len(pending))
        cells = _cells(users[pending], items[pending], dataset.num_logged_items)
        pending = pending[logged_value(cells) >= highest[pending % len(log)]]
    importance = 1.0 / np.bincount(log.items)[log.items]
    return TrainingPairs(
        log.users, log.items, log.labels, users, items, importance.astype(np.float32)
    )


def _cells(users: np.ndarray, items: np.ndarray, num_items: int) -> np.ndarray:
    return users.astype(np.int64) * num_items + items


def _logged_values(dataset: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """A function from cells to their summed labels, 0 where nothing was logged.

    A table of all cells answers far faster than a search, as long as memory allows.
    """
    log = dataset.log
    cells = _cells(log.users, log.items, dataset.num_logged_items)
    num_cells = dataset.num_logged_users * dataset.num_logged_items
    if num_cells <= _LARGEST_TABLE:
        table = np.bincount(cells, log.labels, minlength=num_cells)
        return table.astype(np.float32).__getitem__
    codes, inverse = np.unique(cells, return_inverse=True)
    sums = np.bincount(inverse, log.labels, minlength=len(codes)).astype(np.float32)

    def search(wanted: np.ndarray) -> np.ndarray:
        slot = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        return np.where(codes[slot] == wanted, sums[slot], 0.0)

    return search
