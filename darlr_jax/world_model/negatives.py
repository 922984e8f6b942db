"""Training pairs: every logged row beside sampled unlogged ones (protocol 2.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from darlr_jax.data.dataset import Dataset, InteractionLog

_TRIES = 3  # redraws of a negative; the last one is accepted as it is


class TrainingPairs(NamedTuple):
    """N logged rows and K negatives of each; pair p belongs to row p mod N."""

    users: np.ndarray  # [N] int32
    items: np.ndarray  # [N] int32
    labels: np.ndarray  # [N] float32
    negative_users: np.ndarray  # [K * N] int32
    negative_items: np.ndarray  # [K * N] int32


def draw_training_pairs(
    dataset: Dataset, num_negatives: int, seed: int
) -> TrainingPairs:
    """Draws the negatives once; they stay frozen for all epochs, as published.

    A negative is a uniformly random (user, item) pair, the user drawn anew too. It is
    redrawn until its logged value (0 if unlogged) is below the positive's.
    """
    rng = np.random.default_rng(seed)
    log = dataset.log
    size = len(log) * num_negatives
    labels = np.tile(log.labels, num_negatives)
    codes, values = _logged_values(log, dataset.num_logged_items)
    users = np.empty(size, np.int32)
    items = np.empty(size, np.int32)
    pending = np.arange(size)
    for _ in range(_TRIES):
        users[pending] = rng.integers(dataset.num_logged_users, size=len(pending))
        items[pending] = rng.integers(dataset.num_logged_items, size=len(pending))
        drawn = (
            users[pending].astype(np.int64) * dataset.num_logged_items + items[pending]
        )
        pending = pending[_lookup(codes, values, drawn) >= labels[pending]]
    return TrainingPairs(log.users, log.items, log.labels, users, items)


def _logged_values(
    log: InteractionLog, num_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted cell codes and the summed labels of each logged cell."""
    codes = log.users.astype(np.int64) * num_items + log.items
    unique, inverse = np.unique(codes, return_inverse=True)
    return unique, np.bincount(inverse, log.labels, minlength=len(unique))


def _lookup(codes: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The value of each wanted cell, 0 where it was not logged."""
    slot = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
    return np.where(codes[slot] == wanted, values[slot], 0.0)
